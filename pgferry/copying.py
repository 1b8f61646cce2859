"""The work on one unit of a move: export its chunks, load them, read them back; and the verdict on its tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import aiosqlite
import asyncpg

from pgferry.errors import Permanent, is_transient
from pgferry.export import export_chunk
from pgferry.model import Chunk, ExportedChunk, LoadedChunk, TableVerdict
from pgferry.move import Group, Move, Unit
from pgferry.ordering import row_order
from pgferry.postgres.catalog import count_rows as count_target_rows
from pgferry.postgres.connection import Connection
from pgferry.postgres.ledger import AlreadyLoaded, loaded_chunks, mark_verified
from pgferry.postgres.load import load_chunk
from pgferry.postgres.refusals import is_refusal, refusal
from pgferry.progress import reporter
from pgferry.quoting import quote
from pgferry.refused import find_again, refused_marks
from pgferry.sampling import check_sample
from pgferry.sqlite.arrow_reader import ArrowReader
from pgferry.sqlite.connect import control
from pgferry.staging import AlteredFile, Staging
from pgferry.verify import ChunkVerdict, excluded_verdict, explain_table, table_verdict, verify_chunks


def export_unit(move: Move, unit: Unit) -> tuple[ExportedChunk, ...]:
    """Write the unit's chunks to staging, those that the ledger has as loaded excepted; reads the snapshot only."""
    staging = Staging(move.staging)
    exported = []
    with ArrowReader(Path(move.snapshot.path)) as reader:
        for chunk in unit.chunks:
            advance = partial(reporter().exported, chunk.table)
            if (chunk.table, chunk.number) in move.done:
                advance(chunk.rows)
            else:
                read = move.reads[chunk.table]
                exported.append(export_chunk(move.snapshot, read, chunk, staging, advance, reader))
    return tuple(exported)


async def load_unit(
    connection: Connection, move: Move, unit: Unit, exported: Iterable[ExportedChunk]
) -> tuple[LoadedChunk, ...]:
    """Load what was exported of a unit, a transaction a chunk, and return all its chunks as the ledger has them.

    A chunk that is loaded already is passed over. A staged file that is not what was written is exported once more.
    """
    tables = {chunk.table for chunk in unit.chunks}
    known = await loaded_chunks(connection, move.run_id, tables)
    staged = {(item.chunk.table, item.chunk.number): item for item in exported}
    for chunk in unit.chunks:
        place = (chunk.table, chunk.number)
        if place in known:
            reporter().loaded(chunk.table, chunk.rows)
        else:
            await _load_once(connection, move, staged.get(place) or _export_again(move, chunk))
    known = await loaded_chunks(connection, move.run_id, tables)
    return tuple(_found(known, chunk) for chunk in unit.chunks)


def _export_again(move: Move, chunk: Chunk) -> ExportedChunk:
    # Loaded when the units were exported, and gone now: the server has crashed in between.
    return export_chunk(move.snapshot, move.reads[chunk.table], chunk, Staging(move.staging))


def _found(known: Mapping[tuple[str, int], LoadedChunk], chunk: Chunk) -> LoadedChunk:
    try:
        return known[chunk.table, chunk.number]
    except KeyError:
        raise Permanent(
            f"Chunk {chunk.number} of table {chunk.table!r} was loaded, but the server has lost it: it crashed since.",
            "Run the same command again: it loads what is missing.",
        ) from None


async def _load_once(connection: Connection, move: Move, exported: ExportedChunk) -> None:
    chunk, staging = exported.chunk, Staging(move.staging)
    read, advance = move.reads[chunk.table], partial(reporter().loaded, chunk.table)
    again = partial(find_again, move.snapshot, read, chunk)
    # Already loaded: another process was quicker, and this one's rows were rolled back.
    with suppress(AlreadyLoaded), _refusal_named(chunk):
        try:
            await load_chunk(connection, move.run_id, read.pair, exported, staging, again, advance)
        except AlteredFile:
            staging.discard(exported)
            exported = export_chunk(move.snapshot, read, chunk, staging)
            await load_chunk(connection, move.run_id, read.pair, exported, staging, again, advance)


@contextmanager
def _refusal_named(chunk: Chunk) -> Iterator[None]:
    """Say of which table the rows are that collide, or that a trigger refuses: the server only names the rule."""
    try:
        yield
    except asyncpg.PostgresError as error:
        if is_transient(error) or not is_refusal(error):
            raise
        raise Permanent(
            f"Table {chunk.table!r}, chunk {chunk.number}: {refusal(error)}.",
            "Nothing of that chunk was kept. Correct the row in the source and begin anew with --restart; or ease the "
            "rule in the target and run the same command again: it goes on from here.",
            table=chunk.table,
        ) from error


def units_to_read(move: Move, group: Group) -> tuple[Unit, ...]:
    """Return the units by which a group's rows are read back: those of its load where each chunk can be read alone.

    A table whose key is not its rowid is read back as a whole.
    """
    if all(row_order(move.reads[table].pair).natural for table in group.tables):
        return group.units
    return (Unit(group.name, tuple(chunk for unit in group.units for chunk in unit.chunks)),)


async def read_back_unit(connection: Connection, move: Move, unit: Unit, memory: str) -> tuple[ChunkVerdict, ...]:
    """Read every loaded row of a unit back and compare it with what was sent; records the verdict of each chunk.

    A chunk that a crash of the server has taken back since its load is loaded again first.
    """
    known = await _all_loaded(connection, move, unit)
    tables: dict[str, list[LoadedChunk]] = {}
    for chunk in unit.chunks:
        tables.setdefault(chunk.table, []).append(_found(known, chunk))
    verdicts: list[ChunkVerdict] = []
    for table, chunks in tables.items():
        found = await verify_chunks(connection, move.reads[table].pair, chunks, memory)
        reporter().verified(table, sum(chunk.rows for chunk in chunks))
        verdicts += found
    equal = [verdict.loaded.chunk for verdict in verdicts if verdict.equal]
    await mark_verified(connection, move.run_id, [(chunk.table, chunk.number) for chunk in equal], 0)
    return tuple(verdicts)


async def _all_loaded(connection: Connection, move: Move, unit: Unit) -> Mapping[tuple[str, int], LoadedChunk]:
    # Loads do not wait for the disk (see `load`): a crash of the server takes the last of them back, whole.
    tables = {chunk.table for chunk in unit.chunks}
    known = await loaded_chunks(connection, move.run_id, tables)
    lost = [chunk for chunk in unit.chunks if (chunk.table, chunk.number) not in known]
    for chunk in lost:
        await _load_once(connection, move, _export_again(move, chunk))
    return await loaded_chunks(connection, move.run_id, tables) if lost else known


async def judge_group(
    connection: Connection, move: Move, group: Group, chunks: Iterable[ChunkVerdict], sample_rows: int
) -> tuple[TableVerdict, ...]:
    """Return the verdict on each table of a group: counts of both sides, the sample, and what differs and where.

    To be called when the tables' keys are built again: the sample is looked up by them.
    """
    by_table: dict[str, list[ChunkVerdict]] = {table: [] for table in group.tables}
    for verdict in chunks:
        by_table[verdict.loaded.chunk.table].append(verdict)
    target_rows = await count_target_rows(connection, [move.reads[table].pair.target for table in group.tables])
    verdicts = []
    async with control(Path(move.snapshot.path)) as source:
        for (table, found), rows in zip(by_table.items(), target_rows, strict=True):
            verdicts.append(await _judge(connection, move, source, table, found, rows, sample_rows))
    return tuple(verdicts)


async def _judge(
    connection: Connection,
    move: Move,
    source: aiosqlite.Connection,
    table: str,
    chunks: Sequence[ChunkVerdict],
    target_rows: int,
    sample_rows: int,
) -> TableVerdict:
    pair = move.reads[table].pair
    loaded = [chunk.loaded for chunk in chunks]
    ((source_rows,),) = await source.execute_fetchall(f"SELECT count(*) FROM {quote(pair.source.name)}")
    verdict = table_verdict(pair, source_rows, target_rows, loaded)
    if target_rows != verdict.loaded or not all(chunk.equal for chunk in chunks):
        return await _explain(connection, move, verdict, loaded)
    sample = await check_sample(
        connection,
        source,
        pair,
        sample_rows,
        move.snapshot.sha256 + table,
        aside_of=move.run_id if verdict.quarantined else None,
    )
    return verdict.with_sample(sample.rows, sample.differences)


async def _explain(
    connection: Connection, move: Move, verdict: TableVerdict, loaded: Sequence[LoadedChunk]
) -> TableVerdict:
    read, staging = move.reads[verdict.table], Staging(move.staging)

    def export(chunk: LoadedChunk) -> ExportedChunk:
        return export_chunk(move.snapshot, read, chunk.chunk, staging)

    refused = await refused_marks(connection, move.run_id, move.snapshot, read)
    explained = await explain_table(connection, read.pair, verdict, staging, export, loaded, refused)
    places = [(verdict.table, chunk.chunk.number) for chunk in loaded]
    await mark_verified(connection, move.run_id, places, min(explained.difference_count, 2**31 - 1))
    return explained


def excluded_verdicts(move: Move) -> tuple[TableVerdict, ...]:
    """Return the verdicts on the tables that stay behind."""
    return tuple(excluded_verdict(table, rows) for table, rows in sorted(move.excluded.items()))
