"""The order in which a chunk's rows are sent and read back, so that equal rows give equal bytes.

A heap gives rows back in no order: where a tuple does not fit on the current page, the next smaller one may go to an
earlier page. So both sides sort by the primary key, in an order that Arrow and PostgreSQL share. Rows without such a
key are compared as a multiset, by a digest that does not depend on the order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pgferry.convert.wire import decode_rows
from pgferry.model import ColumnPair, PgKind, TablePair
from pgferry.quoting import quote

_AS_IS = (
    PgKind.SMALLINT,
    PgKind.INTEGER,
    PgKind.BIGINT,
    PgKind.BOOLEAN,
    PgKind.BYTEA,
    PgKind.DATE,
    PgKind.TIME,
    PgKind.TIMESTAMP,
    PgKind.TIMESTAMPTZ,
    PgKind.UUID,
)
_BY_BYTES = (PgKind.TEXT, PgKind.VARCHAR)
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER = b"\xff\xff"
_MODULUS = 2**128


@dataclass(frozen=True, slots=True)
class RowOrder:
    """How a table's rows are ordered: by `columns` on our side, by `terms` in SQL; no terms means not at all.

    `natural` says that the guarded read already yields this order: the key is the rowid.
    """

    columns: tuple[str, ...] = ()
    terms: str = ""
    natural: bool = False


def row_order(pair: TablePair) -> RowOrder:
    """Return the order of a table's rows: by its primary key, where both sides sort its types alike."""
    by_name = {column.target.name: column for column in pair.columns}
    keys = [by_name[name] for name in pair.target.key if name in by_name]
    terms = [_term(column) for column in keys]
    if not keys or len(keys) < len(pair.target.key) or None in terms:
        return RowOrder()
    names = tuple(column.target.name for column in keys)
    natural = (
        len(keys) == 1
        and keys[0].source.name in (pair.source.rowid_column, pair.source.rowid_name)
        and keys[0].target.type.kind
        in (
            PgKind.SMALLINT,
            PgKind.INTEGER,
            PgKind.BIGINT,
        )
    )
    return RowOrder(names, ", ".join(term for term in terms if term), natural)


def _term(column: ColumnPair) -> str | None:
    name, kind = quote(column.target.name), column.target.type.kind
    if kind in _AS_IS:
        return name
    if kind in _BY_BYTES:
        # Code points in order: the order of UTF-8 bytes, and of SQLite's BINARY.
        return f'{name} COLLATE "C"'
    return f'{name}::text COLLATE "C"' if kind is PgKind.ENUM else None


def ordered_batches(
    order: RowOrder, batches: Iterable[pa.RecordBatch], *, sorted_already: bool
) -> Iterator[pa.RecordBatch]:
    """Yield a chunk's batches in the order in which they are sent.

    Memory: a batch at a time where the order is there already or does not matter, else the whole chunk.
    """
    if not order.columns or (order.natural and sorted_already):
        yield from batches
        return
    gathered = list(batches)
    if gathered:
        table = pa.Table.from_batches(gathered).sort_by([(name, "ascending") for name in order.columns])
        yield from table.to_batches(max_chunksize=max(batch.num_rows for batch in gathered))


class StreamDigest:
    """The SHA-256 of a COPY binary stream: for rows that come in a known order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def take(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        self._sha256.update(data)
        self.bytes += len(data)

    def result(self) -> str:
        """Return the digest."""
        return self._sha256.hexdigest()


class MultisetDigest:
    """The sum of the digests of a stream's rows: for rows that come in any order.

    Adding 128-bit hashes modulo 2^128 keeps equal multisets equal, duplicates counted.
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.bytes = 0

    def take(self, data: bytes) -> None:
        """Add the next bytes of the stream."""
        self._parts.append(bytes(data))
        self.bytes += len(data)

    def result(self) -> str:
        """Return the digest of the whole stream."""
        total = 0
        for row in decode_rows(self._parts):
            total += int.from_bytes(row_hash(row), "big")
        return f"{total % _MODULUS:032x}"


class SplitDigests:
    """The SHA-256 of each of several COPY binary streams whose rows come as one stream, one after the other.

    `sizes` are the bytes of each stream by itself, with its own header and trailer.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = [size - len(COPY_HEADER) - len(COPY_TRAILER) for size in sizes]
        self._digests: list[str] = []
        self._skip = len(COPY_HEADER)
        self._surplus = b""
        self._begin()

    def _begin(self) -> None:
        self._sha256 = hashlib.sha256(COPY_HEADER)
        self._left = self._sizes[len(self._digests)] if len(self._digests) < len(self._sizes) else 0

    def take(self, data: bytes) -> None:
        """Add the next bytes of the one stream."""
        view = memoryview(data)
        skipped = min(self._skip, len(view))
        self._skip -= skipped
        view = view[skipped:]
        while len(view) and self._left:
            part = view[: self._left]
            self._sha256.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            if self._left == 0:
                self._sha256.update(COPY_TRAILER)
                self._digests.append(self._sha256.hexdigest())
                self._begin()
        if len(self._surplus) <= len(COPY_TRAILER):
            self._surplus += bytes(view[: len(COPY_TRAILER) + 1])

    def results(self) -> list[str]:
        """Return the digests, one for each size; those that the stream was too short or too long for match nothing."""
        complete = len(self._digests) == len(self._sizes) and self._surplus == COPY_TRAILER
        return self._digests if complete else [""] * len(self._sizes)


def combined(digests: Iterable[str]) -> str:
    """Return the multiset digest of all rows of several streams."""
    return f"{sum(int(digest, 16) for digest in digests) % _MODULUS:032x}"


def row_hash(row: tuple[bytes | None, ...]) -> bytes:
    """Return a 16-byte hash of a row's wire fields; NULL is told from an empty field."""
    hashed = hashlib.blake2b(digest_size=16)
    for value in row:
        if value is None:
            hashed.update(b"\xff\xff\xff\xff")
        else:
            hashed.update(len(value).to_bytes(4, "big") + value)
    return hashed.digest()


def new_digest(order: RowOrder) -> StreamDigest | MultisetDigest:
    """Return the digest that fits a table's order of rows."""
    return StreamDigest() if order.columns else MultisetDigest()
