"""Semantic Arrow arrays become COPY's binary stream, byte for byte as PostgreSQL itself would send the rows.

pgpq frames the fields. It writes the numbers, texts and moments that it knows; of every other type it gets the field's
own bytes, as a binary column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pgpq import ArrowToPostgresBinaryEncoder

from pgferry.convert.arrow import arrow_type
from pgferry.convert.buffers import distinct, starts, text_bytes, valid_rows
from pgferry.convert.copy_stream import decode_rows
from pgferry.convert.fields import canonical_field, decode_field, encode_field, equal_field, interchangeable
from pgferry.convert.numeric_wire import encode_numerics
from pgferry.model import PgKind, PgType

__all__ = [
    "canonical_field",
    "decode_field",
    "decode_rows",
    "encode",
    "equal_field",
    "interchangeable",
    "wire_array",
]

_SLICE_BYTES = 4 * 1024 * 1024
_NIL_UUID = "00000000-0000-0000-0000-000000000000"
_UUID_DIGITS = [place for place in range(36) if place not in (8, 13, 18, 23)]
_NIBBLES = np.array([int(chr(code), 16) if chr(code) in "0123456789abcdef" else 0 for code in range(256)], np.uint8)
_BY_FIELD = (PgKind.INTERVAL, PgKind.JSONB, PgKind.ARRAY)


def wire_array(array: pa.Array, type: PgType) -> pa.Array:
    """Return the array whose pgpq encoding is what PostgreSQL's send function for the type writes."""
    if type.kind is PgKind.UUID:
        return _uuids(array)
    if type.kind is PgKind.NUMERIC and pa.types.is_string(array.type):
        return encode_numerics(array)
    return _fields(array, type) if type.kind in _BY_FIELD else array


def encode(batches: Iterable[pa.RecordBatch], types: Sequence[PgType]) -> Iterator[bytes]:
    """Yield a whole COPY binary stream, header and trailer included, in pieces of a few MiB (a larger row is whole).

    The batches are semantic; their columns stand in the order of `types`. No batches make a stream of no rows.
    """
    schema = pa.schema([pa.field(str(number), _wire_type(type)) for number, type in enumerate(types)])
    encoder = ArrowToPostgresBinaryEncoder(schema)
    yield encoder.write_header()
    for batch in batches:
        for piece in _pieces(batch):
            arrays = [wire_array(array, type) for array, type in zip(piece.columns, types, strict=True)]
            # An empty answer means that pgpq keeps the rows back until there are more.
            if written := encoder.write_batch(pa.record_batch(arrays, schema=schema)):
                yield written
    yield encoder.finish()


def _wire_type(type: PgType) -> pa.DataType:
    if type.kind is PgKind.UUID:
        return pa.binary(16)
    if type.kind in _BY_FIELD or (type.kind is PgKind.NUMERIC and pa.types.is_string(arrow_type(type))):
        return pa.binary()
    return arrow_type(type)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    count = -(-batch.nbytes // _SLICE_BYTES) or 1
    rows = -(-batch.num_rows // count) or 1
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _fields(array: pa.Array, type: PgType) -> pa.Array:
    """Encode field by field, each distinct value once."""
    values, rows = distinct(array.drop_null())
    encoded = pa.array([encode_field(value.decode(), type) for value in values.to_pylist()], pa.binary())
    if array.null_count == 0:
        return encoded.take(pa.array(rows))
    picks: Any = np.zeros(len(array), np.int64)
    valid = valid_rows(array)
    picks[valid] = rows
    return encoded.take(pa.array(picks, mask=~valid))


def _uuids(array: pa.Array) -> pa.Array:
    filled = pc.fill_null(array, _NIL_UUID)
    first = int(starts(filled)[0])
    digits = text_bytes(filled)[first : first + 36 * len(filled)].reshape(-1, 36)[:, _UUID_DIGITS]
    nibbles = _NIBBLES[digits]
    raw = np.ascontiguousarray(nibbles[:, 0::2] << 4 | nibbles[:, 1::2])
    valid = valid_rows(array)
    nulls = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little").tobytes())
    return pa.Array.from_buffers(pa.binary(16), len(array), [nulls, pa.py_buffer(raw)])
