"""Reads the stream of COPY … (FORMAT binary) (https://www.postgresql.org/docs/current/sql-copy.html)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

SIGNATURE = b"PGCOPY\n\xff\r\n\x00"
_HEADER = struct.Struct("!11sII")
_INT2, _INT4 = struct.Struct("!h"), struct.Struct("!i")


def decode_rows(chunks: Iterable[bytes]) -> Iterator[tuple[bytes | None, ...]]:
    """Yield the fields of each row, None for NULL, from a stream cut anywhere.

    Raises ValueError when the stream is no COPY binary or ends before its trailer.
    """
    stream = _Stream(chunks)
    signature, _, extension = _HEADER.unpack(stream.take(_HEADER.size))
    if signature != SIGNATURE:
        raise ValueError("this is no stream of COPY in binary format")
    stream.take(extension)
    while True:
        rows, ended = _whole_rows(stream)
        yield from rows
        if ended:
            return
        stream.more()


def _whole_rows(stream: _Stream) -> tuple[list[tuple[bytes | None, ...]], bool]:
    """Return the rows that lie whole in what was read, and whether the trailer follows them."""
    # One loop without calls for each field: this is where a comparison spends its time.
    data, at, size = stream.data, stream.at, len(stream.data)
    int2, int4 = _INT2.unpack_from, _INT4.unpack_from
    rows: list[tuple[bytes | None, ...]] = []
    while at + 2 <= size:
        (count,) = int2(data, at)
        if count < 0:
            return rows, True
        place = at + 2
        row: list[bytes | None] = []
        for _ in range(count):
            if place + 4 > size:
                break
            (length,) = int4(data, place)
            place += 4
            if length < 0:
                row.append(None)
            else:
                row.append(data[place : place + length])
                place += length
        if len(row) < count or place > size:
            break
        rows.append(tuple(row))
        at = stream.at = place
    return rows, False


class _Stream:
    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.data = b""
        self.at = 0

    def take(self, count: int) -> bytes:
        while self.at + count > len(self.data):
            self.more()
        self.at += count
        return self.data[self.at - count : self.at]

    def more(self) -> None:
        """Read on, at least as much as is left over: a large row that comes in small pieces is not copied too often."""
        parts = [self.data[self.at :]]
        wanted = 2 * len(parts[0]) + 1
        have = len(parts[0])
        while have < wanted:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            parts.append(bytes(chunk))
            have += len(chunk)
        if have == len(parts[0]):
            raise ValueError("the stream of COPY ends in the middle of a row")
        self.data, self.at = b"".join(parts), 0
