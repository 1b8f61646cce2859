"""Arrow arrays as numpy sees them: the values without the nulls' detour through floats, and the bytes of text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

Reading = tuple[pa.Array, Bools]
"""Semantic values, and the rows whose value is certain. The other rows hold anything; the scalar rules answer them."""


def certain_all(values: pa.Array) -> Reading:
    """Return values that are certain in every row."""
    return values, np.ones(len(values), np.bool_)


def valid_rows(array: pa.Array) -> Bools:
    """Return which rows are not NULL."""
    if array.null_count == 0:
        return np.ones(len(array), np.bool_)
    rows: Bools = array.is_valid().to_numpy(zero_copy_only=False)
    return rows


def fixed_values(array: pa.Array, dtype: Any) -> NDArray[Any]:
    """Return the values of a fixed-width array without copying; a NULL's place holds anything."""
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]


def fixed_array(values: NDArray[Any], type: pa.DataType, valid: Bools) -> pa.Array:
    """Return an Arrow array of a fixed-width type from its physical values."""
    return pa.array(values, mask=None if valid.all() else ~valid).view(type)


def decimal_array(unscaled: Integers, type: pa.DataType, valid: Bools) -> pa.Array:
    """Return a decimal128 array from its unscaled values."""
    words = np.empty((len(unscaled), 2), np.int64)
    words[:, 0] = unscaled
    words[:, 1] = unscaled >> 63
    nulls = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(type, len(unscaled), [nulls, pa.py_buffer(words)])


def as_binary(array: pa.Array) -> pa.Array:
    """Return a text array as its bytes, without copying."""
    if pa.types.is_string(array.type):
        return array.view(pa.binary())
    return array.view(pa.large_binary()) if pa.types.is_large_string(array.type) else array


def starts(array: pa.Array) -> NDArray[Any]:
    """Return the offsets of a text or binary array into `text_bytes`: row i is [starts[i], starts[i + 1])."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)
    return offsets[array.offset : array.offset + len(array) + 1]


def text_bytes(array: pa.Array) -> Bytes:
    """Return the data of a text or binary array without copying."""
    data = array.buffers()[2]
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.empty(0, np.uint8)


def rows_with(array: pa.Array, wanted: Bools, first: int) -> Bools:
    """Return the rows that hold a wanted byte; `wanted[i]` speaks of byte `first + i` of the array's data."""
    places = np.flatnonzero(wanted) + first
    rows = np.zeros(len(array), np.bool_)
    rows[np.searchsorted(starts(array), places, side="right") - 1] = True
    return rows


def byte_lengths(array: pa.Array) -> Integers:
    """Return the length of each row in bytes."""
    offsets = starts(array).astype(np.int64)
    lengths: Integers = offsets[1:] - offsets[:-1]
    return lengths


def columns_of(array: pa.Array, rows: Bools, length: int) -> Bytes:
    """Return the bytes of the given rows, all of that length, as a matrix with one row a character position."""
    picked = array if rows.all() else array.filter(pa.array(rows))
    first = int(starts(picked)[0])
    matrix = text_bytes(picked)[first : first + len(picked) * length].reshape(-1, length)
    return np.ascontiguousarray(matrix.T)


def text_array(matrix: Bytes, type: pa.DataType) -> pa.Array:
    """Return text or binary rows from a matrix with one row a value."""
    count, length = matrix.shape
    offsets = np.arange(0, (count + 1) * length, length, dtype=np.int32) if length else np.zeros(count + 1, np.int32)
    return pa.Array.from_buffers(type, count, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(matrix))])


def scatter(values: pa.Array, rows: Bools, replacements: pa.Array) -> pa.Array:
    """Return the values with those of `rows` replaced in order."""
    if len(replacements) == len(values):
        return replacements
    picks = np.arange(len(values), dtype=np.int64)
    picks[rows] = len(values) + np.arange(len(replacements), dtype=np.int64)
    return pa.concat_arrays([values, replacements]).take(pa.array(picks))


def distinct(array: pa.Array) -> tuple[pa.Array, Integers]:
    """Return the distinct values, bit for bit (-0.0 is not 0.0), and each row's place among them."""
    bits = array.view(pa.int64()) if pa.types.is_floating(array.type) else as_binary(array)
    encoded = pc.dictionary_encode(bits)
    indices: Integers = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    values = encoded.dictionary
    return (values.view(array.type) if pa.types.is_floating(array.type) else values), indices
