"""Whole columns of text and bytes: the readings of `text`, for the forms that need no look at single rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.buffers import (
    Bools,
    Bytes,
    Reading,
    as_binary,
    byte_lengths,
    certain_all,
    columns_of,
    rows_with,
    scatter,
    starts,
    text_array,
    text_bytes,
    valid_rows,
)
from pgferry.model import ColumnRule, PgKind, PgType

_SHORT_RUN = 32
_DASHES = (8, 13, 18, 23)
_DIGITS = tuple(place for place in range(36) if place not in _DASHES)
_LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8)
_IS_HEX = np.isin(np.arange(256), list(b"0123456789abcdefABCDEF"))
_HEX_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def texts(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """Text that is valid UTF-8, has no NUL and fits its length."""
    certain = _sound(array)
    if type.length is None:
        return array, certain
    clean = array if certain.all() else pc.if_else(pa.array(certain), array, pa.scalar(None, array.type))
    fits = pc.fill_null(pc.less_equal(pc.utf8_length(clean), type.length), False).to_numpy(zero_copy_only=False)
    values = pc.utf8_rpad(clean, type.length, " ") if type.kind is PgKind.CHAR else clean
    return values, certain & fits


def texts_from_integers(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 in decimal digits."""
    return texts(pc.cast(array, pa.string()), type, rule)


def _sound(array: pa.Array) -> Bools:
    """Return the rows that are certainly valid UTF-8 without NUL: all of them in one pass when the column is clean."""
    offsets = starts(array)
    first, last = int(offsets[0]), int(offsets[-1])
    nul = text_bytes(array)[first:last] == 0
    good = ~rows_with(array, nul, first) if nul.any() else np.ones(len(array), np.bool_)
    for start, count in _undecodable(array):
        good[start : start + count] = False
    return good


def _undecodable(array: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield short runs of rows, (start, count), that hold all invalid UTF-8; found by halving what is not valid."""
    runs = [(0, len(array))]
    while runs:
        start, count = runs.pop()
        if _is_utf8(array.slice(start, count)):
            continue
        if count <= _SHORT_RUN:
            yield start, count
        else:
            runs += [(start, count // 2), (start + count // 2, count - count // 2)]


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def binaries(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """A BLOB's or a text's own bytes."""
    return certain_all(as_binary(array))


def labels(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """The labels of an enum."""
    known = pa.array([label.encode() for label in type.labels], as_binary(array).type)
    certain: Bools = pc.is_in(as_binary(array), value_set=known).to_numpy(zero_copy_only=False)
    return array, certain


def uuids(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """Hexadecimal digits with the usual dashes, or none."""
    lengths, valid = byte_lengths(array), valid_rows(array)
    values = pa.nulls(len(array), pa.string())
    certain = np.zeros(len(array), np.bool_)
    for length in (36, 32):
        rows = valid & (lengths == length)
        if rows.any():
            text, good = _dashed(columns_of(array, rows, length))
            values = scatter(values, rows, text)
            certain[rows] = good
    return values, certain


def _dashed(columns: Bytes) -> tuple[pa.Array, Bools]:
    plain = columns.shape[0] == 32
    digits = columns if plain else columns[list(_DIGITS)]
    good: Bools = np.logical_and.reduce(_IS_HEX[digits])
    if not plain:
        good = good & np.logical_and.reduce(columns[list(_DASHES)] == ord("-"))
    return _with_dashes(np.where(good, _LOWER[digits], ord("0")).astype(np.uint8)), good


def _with_dashes(digits: Bytes) -> pa.Array:
    matrix = np.full((digits.shape[1], 36), ord("-"), np.uint8)
    matrix[:, _DIGITS] = digits.T
    return text_array(matrix, pa.string())


def uuids_from_blobs(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """BLOBs of 16 bytes."""
    rows = valid_rows(array) & (byte_lengths(array) == 16)
    values = pa.nulls(len(array), pa.string())
    if not rows.any():
        return values, rows
    raw = columns_of(array, rows, 16)
    digits = np.empty((32, raw.shape[1]), np.uint8)
    digits[0::2] = _HEX_DIGITS[raw >> 4]
    digits[1::2] = _HEX_DIGITS[raw & 15]
    return scatter(values, rows, _with_dashes(digits)), rows
