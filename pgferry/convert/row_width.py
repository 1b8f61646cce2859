"""What rows take on a page of PostgreSQL, at the least: each lies whole on one page, whatever TOAST moves out of it.

The layout is that of heap_fill_tuple in PostgreSQL's src/backend/access/common/heaptuple.c; what TOAST can do is in
src/backend/access/heap/heaptoast.c. The figures are of pages of 8 KB, which nearly every server has.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.buffers import Integers, valid_rows
from pgferry.convert.numeric_wire import encode_numerics
from pgferry.model import PgKind, PgType, TablePair

MOST_COLUMNS = 1600
"""Columns of a PostgreSQL table (https://www.postgresql.org/docs/current/limits.html)."""

PAGE_ROOM = 8160
"""Bytes of the largest row on a page."""

HEAD = 24
"""Bytes of a row's head without a bitmap of NULLs."""

FIXED = {
    PgKind.SMALLINT: (2, 2),
    PgKind.INTEGER: (4, 4),
    PgKind.BIGINT: (8, 8),
    PgKind.REAL: (4, 4),
    PgKind.DOUBLE: (8, 8),
    PgKind.BOOLEAN: (1, 1),
    PgKind.DATE: (4, 4),
    PgKind.TIME: (8, 8),
    PgKind.TIMESTAMP: (8, 8),
    PgKind.TIMESTAMPTZ: (8, 8),
    PgKind.INTERVAL: (16, 8),
    PgKind.UUID: (16, 1),
    PgKind.ENUM: (4, 4),
}
"""Bytes and alignment of the types of one size."""

LEAST = {PgKind.NUMERIC: 3, PgKind.JSONB: 5, PgKind.ARRAY: 13}
"""Bytes that any value of a type takes whose size does not tell from the value's text."""

INLINE = 20
"""Bytes of a value that TOAST leaves where it is; a byte of length comes on top."""

POINTER = 18
"""Bytes of what points at a value that was moved out."""

_SHRINKS_FROM = 32
"""Bytes from which on pglz compresses; the shortest outcome is shorter than a pointer."""

_SHRUNK = 13
_SHRUNK_DEFLATED = 32
"""Bytes that zlib makes of whatever pglz makes shorter than a pointer: well under it, for it finds what pglz finds."""

_MOST = 27
"""Bytes that any value takes at the most, when TOAST has done what it can; with padding."""

_FEWEST_COLUMNS = (PAGE_ROOM - HEAD - MOST_COLUMNS // 8) // _MOST


@dataclass(frozen=True, slots=True)
class Widths:
    """For each row: the bytes that it takes at the least, and the first column that no longer fits on a page."""

    bytes: Integers
    places: Integers
    """Its place in the pair's columns; -1 where the whole row fits."""


def too_wide(size: int) -> str:
    """Return the reason for which a row of so many bytes stays aside."""
    return f"the row takes {size:,} bytes or more, with this column and those after it: a page holds {PAGE_ROOM:,}"


def can_be_too_wide(columns: int) -> bool:
    """Say whether rows of so many columns can be too wide for a page at all."""
    return columns > _FEWEST_COLUMNS


def widths(pair: TablePair, arrays: Sequence[pa.Array]) -> Widths | None:
    """Measure converted rows, their columns in the order of the pair's; None where all of them surely fit.

    A row that is found too wide is too wide for certain. One that is not may still be refused by the server: of jsonb
    and arrays only the least is reckoned, and nothing of columns that the move does not fill.
    """
    if not can_be_too_wide(len(arrays)) or not len(arrays[0]):
        return None
    found = _measured(pair, arrays, _SHRUNK)
    likely = _measured(pair, arrays, POINTER)
    for row in np.flatnonzero((found.places < 0) & (likely.places >= 0)).tolist():
        one = _measured(pair, [array.slice(row, 1) for array in arrays], None)
        found.bytes[row], found.places[row] = one.bytes[0], one.places[0]
    return found if (found.places >= 0).any() else None


def _measured(pair: TablePair, arrays: Sequence[pa.Array], long: int | None) -> Widths:
    places = {column.target.name: place for place, column in enumerate(pair.columns)}
    rows = len(arrays[0])
    at, nulls = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    for array in arrays:
        nulls |= ~valid_rows(array)
    head = np.where(nulls, _aligned(23 + -(-len(pair.target.columns) // 8), 8), HEAD)
    over = np.full(rows, -1)
    # In the order of the target's columns: they are padded in that order.
    for place in (places[column.name] for column in pair.target.columns if column.name in places):
        array, type = arrays[place], pair.columns[place].target.type
        size, alignment = _sizes(array, type, long)
        at = np.where(valid_rows(array), _aligned(at, alignment) + size, at)
        over = np.where((over < 0) & (_aligned(head + at, 8) > PAGE_ROOM), place, over)
    return Widths(_aligned(head + at, 8), over)


def _aligned(at: Any, to: int) -> Any:
    return -(-at // to) * to


def _sizes(array: pa.Array, type: PgType, long: int | None) -> tuple[Any, int]:
    """Return the bytes of each value, of whatever is in a NULL's place, and the alignment."""
    if type.kind in FIXED:
        return FIXED[type.kind]
    if type.kind is PgKind.NUMERIC:
        texts = array if pa.types.is_string(array.type) else pc.cast(array, pa.string())
        # On disk a numeric has 2 bytes of head, on the wire 8.
        return _varying(_lengths(encode_numerics(texts)) - 6, None), 1
    if type.kind in LEAST:
        return LEAST[type.kind], 1
    lengths = _lengths(array)
    sizes = _varying(lengths, long)
    if long is None:
        values = array.to_pylist()
        for row in np.flatnonzero(lengths >= _SHRINKS_FROM).tolist():
            sizes[row] = _SHRUNK if _shrinks(values[row]) else POINTER
    return sizes, 1


def _lengths(array: pa.Array) -> Integers:
    lengths: Integers = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _varying(lengths: Integers, long: int | None) -> Integers:
    sizes = np.where(lengths <= INLINE, lengths + 1, POINTER)
    return sizes if long is None else np.where(lengths >= _SHRINKS_FROM, np.minimum(sizes, long), sizes)


def _shrinks(value: str | bytes) -> bool:
    raw = value.encode() if isinstance(value, str) else value
    return len(zlib.compress(raw)) <= _SHRUNK_DEFLATED
