"""Whole columns: Arrow arrays of one storage class become the semantic arrays that are staged and sent.

The fast readings answer for the forms that they can prove; every other value is answered by `pgferry.convert.rules`,
once for each distinct value. So both ways give the same results, value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from pgferry.convert import fast_moments, fast_numbers, fast_text
from pgferry.convert.buffers import Bools, Reading, distinct, scatter, valid_rows
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType, SqliteValue, StorageClass, UndecodableText

_FIXED_TYPES = {
    PgKind.SMALLINT: pa.int16(),
    PgKind.INTEGER: pa.int32(),
    PgKind.BIGINT: pa.int64(),
    PgKind.REAL: pa.float32(),
    PgKind.DOUBLE: pa.float64(),
    PgKind.BOOLEAN: pa.bool_(),
    PgKind.BYTEA: pa.binary(),
    PgKind.DATE: pa.date32(),
    PgKind.TIME: pa.time64("us"),
    PgKind.TIMESTAMP: pa.timestamp("us"),
    PgKind.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
}
_WIDEST_DECIMAL = 38

_READ_AS = {
    StorageClass.INTEGER: pa.int64(),
    StorageClass.REAL: pa.float64(),
    StorageClass.TEXT: pa.string(),
    StorageClass.BLOB: pa.binary(),
}

Read = Callable[[pa.Array, PgType, ColumnRule], Reading | None]

_INTEGERS: dict[StorageClass, Read] = {
    StorageClass.INTEGER: fast_numbers.integers,
    StorageClass.REAL: fast_numbers.integers_from_reals,
}
_TEXTS: dict[StorageClass, Read] = {
    StorageClass.TEXT: fast_text.texts,
    StorageClass.INTEGER: fast_text.texts_from_integers,
}
_MOMENTS: dict[StorageClass, Read] = {
    StorageClass.TEXT: fast_moments.moments,
    StorageClass.INTEGER: fast_moments.epochs,
    StorageClass.REAL: fast_moments.real_epochs,
}
# The fast readings of a type, the storage class that it is usually kept in first.
_READINGS: dict[PgKind, dict[StorageClass, Read]] = {
    PgKind.SMALLINT: _INTEGERS,
    PgKind.INTEGER: _INTEGERS,
    PgKind.BIGINT: _INTEGERS,
    PgKind.REAL: {
        StorageClass.REAL: fast_numbers.float4s,
        StorageClass.INTEGER: fast_numbers.float4s_from_integers,
    },
    PgKind.DOUBLE: {
        StorageClass.REAL: fast_numbers.doubles,
        StorageClass.INTEGER: fast_numbers.doubles_from_integers,
    },
    PgKind.NUMERIC: {
        StorageClass.REAL: fast_numbers.numerics_from_reals,
        StorageClass.INTEGER: fast_numbers.numerics_from_integers,
    },
    PgKind.BOOLEAN: {StorageClass.INTEGER: fast_numbers.booleans, StorageClass.REAL: fast_numbers.booleans},
    PgKind.TEXT: _TEXTS,
    PgKind.VARCHAR: _TEXTS,
    PgKind.CHAR: _TEXTS,
    PgKind.BYTEA: {StorageClass.BLOB: fast_text.binaries, StorageClass.TEXT: fast_text.binaries},
    PgKind.DATE: _MOMENTS,
    PgKind.TIME: {StorageClass.TEXT: fast_moments.times},
    PgKind.TIMESTAMP: _MOMENTS,
    PgKind.TIMESTAMPTZ: _MOMENTS,
    PgKind.UUID: {StorageClass.TEXT: fast_text.uuids, StorageClass.BLOB: fast_text.uuids_from_blobs},
    PgKind.ENUM: {StorageClass.TEXT: fast_text.labels},
}
# Read once for each distinct value; these classes can hold the type, the usual one first.
_BY_RULE: dict[PgKind, tuple[StorageClass, ...]] = {
    PgKind.NUMERIC: (StorageClass.TEXT,),
    PgKind.BOOLEAN: (StorageClass.TEXT,),
    PgKind.INTERVAL: (StorageClass.TEXT,),
    PgKind.JSON: (StorageClass.TEXT,),
    PgKind.JSONB: (StorageClass.TEXT,),
    PgKind.ARRAY: (StorageClass.TEXT,),
}


def arrow_type(type: PgType) -> pa.DataType:
    """Return the semantic type, which Parquet holds: text for whatever Arrow has no exact type for."""
    if type.kind is PgKind.NUMERIC and _is_decimal(type):
        return pa.decimal128(type.precision, type.scale or 0)
    return _FIXED_TYPES.get(type.kind, pa.string())


def _is_decimal(type: PgType) -> bool:
    if type.precision is None or type.precision > _WIDEST_DECIMAL:
        return False
    return 0 <= (type.scale or 0) <= type.precision


def source_classes(type: PgType, rule: ColumnRule) -> tuple[StorageClass, ...]:
    """Return the storage classes that a column can be read in as a whole, the usual one first.

    `convert_array` takes every class; those left out here are rejected by the rules or need a look at each value.
    """
    classes = (*_READINGS.get(type.kind, ()), *_BY_RULE.get(type.kind, ()))
    if _READINGS.get(type.kind) is _MOMENTS and rule.epoch is None:
        return (StorageClass.TEXT,)
    return classes


def convert_array(
    array: pa.Array, storage: StorageClass, type: PgType, rule: ColumnRule
) -> tuple[pa.Array, pa.BooleanArray | None]:
    """Convert a column of one storage class (int64, float64, string or binary; NULLs allowed).

    Returns the semantic array and the mask of the rows that do not fit, None when all do. Those rows are null in the
    array; their reasons come from `rules.convert`, which gives the same answers. Raises TypeError for an array of
    another type than the class is read as.
    """
    if array.null_count == len(array):
        return pa.nulls(len(array), arrow_type(type)), None
    if array.type != _READ_AS[storage]:
        raise TypeError(f"a column of {storage} comes as {_READ_AS[storage]}, not {array.type}")
    read = _READINGS.get(type.kind, {}).get(storage)
    reading = read(array, type, rule) if read is not None else None
    if reading is None:
        reading = pa.nulls(len(array), arrow_type(type)), np.zeros(len(array), np.bool_)
    values, certain = reading
    doubtful = valid_rows(array) & ~certain
    if not doubtful.any():
        return values, None
    answers, rejected = _by_rule(array.filter(pa.array(doubtful)), storage, type, rule)
    values = scatter(values, doubtful, answers)
    if not rejected.any():
        return values, None
    misfits = np.zeros(len(array), np.bool_)
    misfits[doubtful] = rejected
    return values, pa.array(misfits)


def from_values(values: Sequence[object], type: PgType) -> pa.Array:
    """Return the semantic array of values that `rules.convert` gave; None is NULL."""
    arrow = arrow_type(type)
    if type.kind is PgKind.NUMERIC and pa.types.is_string(arrow):
        values = [None if value is None else format(value, "f") for value in values]
    return pa.array(values, arrow)


def _by_rule(array: pa.Array, storage: StorageClass, type: PgType, rule: ColumnRule) -> tuple[pa.Array, Bools]:
    """Answer for every row by the scalar rules, asking once for each distinct value."""
    values, rows = distinct(array)
    answers = [convert(value, type, rule) for value in _stored(values, storage)]
    rejected = np.array([isinstance(answer, Rejected) for answer in answers], np.bool_)
    accepted = [None if isinstance(answer, Rejected) else answer for answer in answers]
    return from_values(accepted, type).take(pa.array(rows)), rejected[rows]


def _stored(values: pa.Array, storage: StorageClass) -> list[SqliteValue | UndecodableText]:
    raw: list[SqliteValue | UndecodableText] = values.to_pylist()
    return [_text(value) for value in raw] if storage is StorageClass.TEXT else raw


def _text(raw: object) -> SqliteValue | UndecodableText:
    if not isinstance(raw, bytes):
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return UndecodableText(raw)
