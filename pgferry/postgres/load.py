"""Loads a staged chunk: binary COPY, quarantine and ledger row in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import asyncpg
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.wire import encode
from pgferry.errors import Permanent
from pgferry.keys import decode_key
from pgferry.model import ExportedChunk, LoadedChunk, QuarantinedRow, StorageClass, TablePair
from pgferry.ordering import MultisetDigest, StreamDigest, new_digest, ordered_batches, row_order
from pgferry.postgres.connection import Connection
from pgferry.postgres.handle import require_transaction
from pgferry.postgres.ledger import record_chunk, record_quarantine
from pgferry.postgres.refusals import Refusal, find_unfit, is_of_one_row
from pgferry.staging import Staging

Digest = StreamDigest | MultisetDigest

FindAgain = Callable[[Sequence[pa.RecordBatch], Sequence[Refusal]], list[QuarantinedRow]]
"""Gives refused rows, as they were sent, back as the source has them: with their addresses and their own values."""

# The ledger row commits with the rows, so a server crash loses both or neither; the run's last commit waits for the
# disk and with it for everything before. https://www.postgresql.org/docs/current/wal-async-commit.html
_NO_WAIT = "SET LOCAL synchronous_commit = off"

_HERE = """
SELECT pg_current_xact_id()::text::bigint AS xid,
       greatest(pg_relation_size($1::oid) / current_setting('block_size')::bigint - 1, 0) AS last_block
"""


@dataclass(frozen=True, slots=True)
class Copied:
    """What is known of rows that were just sent: enough to find exactly these again and compare them."""

    payload_bytes: int
    digest: str
    xid: int
    first_block: int
    last_block: int


async def load_chunk(
    connection: Connection,
    run_id: int,
    pair: TablePair,
    exported: ExportedChunk,
    staging: Staging,
    find_again: FindAgain,
    advance: Callable[[int], None] = lambda rows: None,
) -> LoadedChunk:
    """Load a chunk's rows and record it, all in one transaction, or change nothing at all.

    Rows that the target refuses for what they hold are kept in quarantine with those that did not convert, and the
    others load. `advance` is told of rows as they are sent, of none of them twice. Raises AlteredFile when the staged
    files are not what was exported, AlreadyLoaded (with nothing changed) when the ledger has this chunk, Permanent when
    the server took another number of rows than was sent; the server's errors about other things than one row pass
    through.
    """
    staging.verify(exported)
    work = _Load(connection, run_id, pair, exported, staging, find_again, _Told(advance))
    try:
        return await work.run(sift=False)
    except asyncpg.PostgresError as error:
        if not is_of_one_row(error):
            raise
    return await work.run(sift=True)


@dataclass(frozen=True, slots=True)
class _Load:
    connection: Connection
    run_id: int
    pair: TablePair
    exported: ExportedChunk
    staging: Staging
    find_again: FindAgain
    told: _Told

    async def run(self, *, sift: bool) -> LoadedChunk:
        exported = self.exported
        async with self.connection.transaction():
            await self.connection.execute(_NO_WAIT)
            refused = await find_unfit(self.connection, self.pair, self._batches()) if sift else {}
            aside = self.find_again(list(rows_at(self._batches(), refused)), list(refused.values())) if refused else []
            rows, quarantined = exported.rows - len(refused), exported.quarantined + len(refused)
            sent = self.told.of(_without(self._batches(), refused))
            copied = await copy_rows(self.connection, self.pair, sent, rows)
            kept = [*read_quarantine(self.staging, exported), *aside]
            await record_quarantine(self.connection, self.run_id, kept)
            loaded = LoadedChunk(
                exported.chunk,
                rows,
                quarantined,
                copied.payload_bytes,
                copied.digest,
                copied.xid,
                copied.first_block,
                copied.last_block,
            )
            await record_chunk(self.connection, self.run_id, loaded)
        return loaded

    def _batches(self) -> Iterator[pa.RecordBatch]:
        staged = self.staging.read_batches(self.exported.path)
        return ordered_batches(row_order(self.pair), staged, sorted_already=self.exported.in_order)


class _Told:
    """Tells of rows as they are sent, once, though they are sent again."""

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._most = 0

    def of(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in batches:
            yield batch
            rows += batch.num_rows
            if rows > self._most:
                self._advance(rows - self._most)
                self._most = rows


def rows_at(batches: Iterable[pa.RecordBatch], places: Mapping[int, object]) -> Iterator[pa.RecordBatch]:
    """Yield the rows in the given places of all batches together."""
    for batch, there in _marked(batches, places):
        yield batch.filter(there)


def _without(batches: Iterable[pa.RecordBatch], places: Mapping[int, object]) -> Iterator[pa.RecordBatch]:
    if not places:
        yield from batches
        return
    for batch, there in _marked(batches, places):
        left = batch.filter(pc.invert(there))
        if left.num_rows:
            yield left


def _marked(
    batches: Iterable[pa.RecordBatch], places: Mapping[int, object]
) -> Iterator[tuple[pa.RecordBatch, pa.BooleanArray]]:
    """Yield each batch with, for each of its rows, whether its place in all batches together is given."""
    first = 0
    for batch in batches:
        yield batch, pa.array([place in places for place in range(first, first + batch.num_rows)], pa.bool_())
        first += batch.num_rows


async def copy_rows(connection: Connection, pair: TablePair, batches: Iterable[pa.RecordBatch], rows: int) -> Copied:
    """Send rows, in the order of `row_order`, by binary COPY. Joins the caller's transaction.

    Not under a savepoint: the rows would bear its transaction id, not the one that is returned. Raises Permanent when
    the server took another number of rows than `rows`; its own errors pass through.
    """
    require_transaction(connection, "copy_rows")
    digest = new_digest(row_order(pair))
    before = await connection.fetchrow(_HERE, pair.target.oid)
    status = await connection.copy_to_table(
        pair.target.name,
        schema_name=pair.target.schema,
        columns=[column.target.name for column in pair.columns],
        source=_digested(sent_bytes(pair, batches), digest),
        format="binary",
    )
    if status != f"COPY {rows}":
        raise Permanent(
            f"The server answered {status!r} to {rows} rows of table {pair.target.name!r}.",
            "Look for a trigger or rule on that table that swallows rows.",
        )
    after = await connection.fetchrow(_HERE, pair.target.oid)
    assert before is not None
    assert after is not None
    return Copied(digest.bytes, digest.result(), after["xid"], before["last_block"], after["last_block"])


def sent_bytes(pair: TablePair, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Yield the COPY binary stream of a table's batches: the bytes that are sent, whenever it is made."""
    return encode(batches, [column.target.type for column in pair.columns])


def read_quarantine(staging: Staging, exported: ExportedChunk) -> list[QuarantinedRow]:
    """Return the rows that a chunk's export kept aside."""
    if exported.quarantine_path is None:
        return []
    return [
        QuarantinedRow(
            exported.chunk.table,
            decode_key(row["key"]),
            row["column"],
            StorageClass(row["storage_class"]),
            row["value"],
            row["reason"],
        )
        for batch in staging.read_batches(exported.quarantine_path)
        for row in batch.to_pylist()
    ]


async def _digested(stream: Iterable[bytes], digest: Digest) -> AsyncIterator[bytes]:
    for data in stream:
        if data:
            digest.take(data)
            yield data
