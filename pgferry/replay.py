"""Loads quarantined rows after a rule was changed, each exactly once.

The rows are read again from the run's snapshot by their key, converted by the rules of now, and those that fit are
loaded. One transaction a batch holds the rows, their mark in the quarantine, a ledger row by which they can be found
and compared like a chunk's, the run's report, and the comparison of what was sent with what is read back. So a replay
that is killed at any moment is simply run again. Which column goes where is as the run recorded it; only what the
rules say about values may have changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
from sqlalchemy.engine import make_url

from pgferry.errors import Permanent, UsageError
from pgferry.export import convert_rows, semantic_schema
from pgferry.finishing import NotAccepted, finished_report, judge_report
from pgferry.keys import encode_key
from pgferry.model import (
    LoadedChunk,
    OrphanedKey,
    QuarantinedRow,
    RawRow,
    Snapshot,
    SourceCatalog,
    TablePair,
    TableVerdict,
)
from pgferry.move import accepted_tables, rules_fingerprint, tolerated_tables
from pgferry.ordering import new_digest, ordered_batches, row_order
from pgferry.pairing import pair_tables
from pgferry.plan.outcome import merged_rules, plan_folder
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import Connection
from pgferry.postgres.identity import analyze, set_identities
from pgferry.postgres.ledger import PlannedTable, Run, planned_tables, quarantine_counts
from pgferry.postgres.load import Copied, copy_rows
from pgferry.postgres.quarantine import (
    Account,
    OpenRow,
    accounts,
    keep,
    lock_finished_run,
    open_rows,
    record_replay,
    refuse_loss,
    refuse_unfinished,
    still_open,
    write_report,
)
from pgferry.postgres.refusals import WAITING, find_refused, is_refusal
from pgferry.postgres.validated_keys import validate_left
from pgferry.quoting import qualified, quote
from pgferry.report import Report, markdown_cell, markdown_table
from pgferry.settings import ColumnRules, Rules, Settings, TableRules, read_rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import sample_table
from pgferry.sqlite.connect import explain, open_read_only
from pgferry.sqlite.guard import TableRead, plan_read
from pgferry.sqlite.lookup import RowLookup

BATCH_ROWS = 10_000
"""Rows that are replayed in one transaction at the most."""

BATCH_BYTES = 16 * 1024 * 1024
"""Bytes of text and blobs that a batch holds, about."""

# No other writer may come between what is tried and what is loaded, or between a sequence's old place and its new one.
_LOCK = "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"

# A constraint that waits for the commit would fail it as a whole.
_CHECK_AT_ONCE = "SET CONSTRAINTS ALL IMMEDIATE"


@dataclass(frozen=True, slots=True)
class Replay:
    """Everything that a step of a replay needs to know; holds no secret and can be pickled."""

    run_id: int
    target: str
    """The name of the setting that holds the target's URL."""
    snapshot: Snapshot
    reads: Mapping[str, TableRead]
    """How the tables with quarantined rows are read, by the rules of now."""
    waiting: Mapping[str, int]
    """The same tables and how many rows of each are quarantined."""
    sequences: Mapping[str, int]
    accepted: frozenset[str]
    tolerated: frozenset[str]
    rules: str
    """The fingerprint of the rules of now."""


@dataclass(frozen=True, slots=True)
class TableReplay:
    """What a replay did with the quarantined rows of one table."""

    table: str
    examined: int = 0
    loaded: int = 0
    kept: int = 0
    orphans: int = 0
    """Those of `kept` that wait for a row that they refer to."""

    def plus(self, examined: int, loaded: int, orphans: int) -> TableReplay:
        """Return it with the outcome of one more batch."""
        return replace(
            self,
            examined=self.examined + examined,
            loaded=self.loaded + loaded,
            kept=self.kept + examined - loaded,
            orphans=self.orphans + orphans,
        )

    def then(self, later: TableReplay) -> TableReplay:
        """Return what this pass and a later one over its orphans did together."""
        loaded = self.loaded + later.loaded
        return replace(self, loaded=loaded, kept=self.examined - loaded, orphans=later.orphans)


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What a replay did, and the run's report as it is after it."""

    tables: tuple[TableReplay, ...]
    run: Report

    @property
    def loaded(self) -> int:
        """Rows that were loaded."""
        return sum(table.loaded for table in self.tables)

    @property
    def kept(self) -> int:
        """Rows that were tried and stay in quarantine."""
        return sum(table.kept for table in self.tables)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "run": self.run.run_id,
            "tables": [
                {"table": table.table, "examined": table.examined, "loaded": table.loaded, "kept": table.kept}
                for table in self.tables
            ],
            "loaded": self.loaded,
            "kept": self.kept,
            "report": self.run.to_json(),
            "complete": self.run.complete,
        }


@dataclass(frozen=True, slots=True)
class _Judged:
    """A batch of quarantined rows by the rules of now: those that fit, with their numbers, and why others do not."""

    numbers: tuple[int, ...]
    fitting: pa.RecordBatch
    others: Mapping[int, QuarantinedRow | str]

    def only(self, numbers: frozenset[int]) -> _Judged:
        """Return the part of it with these numbers."""
        places = [place for place, number in enumerate(self.numbers) if number in numbers]
        fitting = self.fitting.take(pa.array(places, pa.int64()))
        others = {number: row for number, row in self.others.items() if number in numbers}
        return _Judged(tuple(self.numbers[place] for place in places), fitting, others)

    def without(self, reasons: Mapping[int, str]) -> _Judged:
        """Return it with the rows in the given places refused."""
        refused = {self.numbers[place]: reason for place, reason in reasons.items()}
        judged = self.only(frozenset({*self.numbers, *self.others} - refused.keys()))
        return replace(judged, others={**judged.others, **refused})


# ---------------------------------------------------------------- before


def replay_rules(settings: Settings, source: Path) -> Rules:
    """Return the rules of now for a source that was moved: a person's, and with them those of its plan, if it has one.

    Raises UsageError for a file that is wrong.
    """
    planned = plan_folder(settings.home, source) / "pgferry.toml"
    return merged_rules(settings.rules(), read_rules(planned)) if planned.exists() else settings.rules()


async def prepare_replay(
    connection: Connection, run: Run, rules: Rules, target: str, tables: Sequence[str] = ()
) -> Replay:
    """Pair the tables with quarantined rows as the run did, with the value rules of now; changes nothing.

    Tables that the rules exclude by now stay as they are. Raises Permanent for a run that is not finished, UsageError
    for a table that the run does not have, and what does not fit the target's schema of now.
    """
    refuse_unfinished(run)
    assert run.snapshot is not None
    planned = {table.source_table: table for table in await planned_tables(connection, run.id)}
    _refuse_unknown(run, tables, planned)
    waiting = {
        table: rows
        for table, rows in sorted((await quarantine_counts(connection, run.id)).items())
        if (not tables or table in tables) and not rules.table(table).exclude
    }
    with closing(open_read_only(Path(run.snapshot.path), immutable=True)) as source:
        catalog = read_catalog(source)
        wanted = replace(catalog, tables=tuple(catalog.table(table) for table in waiting))
        targets = await read_tables(connection, sorted({planned[table].target_schema for table in waiting}))
        pairing = pair_tables(wanted, targets, _recorded_names(rules, catalog, [planned[table] for table in waiting]))
        reads = {pair.source.name: plan_read(pair, sample_table(source, pair.source)) for pair in pairing.pairs}
    return Replay(
        run_id=run.id,
        target=target,
        snapshot=run.snapshot,
        reads=reads,
        waiting=waiting,
        sequences=dict(catalog.sequences),
        accepted=accepted_tables(rules),
        tolerated=tolerated_tables(rules),
        rules=rules_fingerprint(rules),
    )


def _refuse_unknown(run: Run, tables: Sequence[str], planned: Mapping[str, PlannedTable]) -> None:
    unknown = sorted(set(tables) - planned.keys())
    if unknown:
        raise UsageError(
            f"Run {run.id} has no table {', '.join(map(repr, unknown))}.",
            f"Give one of its tables by the source's name: {', '.join(sorted(planned))}.",
        )


def _recorded_names(rules: Rules, catalog: SourceCatalog, tables: Sequence[PlannedTable]) -> Rules:
    """Return the rules about values, with the names and exclusions by which the run was planned.

    Rules for tables that the source does not have stay in it: they are mistakes to be told.
    """
    known = {table.name for table in catalog.tables}
    named = {name: rule for name, rule in rules.tables.items() if name not in known}
    for table in tables:
        named[table.source_table] = _recorded_table(rules.table(table.source_table), catalog, table)
    return rules.model_copy(update={"tables": named})


def _recorded_table(rule: TableRules, catalog: SourceCatalog, table: PlannedTable) -> TableRules:
    columns = dict(rule.columns)
    names = dict(table.columns)
    for column in catalog.table(table.source_table).columns:
        name = names.get(column.name)
        given = columns.get(column.name, ColumnRules())
        columns[column.name] = given.model_copy(update={"rename": name, "exclude": name is None})
    return rule.model_copy(update={"rename": f"{table.target_schema}.{table.target_table}", "columns": columns})


# ---------------------------------------------------------------- the replay


async def replay_table(
    connection: Connection,
    work: Replay,
    table: str,
    *,
    orphans_only: bool = False,
    advance: Callable[[int], None] = lambda rows: None,
) -> TableReplay:
    """Try the quarantined rows of a table again: load those that fit by now, keep the others with the reason of now.

    A transaction a batch, atomic, and taking turns with other replays of the run; `connection` must be in none. A row
    that the target refuses (a key that exists, a parent that does not, a check) stays with the server's words as its
    reason, and the others load. With `orphans_only`, only rows whose parents were missing are tried. `advance` is told
    of rows as they are loaded. Raises Permanent, with nothing of its batch changed, when rows read back other than they
    were sent, or when a sequence cannot go past the new keys.
    """
    if connection.is_in_transaction():
        raise RuntimeError("replay_table makes transactions of its own")
    done, after, path = TableReplay(table), 0, Path(work.snapshot.path)
    with closing(open_read_only(path, immutable=True)) as source:
        lookup = RowLookup(source, work.reads[table])
        prefix = WAITING if orphans_only else ""
        while rows := await open_rows(connection, work.run_id, table, after=after, limit=BATCH_ROWS, reason=prefix):
            try:
                found = _read_batch(lookup, rows)
            except sqlite3.Error as error:
                raise explain(error, path) from error
            after = rows[len(found) - 1].id
            loaded, orphans = await _replay_batch(connection, work, table, rows[: len(found)], found)
            done = done.plus(len(found), loaded, orphans)
            advance(loaded)
    return done


async def _replay_batch(
    connection: Connection, work: Replay, table: str, rows: Sequence[OpenRow], found: Sequence[RawRow | str]
) -> tuple[int, int]:
    """Return how many rows of a batch were loaded, and how many wait for their parents."""
    judged = _judge(work.reads[table], rows, found)
    try:
        return await _settle_batch(connection, work, table, judged, sift=False)
    except asyncpg.PostgresError as error:
        if not is_refusal(error):
            raise
    return await _settle_batch(connection, work, table, judged, sift=True)


async def _settle_batch(
    connection: Connection, work: Replay, table: str, judged: _Judged, *, sift: bool
) -> tuple[int, int]:
    read = work.reads[table]
    async with connection.transaction():
        run = await lock_finished_run(connection, work.run_id)
        judged = judged.only(await still_open(connection, [*judged.numbers, *judged.others]))
        if judged.numbers:
            await connection.execute(_LOCK.format(table=qualified(read.pair.target.schema, read.pair.target.name)))
            await connection.execute(_CHECK_AT_ONCE)
        if judged.numbers and sift:
            judged = judged.without(await find_refused(connection, read.pair, judged.fitting))
        if judged.numbers:
            copied = await _copy(connection, read, judged.fitting)
            await record_replay(connection, work.run_id, table, judged.numbers, copied, work.rules)
            await set_identities(connection, [read.pair], work.sequences)
            await _refresh_report(connection, run, work)
        await keep(connection, judged.others)
    orphans = [row for row in judged.others.values() if isinstance(row, str) and row.startswith(WAITING)]
    return len(judged.numbers), len(orphans)


async def _copy(connection: Connection, read: TableRead, batch: pa.RecordBatch) -> Copied:
    """Send a batch and read it back, in the caller's transaction. Raises Permanent when it differs."""
    batches = ordered_batches(row_order(read.pair), [batch], sorted_already=False)
    copied = await copy_rows(connection, read.pair, batches, batch.num_rows)
    # New rows go behind the others, but the server may also fill a gap that deleted rows have left anywhere.
    for first_block in sorted({copied.first_block, 0}, reverse=True):
        sent = replace(copied, first_block=first_block)
        if await reads_back(connection, read.pair, sent):
            return sent
    raise Permanent(
        f"{batch.num_rows} rows of table {read.pair.source.name!r} read back other than they were sent.",
        "Nothing of them was kept. Look for a trigger or rule on the target's table that changes rows.",
    )


async def reads_back(connection: Connection, pair: TablePair, copied: Copied | LoadedChunk) -> bool:
    """Say whether the rows of one transaction are byte for byte what it sent; for `quarantine.replays`, at any time.

    The rows are found by their transaction and heap pages, so those that were updated since are missed.
    """
    order = row_order(pair)
    digest = new_digest(order)

    async def take(data: bytes) -> None:
        digest.take(data)

    columns = ", ".join(quote(column.target.name) for column in pair.columns)
    where = f"xmin = '{copied.xid % 2**32}'::xid"
    if not pair.target.partitioned:
        # A partitioned table has no pages of its own; its transaction alone finds the rows.
        where += f" AND ctid BETWEEN '({copied.first_block},0)'::tid AND '({copied.last_block},65535)'::tid"
    query = f"SELECT {columns} FROM {qualified(pair.target.schema, pair.target.name)} WHERE {where}"
    ordered = f" ORDER BY {order.terms}" if order.terms else ""
    await connection.copy_from_query(query + ordered, output=take, format="binary")
    return digest.result() == copied.digest


# ---------------------------------------------------------------- after


async def conclude_replay(connection: Connection, work: Replay, *, memory: str = "64MB") -> Report:
    """Gather statistics of the tables and return the run's report as it is now; what the rules accept counts.

    Foreign keys that the move has left NOT VALID are validated where the rows that they lacked are there by now.
    Raises LossError when the quarantine and the ledger's counts do not agree.
    """
    await analyze(connection, [read.pair.target for read in work.reads.values()])
    left = await validate_left(connection, work.run_id, memory=memory)
    async with connection.transaction():
        run = await lock_finished_run(connection, work.run_id)
        report = await _refresh_report(connection, run, work, left)
        await check_accounts(connection, run.id)
    return report


def replay_markdown(result: ReplayReport) -> str:
    """Return what was done for the Prefect UI."""
    head = f"## Run {result.run.run_id}: {result.loaded:,} rows loaded from quarantine, {result.kept:,} stay"
    rows = [[markdown_cell(value) for value in (table.table, table.examined, table.loaded, table.kept)]
            for table in result.tables]  # fmt: skip
    return f"{head}\n\n{markdown_table(['table', 'tried', 'loaded', 'stay'], rows)}"


def judge_replay(result: ReplayReport) -> None:
    """Raise what stands against the run's report: LossError, or NotAccepted while rows are kept aside unaccepted."""
    try:
        judge_report(result.run)
    except NotAccepted as error:
        if not result.run.kept_aside:
            raise NotAccepted(error.message, error.action, result=result) from error
        left = ", ".join(f"{table.quarantined:,} of {table.table}" for table in result.run.tables if table.quarantined)
        raise NotAccepted(
            f"{result.loaded:,} rows were loaded from quarantine; still in it: {left}.",
            "Look at them with `python -m flows quarantine list`; change a rule in pgferry.toml and replay again, or "
            "accept them with `accept_quarantined = true`.",
            result=result,
        ) from error


async def check_accounts(connection: Connection, run_id: int) -> None:
    """Compare what the quarantine holds with what the ledger has loaded and replayed; raises LossError."""
    aside = await quarantine_counts(connection, run_id)
    for account in (await accounts(connection, run_id)).values():
        refuse_loss(account, aside.get(account.table, 0))


async def _refresh_report(
    connection: Connection, run: Run, work: Replay, not_valid: tuple[OrphanedKey, ...] | None = None
) -> Report:
    assert run.report is not None
    before = finished_report(run, make_url(run.report["target"]), work.accepted, work.tolerated)
    books = await accounts(connection, run.id)
    tables = tuple(_with_account(table, books.get(table.table)) for table in before.tables)
    sent = sum(account.chunk_bytes + account.replayed_bytes for account in books.values())
    report = replace(
        before,
        tables=tables,
        bytes=sent,
        not_valid=before.not_valid if not_valid is None else not_valid,
        # As they were told then: what is to be said of the source by now is no part of the record.
        notes=tuple(run.report["notes"]),
        again=False,
    )
    await write_report(connection, report)
    return report


def _with_account(table: TableVerdict, account: Account | None) -> TableVerdict:
    if account is None:
        return table
    return replace(
        table,
        loaded=account.loaded,
        quarantined=account.quarantined,
        cells_compared=account.loaded * account.columns,
        bytes_sent=account.chunk_bytes + account.replayed_bytes,
    )


# ---------------------------------------------------------------- the rows


def _read_batch(lookup: RowLookup, rows: Sequence[OpenRow]) -> list[RawRow | str]:
    """Return the first of the rows, as many as a batch holds: each one raw, or why it was not found."""
    found: list[RawRow | str] = []
    size = 0
    for row in rows:
        raw = lookup.row(row.key)
        found.append(raw)
        size += sum(len(value) for value in raw if isinstance(value, str | bytes))
        if size >= BATCH_BYTES:
            break
    return found


def _judge(read: TableRead, rows: Sequence[OpenRow], found: Sequence[RawRow | str]) -> _Judged:
    width = len(read.pair.source.address)
    raw = {row.id: values for row, values in zip(rows, found, strict=True) if not isinstance(values, str)}
    fitting, bad = convert_rows(read, list(raw.values()), semantic_schema(read))
    why = {encode_key(row.key): row for row in bad}
    misfits = {number: why.get(encode_key(values[:width])) for number, values in raw.items()}
    kept = {row.id: row for row in rows}
    others: dict[int, QuarantinedRow | str] = {
        number: row for number, row in misfits.items() if row is not None and not _same(row, kept[number])
    }
    for row, values in zip(rows, found, strict=True):
        if isinstance(values, str) and values != row.reason:
            others[row.id] = values
    return _Judged(tuple(number for number, row in misfits.items() if row is None), fitting, others)


def _same(row: QuarantinedRow, known: OpenRow) -> bool:
    return (row.column, row.storage_class, row.reason) == (known.column, known.storage_class, known.reason)
