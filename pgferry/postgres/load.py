"""Loads a staged chunk: binary COPY, quarantine and ledger row in one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pgferry.convert.wire import encode
from pgferry.errors import Permanent
from pgferry.keys import decode_key
from pgferry.model import ExportedChunk, LoadedChunk, QuarantinedRow, StorageClass, TablePair
from pgferry.ordering import MultisetDigest, StreamDigest, new_digest, ordered_batches, row_order
from pgferry.postgres.connection import Connection
from pgferry.postgres.handle import require_transaction
from pgferry.postgres.ledger import record_chunk, record_quarantine
from pgferry.staging import Staging

Digest = StreamDigest | MultisetDigest

# The ledger row commits with the rows, so a server crash loses both or neither; the run's last commit waits for the
# disk and with it for everything before. https://www.postgresql.org/docs/current/wal-async-commit.html
_NO_WAIT = "SET LOCAL synchronous_commit = off"

_XID = "SELECT pg_current_xact_id()::text::bigint"

_LAST_BLOCK = """
SELECT greatest(pg_relation_size($1::oid) / current_setting('block_size')::bigint - 1, 0)
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
    advance: Callable[[int], None] = lambda rows: None,
) -> LoadedChunk:
    """Load a chunk's rows and record it, all in one transaction, or change nothing at all.

    `advance` is told of rows as they are sent. Raises AlteredFile when the staged files are not what was exported,
    AlreadyLoaded (with nothing changed) when the ledger has this chunk, Permanent when the server took another
    number of rows than was sent.
    """
    staging.verify(exported)
    batches = ordered_batches(row_order(pair), staging.read_batches(exported.path), sorted_already=exported.in_order)
    async with connection.transaction():
        await connection.execute(_NO_WAIT)
        copied = await copy_rows(connection, pair, _counted(batches, advance), exported.rows)
        await record_quarantine(connection, run_id, read_quarantine(staging, exported))
        loaded = LoadedChunk(
            exported.chunk,
            exported.rows,
            exported.quarantined,
            copied.payload_bytes,
            copied.digest,
            copied.xid,
            copied.first_block,
            copied.last_block,
        )
        await record_chunk(connection, run_id, loaded)
    return loaded


async def copy_rows(connection: Connection, pair: TablePair, batches: Iterable[pa.RecordBatch], rows: int) -> Copied:
    """Send rows, in the order of `row_order`, by binary COPY. Joins the caller's transaction.

    Not under a savepoint: the rows would bear its transaction id, not the one that is returned. Raises Permanent when
    the server took another number of rows than `rows`; its own errors pass through.
    """
    require_transaction(connection, "copy_rows")
    digest = new_digest(row_order(pair))
    xid = await connection.fetchval(_XID)
    first_block = await connection.fetchval(_LAST_BLOCK, pair.target.oid)
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
    last_block = await connection.fetchval(_LAST_BLOCK, pair.target.oid)
    return Copied(digest.bytes, digest.result(), xid, first_block, last_block)


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


def _counted(batches: Iterable[pa.RecordBatch], advance: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch
        advance(batch.num_rows)


async def _digested(stream: Iterable[bytes], digest: Digest) -> AsyncIterator[bytes]:
    for data in stream:
        if data:
            digest.take(data)
            yield data
