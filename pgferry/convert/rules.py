"""The one table of rules: which value of SQLite becomes which value of a PostgreSQL type, and which none.

A rule is exact or it rejects; nothing is rounded, cut or guessed. `pgferry.convert.arrow` gives the same answers for
whole columns, and takes every form that it has no fast reading for from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgferry.convert import documents, durations, moments, numbers, text
from pgferry.convert.elements import render_array
from pgferry.convert.outcome import Rejected, type_name, unlike
from pgferry.model import ColumnRule, PgKind, PgType, SqliteValue, StorageClass, UndecodableText

__all__ = ["Rejected", "convert", "storage_class"]

Convert = Callable[[Any, PgType, ColumnRule], object]


def convert(value: SqliteValue | UndecodableText, type: PgType, rule: ColumnRule) -> object | Rejected:
    """Return the value that the type holds for a value of SQLite, or why it holds none.

    The value comes in its semantic form: int, float, Decimal (its exponent is PostgreSQL's display scale), bool, str,
    bytes, date, time, datetime (naive for timestamp, in UTC for timestamptz). uuid is dashed lower-case text, interval
    the text of `durations.Duration`, json and jsonb the source's text, an array the text of `elements.render_array`.
    NULL is None, and so is what the rule turns into NULL; whether the column takes NULL is for the caller to judge.
    """
    if value is None:
        return None
    if isinstance(value, UndecodableText):
        undecodable = text.bytes_from_undecodable if type.kind is PgKind.BYTEA else text.reject_undecodable
        return undecodable(value, type, rule)
    apply = _RULES[type.kind].get(storage_class(value))
    return unlike(value, type) if apply is None else apply(value, type, rule)


def storage_class(value: SqliteValue | UndecodableText) -> StorageClass:
    """Return the storage class in which SQLite keeps a value."""
    return StorageClass.NULL if value is None else _CLASSES[value.__class__]


def _array_from_text(value: str, type: PgType, rule: ColumnRule) -> object:
    elements = documents.array_from_text(value, type, rule, convert)
    return render_array(elements) if isinstance(elements, list) else elements


def _unsupported(value: object, type: PgType, rule: ColumnRule) -> Rejected:
    return Rejected(f"pgferry does not write the type {type_name(type)}")


_CLASSES = {
    int: StorageClass.INTEGER,
    bool: StorageClass.INTEGER,
    float: StorageClass.REAL,
    str: StorageClass.TEXT,
    bytes: StorageClass.BLOB,
    UndecodableText: StorageClass.TEXT,
}


def _row(
    integer: Convert | None = None,
    real: Convert | None = None,
    text: Convert | None = None,
    blob: Convert | None = None,
) -> dict[StorageClass, Convert]:
    classes = (StorageClass.INTEGER, StorageClass.REAL, StorageClass.TEXT, StorageClass.BLOB)
    rules = zip(classes, (integer, real, text, blob), strict=True)
    return {storage: rule for storage, rule in rules if rule is not None}


_INTEGER = _row(numbers.integer_from_integer, numbers.integer_from_real, numbers.integer_from_text)
_TEXT = _row(text.text_from_integer, text.text_from_real, text.text_from_text, text.text_from_blob)
_JSON = _row(documents.json_from_integer, documents.json_from_real, documents.json_from_text, documents.json_from_blob)

# One row a type, one column a storage class; where there is none, the class is rejected.
_RULES: dict[PgKind, dict[StorageClass, Convert]] = {
    PgKind.SMALLINT: _INTEGER,
    PgKind.INTEGER: _INTEGER,
    PgKind.BIGINT: _INTEGER,
    PgKind.REAL: _row(numbers.float4_from_integer, numbers.float4_from_real, numbers.float4_from_text),
    PgKind.DOUBLE: _row(numbers.double_from_integer, numbers.double_from_real, numbers.double_from_text),
    PgKind.NUMERIC: _row(numbers.numeric_from_integer, numbers.numeric_from_real, numbers.numeric_from_text),
    PgKind.BOOLEAN: _row(numbers.boolean_from_number, numbers.boolean_from_number, numbers.boolean_from_text),
    PgKind.TEXT: _TEXT,
    PgKind.VARCHAR: _TEXT,
    PgKind.CHAR: _TEXT,
    PgKind.BYTEA: _row(text.bytes_from_number, text.bytes_from_number, text.bytes_from_text, text.bytes_from_blob),
    PgKind.DATE: _row(moments.day, moments.day, moments.day),
    PgKind.TIME: _row(text=moments.time_from_text),
    PgKind.TIMESTAMP: _row(moments.timestamp, moments.timestamp, moments.timestamp),
    PgKind.TIMESTAMPTZ: _row(moments.timestamptz, moments.timestamptz, moments.timestamptz),
    PgKind.INTERVAL: _row(durations.interval_from_number, durations.interval_from_number, durations.interval_from_text),
    PgKind.UUID: _row(text.uuid_from_number, text.uuid_from_number, text.uuid_from_text, text.uuid_from_blob),
    PgKind.JSON: _JSON,
    PgKind.JSONB: _JSON,
    PgKind.ENUM: _row(text.label_from_integer, text=text.label_from_text),
    PgKind.ARRAY: _row(text=_array_from_text),
    PgKind.UNSUPPORTED: _row(_unsupported, _unsupported, _unsupported, _unsupported),
}
