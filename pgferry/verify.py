"""Compares every cell of the target with what the source holds.

Three checks, of which two do not share the export's reader:
1. per chunk, the digest of the COPY bytes that were sent with that of the same rows read back in the same order;
2. per table, the source's own count(*) with loaded + quarantined, and the target's own count(*) with loaded;
3. per table, a random sample of rows read by sqlite3, converted by the scalar rules, and fetched by key (`sampling`).
Where a digest differs, the whole table is compared as a multiset of rows, and the answer is keys, columns and values.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np

from pgferry.convert.wire import decode_field, decode_rows, equal_field
from pgferry.marks import Fields, Marks, marks, pick, subtract
from pgferry.model import CellDifference, ExportedChunk, Key, LoadedChunk, PgType, TablePair, TableVerdict
from pgferry.ordering import MultisetDigest, RowOrder, SplitDigests, StreamDigest, combined, row_order
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import sent_bytes
from pgferry.quoting import qualified, quote, without_dollars
from pgferry.staging import Staging

SHOWN = 20
"""Differences that a verdict shows; all are counted."""

# In index order without a sort, whatever the planner thinks of a table that was not analyzed yet.
_BY_INDEX = "SET enable_sort = off; SET enable_bitmapscan = off; SET max_parallel_workers_per_gather = 0"

_SORT_MEMORY = "SELECT set_config('work_mem', $1, false)"

KEPT = 50_000
"""Differing rows a side that are kept to be paired by key; beyond that rows are counted, not explained."""

AT_ONCE, BREATH = 128 * 1024, 0.002
"""Bytes that should have come before a stream's next piece is taken, and the seconds in which they come."""

SPOOL_READ = 1024 * 1024
"""Bytes of a spooled table that are read at once."""


@dataclass(frozen=True, slots=True)
class ChunkVerdict:
    """Whether a chunk reads back byte for byte as it was sent."""

    loaded: LoadedChunk
    equal: bool


async def verify_chunks(
    connection: Connection, pair: TablePair, chunks: Sequence[LoadedChunk], memory: str
) -> tuple[ChunkVerdict, ...]:
    """Read back the rows of a table's chunks and compare their bytes with those that were sent; reads only.

    Where the key is the rowid (`RowOrder.natural`), any of the chunks can be given: each is read by its key range, in
    index order, so the key's index should be there. Otherwise all chunks of the table must be given: the table is
    read once, sorted with `memory`. `equal` False says only that the bytes differ: rows updated since in place look
    the same; `explain_table` finds out.
    """
    order = row_order(pair)
    if order.natural:
        return tuple([await _verify_range(connection, pair, chunk, order) for chunk in chunks])
    if order.columns:
        await connection.execute(_SORT_MEMORY, memory)
        return await _verify_sorted(connection, pair, chunks, order)
    return await _verify_multiset(connection, pair, chunks)


async def _verify_range(connection: Connection, pair: TablePair, chunk: LoadedChunk, order: RowOrder) -> ChunkVerdict:
    digest = StreamDigest()
    name = quote(order.columns[0])
    bounds = [f"{name} >= {_rowid(chunk.chunk.low)}"] if chunk.chunk.low is not None else []
    bounds += [f"{name} <= {_rowid(chunk.chunk.high)}"] if chunk.chunk.high is not None else []
    where = f" WHERE {' AND '.join(bounds)}" if bounds else ""
    await connection.execute(_BY_INDEX)
    await read_binary(connection, f"{_select(pair)}{where} ORDER BY {order.terms}", digest.take)
    return ChunkVerdict(chunk, digest.result() == chunk.digest)


async def _verify_sorted(
    connection: Connection, pair: TablePair, chunks: Sequence[LoadedChunk], order: RowOrder
) -> tuple[ChunkVerdict, ...]:
    """Read the table once, chunk after chunk in the order of their transactions; their sizes say where each ends."""
    ordered = sorted(chunks, key=lambda chunk: chunk.xid)
    splitter = SplitDigests([chunk.payload_bytes for chunk in ordered if chunk.rows])
    await read_binary(connection, f"{_select(pair)} ORDER BY age(xmin) DESC, {order.terms}", splitter.take)
    results = iter(splitter.results())
    return tuple(ChunkVerdict(chunk, not chunk.rows or next(results) == chunk.digest) for chunk in ordered)


async def _verify_multiset(
    connection: Connection, pair: TablePair, chunks: Sequence[LoadedChunk]
) -> tuple[ChunkVerdict, ...]:
    digest = MultisetDigest()
    await read_binary(connection, _select(pair), digest.take)
    equal = digest.result() == combined([chunk.digest for chunk in chunks])
    return tuple(ChunkVerdict(chunk, equal) for chunk in chunks)


async def read_binary(connection: Connection, query: str, take: Callable[[bytes], None], *arguments: object) -> int:
    """Send a query's rows to `take`, in the binary format of COPY, as they come; returns how many there were."""

    received = 0

    async def receive(data: bytes) -> None:
        nonlocal received
        take(data)
        received += len(data)
        # The server sends 8 KB at a time: taken as they come, their turns of the event loop cost more than the hashing.
        if len(data) < AT_ONCE < received:
            await asyncio.sleep(BREATH)

    # COPY takes no parameters: the driver writes the arguments into the text.
    query = without_dollars(query) if arguments else query
    status: str = await connection.copy_from_query(query, *arguments, output=receive, format="binary")
    return int(status.removeprefix("COPY "))


def _rowid(key: Key) -> int:
    (value,) = key
    assert isinstance(value, int)
    return value


def table_verdict(pair: TablePair, source_rows: int, target_rows: int, chunks: Sequence[LoadedChunk]) -> TableVerdict:
    """Return the verdict of a table whose chunks all read back equal: only its counts can still be wrong."""
    loaded = sum(chunk.rows for chunk in chunks)
    differences: tuple[CellDifference, ...] = ()
    if target_rows != loaded:
        differences = (
            CellDifference(pair.source.name, "(all rows)", None, f"{loaded} rows loaded", f"{target_rows} rows found"),
        )
    return TableVerdict(
        table=pair.source.name,
        source_rows=source_rows,
        loaded=loaded,
        quarantined=sum(chunk.quarantined for chunk in chunks),
        excluded=0,
        cells_compared=loaded * len(pair.columns),
        difference_count=abs(target_rows - loaded),
        differences=differences,
        bytes_sent=sum(chunk.payload_bytes for chunk in chunks),
    )


def excluded_verdict(table: str, source_rows: int) -> TableVerdict:
    """Return the verdict of a table that configuration leaves out."""
    return TableVerdict(table, source_rows, 0, 0, source_rows, 0, 0)


async def explain_table(
    connection: Connection,
    pair: TablePair,
    verdict: TableVerdict,
    staging: Staging,
    export: Callable[[LoadedChunk], ExportedChunk],
    chunks: Sequence[LoadedChunk],
    refused: Marks,
) -> TableVerdict:
    """Compare a whole table as multisets of rows, in any order, and name what differs.

    `export` gives a chunk's staged file, made again from the snapshot where it is gone; `refused` are those of its rows
    that are in quarantine because the target has refused them. Memory: 16 bytes a row and
    side, and at most KEPT differing rows a side. Returns the verdict with its differences; none when only the order
    or the place of the rows changed.
    """
    types = [column.target.type for column in pair.columns]

    def source() -> Iterator[Fields]:
        for chunk in chunks:
            yield from decode_rows(sent_bytes(pair, staging.read_batches(export(chunk).path)))

    async with spooled(connection, _select(pair)) as target:
        source_marks, target_marks = marks(types, source()), marks(types, target())
        # What is kept aside counts as held: a refused row that is in the target all the same is one too many.
        held = np.sort(np.concatenate([target_marks, refused]))
        only_source, only_target = subtract(source_marks, held), subtract(held, source_marks)
        missing, extra = pick(types, source(), only_source, KEPT), pick(types, target(), only_target, KEPT)
    differences, count = _explain(pair, missing, extra)
    unexplained = sum(only_source.values()) - len(missing), sum(only_target.values()) - len(extra)
    return replace(verdict, difference_count=count + max(unexplained), differences=tuple(differences[:SHOWN]))


@asynccontextmanager
async def spooled(connection: Connection, query: str) -> AsyncIterator[Callable[[], Iterator[Fields]]]:
    """Read a query's rows into a temporary file, from which they can be read again and again, a few at a time."""
    with tempfile.TemporaryFile() as file:
        await connection.copy_from_query(query, output=file, format="binary")

        def rows() -> Iterator[Fields]:
            file.seek(0)
            return decode_rows(iter(lambda: file.read(SPOOL_READ), b""))

        yield rows


def _explain(pair: TablePair, missing: Sequence[Fields], extra: Sequence[Fields]) -> tuple[list[CellDifference], int]:
    names = [column.target.name for column in pair.columns]
    places = [names.index(name) for name in pair.target.key if name in names]
    if not pair.target.key or len(places) < len(pair.target.key):
        places = []
    found = {tuple(row[place] for place in places): row for row in extra} if places else {}
    differences: list[CellDifference] = []
    for row in missing:
        other = found.pop(tuple(row[place] for place in places), None) if places else None
        if other is None:
            differences.append(CellDifference(pair.source.name, _key(pair, places, row), None, "present", "missing"))
        else:
            differences.extend(_cells(pair, places, row, other))
    rest = found.values() if places else extra
    for row in rest:
        differences.append(CellDifference(pair.source.name, _key(pair, places, row), None, "missing", "present"))
    return differences, len(differences)


def _cells(pair: TablePair, places: Sequence[int], row: Fields, other: Fields) -> Iterator[CellDifference]:
    for column, mine, theirs in zip(pair.columns, row, other, strict=True):
        kind = column.target.type
        if not equal_field(mine, theirs, kind):
            key = _key(pair, places, row)
            yield CellDifference(pair.source.name, key, column.source.name, show(mine, kind), show(theirs, kind))


def _key(pair: TablePair, places: Sequence[int], row: Fields) -> str:
    shown = places or range(min(3, len(row)))
    parts = [f"{pair.columns[n].target.name}={show(row[n], pair.columns[n].target.type)}" for n in shown]
    return ", ".join(parts)


def show(field: bytes | None, kind: PgType) -> str:
    """Return a field's value as messages show it, cut where it is long."""
    text = "NULL" if field is None else repr(decode_field(field, kind))
    return text if len(text) <= 80 else text[:77] + "…"


def _select(pair: TablePair) -> str:
    columns = ", ".join(quote(column.target.name) for column in pair.columns)
    return f"SELECT {columns} FROM {qualified(pair.target.schema, pair.target.name)}"
