"""A move in work: what goes where, in which chunks, and which work belongs together."""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pgferry.collisions import Collision, find_collisions
from pgferry.errors import Permanent
from pgferry.foreseen import left_behind, renames, too_wide, unknown_labels
from pgferry.live.model import Capture
from pgferry.live.pairs import add_hidden_columns, live_tables, refuse_own_collations, target_schemas
from pgferry.model import Chunk, LoadedChunk, Snapshot, TablePair, TargetTable
from pgferry.pairing import Pairing, pair_tables
from pgferry.postgres.catalog import have_rows, read_tables, read_unique_keys
from pgferry.postgres.connection import Connection
from pgferry.postgres.ledger import (
    PlannedTable,
    loaded_chunks,
    plan_tables,
    planned,
    planned_chunks,
    record_renames,
)
from pgferry.settings import Rules, Settings, TableRules
from pgferry.sqlite.capture import read_capture
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import TableSample, count_rows, plan_chunks, sample_table
from pgferry.sqlite.connect import reading
from pgferry.sqlite.guard import TableRead, plan_read

UNITS = 100
"""Units a table is cut into at the most: a flow run of many more tasks keeps the Prefect server busy, not the move."""

UNIT_BYTES = 128 * 1024 * 1024
"""Bytes of a unit at the least, where a table has work enough for all: a task costs Prefect 40 ms of CPU time here."""

UNITS_IN_WORK = 8
"""Units for each degree of parallelism, which a table is cut into however small they are: while the last of them is
loaded nothing is exported beside it."""

TOGETHER = 200
"""Small tables that share one unit at the most."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Chunks that one task exports, loads or reads back, one after the other."""

    name: str
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        """Rows in all its chunks."""
        return sum(chunk.rows for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Group:
    """Tables that move together: one large table in many units, or many small ones in one."""

    name: str
    tables: tuple[str, ...]
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """Everything that a step of the move needs to know; holds no secret and can be pickled.

    `target` names the setting that holds the target's URL, never the URL itself.
    """

    run_id: int
    target: str
    snapshot: Snapshot
    staging: str
    reads: Mapping[str, TableRead]
    source_rows: Mapping[str, int]
    excluded: Mapping[str, int]
    """Excluded table -> its rows."""
    groups: tuple[Group, ...]
    sequences: Mapping[str, int]
    done: frozenset[tuple[str, int]]
    """Table and number of the chunks that an earlier try of this run has loaded."""
    notes: tuple[str, ...]
    """What a person should know before rows move."""
    accepted: frozenset[str]
    """Tables whose quarantined rows are accepted by configuration."""
    tolerated: frozenset[str] = frozenset()
    """Tables whose foreign keys may stay NOT VALID by configuration."""
    live: bool = False
    """Whether the source is captured and goes on being written to: then foreign keys wait for the switch."""

    @property
    def pairs(self) -> tuple[TablePair, ...]:
        """The table pairs, in the order in which they move."""
        return tuple(self.reads[table].pair for group in self.groups for table in group.tables)

    @property
    def targets(self) -> tuple[TargetTable, ...]:
        """The target tables, in the same order."""
        return tuple(pair.target for pair in self.pairs)

    @property
    def rows(self) -> int:
        """Rows of the source that are to move."""
        return sum(self.source_rows[table] for table in self.reads)

    def only(self, tables: Iterable[str]) -> Move:
        """Return what the work on the rows of some tables needs to know: small, to be carried to another process.

        It has no groups, and so neither pairs nor rows.
        """
        kept = frozenset(tables)
        return replace(
            self,
            reads={table: read for table, read in self.reads.items() if table in kept},
            source_rows={table: rows for table, rows in self.source_rows.items() if table in kept},
            excluded={},
            groups=(),
            sequences={},
            done=frozenset(place for place in self.done if place[0] in kept),
            notes=(),
        )


@dataclass(frozen=True, slots=True)
class _Measured:
    pair: TablePair
    sample: TableSample
    chunks: tuple[Chunk, ...]

    @property
    def bytes(self) -> float:
        return self.sample.rows * self.sample.average_bytes

    def is_small(self, rows: int) -> bool:
        return not self.chunks or (len(self.chunks) == 1 and self.sample.rows < rows)


async def prepare(
    connection: Connection, run_id: int, snapshot: Snapshot, settings: Settings, rules: Rules, target: str
) -> Move:
    """Pair tables and columns, cut the chunks, and write the plan into the ledger; no row moves.

    Idempotent: on a run that has a plan, its chunks are used again. Raises UsageError naming everything that does not
    fit, Permanent when a target table holds rows that this run did not load, or rows of the source collide under a
    unique key of the target.
    """
    with reading(Path(snapshot.path)) as source:
        catalog = read_catalog(source)
        targets = await read_tables(connection, await target_schemas(connection, rules))
        pairing = pair_tables(catalog, targets, rules)
        capture = read_capture(source)
        if capture is not None:
            pairing = await _kept_level(connection, pairing, capture)
        done = await loaded_chunks(connection, run_id)
        await _refuse_foreign_rows(connection, pairing, done)
        colliding = await _collisions(connection, source, pairing)
        known = _by_table(await planned_chunks(connection, run_id))
        measured = [_measure(source, pair, settings, known) for pair in pairing.pairs]
        excluded = {item.table: count_rows(source, catalog.table(item.table)) for item in pairing.excluded}
        notes = (
            *left_behind(catalog),
            *unknown_labels(source, pairing.pairs),
            *too_wide(source, pairing.pairs),
            *colliding,
        )
    await record_renames(connection, run_id, renames(pairing.pairs))
    await plan_tables(connection, run_id, _planned(measured), [chunk for item in measured for chunk in item.chunks])
    return Move(
        run_id=run_id,
        target=target,
        snapshot=snapshot,
        staging=f"{settings.staging_url.rstrip('/')}/run-{run_id}-{snapshot.sha256[:8]}",
        reads={item.pair.source.name: plan_read(item.pair, item.sample) for item in measured},
        source_rows={item.pair.source.name: item.sample.rows for item in measured},
        excluded=excluded,
        groups=_groups(measured, settings),
        sequences=dict(catalog.sequences),
        done=frozenset(done),
        notes=notes,
        accepted=accepted_tables(rules),
        tolerated=tolerated_tables(rules),
        live=capture is not None,
    )


async def _kept_level(connection: Connection, pairing: Pairing, capture: Capture) -> Pairing:
    """Return the pairing with hidden columns for the tables whose rows cannot be found again otherwise."""
    refuse_own_collations(pair.source for pair in pairing.pairs)
    tables = live_tables(pairing.pairs, capture)
    await add_hidden_columns(connection, tables)
    return replace(pairing, pairs=tuple(table.pair for table in tables))


def unrecorded(snapshot: Snapshot, pairs: Sequence[TablePair], settings: Settings, folder: str) -> Move:
    """Return a move that no ledger knows of: only the export of its units can be run, into `folder`."""
    with reading(Path(snapshot.path)) as source:
        measured = [_measure(source, pair, settings, {}) for pair in pairs]
    return Move(
        run_id=0,
        target="",
        snapshot=snapshot,
        staging=folder,
        reads={item.pair.source.name: plan_read(item.pair, item.sample) for item in measured},
        source_rows={item.pair.source.name: item.sample.rows for item in measured},
        excluded={},
        groups=_groups(measured, settings),
        sequences={},
        done=frozenset(),
        notes=(),
        accepted=frozenset(),
    )


def rules_fingerprint(rules: Rules) -> str:
    """Return a digest of the rules: a run that was begun with others cannot be continued with these.

    What is accepted at the end changes nothing that moves, and the order of the tables means nothing.
    """
    end = {"accept_quarantined": False, "orphans": "refuse"}
    moving = {name: rule.model_copy(update=end) for name, rule in rules.tables.items()}
    tables = {name: rule for name, rule in sorted(moving.items()) if rule != TableRules()}
    # Without `orphans`, which runs that were begun before there was such a rule do not have in theirs.
    text = rules.model_copy(update={"tables": tables}).model_dump_json(exclude={"tables": {"__all__": {"orphans"}}})
    return hashlib.sha256(text.encode()).hexdigest()


def accepted_tables(rules: Rules) -> frozenset[str]:
    """Return the tables whose quarantined rows are accepted."""
    return frozenset(name for name, rule in rules.tables.items() if rule.accept_quarantined)


def tolerated_tables(rules: Rules) -> frozenset[str]:
    """Return the tables whose foreign keys may stay NOT VALID."""
    return frozenset(name for name, rule in rules.tables.items() if rule.orphans == "not_valid")


def _measure(
    source: sqlite3.Connection, pair: TablePair, settings: Settings, known: Mapping[str, tuple[Chunk, ...]]
) -> _Measured:
    sample = sample_table(source, pair.source)
    chunks = known.get(pair.source.name) or plan_chunks(
        source, pair.source, sample, rows=settings.chunk_rows, size=settings.chunk_bytes
    )
    return _Measured(pair, sample, chunks)


async def _refuse_foreign_rows(
    connection: Connection, pairing: Pairing, loaded: Mapping[tuple[str, int], LoadedChunk]
) -> None:
    ours = {table for table, _ in loaded}
    others = [pair.target for pair in pairing.pairs if pair.source.name not in ours]
    filled = zip(others, await have_rows(connection, others), strict=True)
    foreign = [f"{target.schema}.{target.name}" for target, has_rows in filled if has_rows]
    if foreign:
        raise Permanent(
            f"The target already has rows that this run did not load, in {', '.join(sorted(foreign))}.",
            "Nothing was changed. Empty these tables, exclude them in pgferry.toml, or choose another database.",
            tables=tuple(foreign),
        )


async def _collisions(connection: Connection, source: sqlite3.Connection, pairing: Pairing) -> tuple[str, ...]:
    """Refuse rows that collide for certain under a unique key of the target; return notes on those that may."""
    keys = await read_unique_keys(connection, [pair.target.oid for pair in pairing.pairs])
    found = find_collisions(source, pairing.pairs, keys, thorough=False)
    collisions = [item for item in found if isinstance(item, Collision)]
    certain = [str(item) for item in collisions if item.certain]
    if certain:
        raise Permanent(
            f"Rows of the source collide under unique keys of the target: {'; '.join(certain)}.",
            "Nothing was moved. Correct these rows in the source and begin anew with --restart; or drop the key in the "
            "target and run the same command again.",
            collisions=tuple(certain),
        )
    return tuple(f"these collide where the target's locale finds them equal: {item}" for item in collisions)


def _planned(measured: Iterable[_Measured]) -> list[PlannedTable]:
    return [planned(item.pair, item.sample.rows, fingerprint=_pair_fingerprint(item.pair)) for item in measured]


def _pair_fingerprint(pair: TablePair) -> str:
    shape = [(column.source.name, column.target.name, column.target.type, column.target.not_null, column.rule)
             for column in pair.columns]  # fmt: skip
    return hashlib.sha256(repr(shape).encode("utf-8", "surrogatepass")).hexdigest()


def _by_table(chunks: Iterable[Chunk]) -> dict[str, tuple[Chunk, ...]]:
    found: dict[str, tuple[Chunk, ...]] = {}
    for chunk in sorted(chunks, key=lambda chunk: (chunk.table, chunk.number)):
        found[chunk.table] = (*found.get(chunk.table, ()), chunk)
    return found


def _groups(measured: Sequence[_Measured], settings: Settings) -> tuple[Group, ...]:
    """Return the groups, the one with the most bytes first, so that the longest work begins first."""
    ordered = sorted(measured, key=lambda item: (-item.bytes, item.pair.source.name))
    limit = settings.chunk_rows // 4
    small = [item for item in ordered if item.is_small(limit)]
    large = [item for item in ordered if not item.is_small(limit)]
    least = UNITS if settings.task_runner != "threads" else UNITS_IN_WORK * settings.parallelism
    return tuple(_large_group(item, least) for item in large) + tuple(_small_groups(small, settings.chunk_rows))


def _large_group(item: _Measured, least: int) -> Group:
    name = item.pair.source.name
    units = min(UNITS, max(least, math.ceil(item.bytes / UNIT_BYTES)))
    step = -(-len(item.chunks) // units)
    parts = [item.chunks[first : first + step] for first in range(0, len(item.chunks), step)]
    total = len(parts)
    return Group(name, (name,), tuple(Unit(f"{name} {n}/{total}", part) for n, part in enumerate(parts, 1)))


def _small_groups(items: Sequence[_Measured], rows: int) -> Iterator[Group]:
    part: list[_Measured] = []
    for item in items:
        if part and (len(part) >= TOGETHER or sum(other.sample.rows for other in part) + item.sample.rows > rows):
            yield _small_group(part)
            part = []
        part.append(item)
    if part:
        yield _small_group(part)


def _small_group(items: Sequence[_Measured]) -> Group:
    names = tuple(item.pair.source.name for item in items)
    name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    chunks = tuple(chunk for item in items for chunk in item.chunks)
    return Group(name, names, (Unit(name, chunks),))
