"""Columns of any mixture of storage classes: each class is read as a whole column, for the speed of it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.arrow import arrow_type, convert_array, from_values
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgType, SqliteValue, StorageClass, UndecodableText

_CLASSES: dict[type, tuple[StorageClass, pa.DataType]] = {
    int: (StorageClass.INTEGER, pa.int64()),
    float: (StorageClass.REAL, pa.float64()),
    str: (StorageClass.TEXT, pa.string()),
    bytes: (StorageClass.BLOB, pa.binary()),
}

Converted = tuple[pa.Array, pa.BooleanArray | None]


def convert_values(values: Sequence[SqliteValue | UndecodableText], type: PgType, rule: ColumnRule) -> Converted:
    """Convert values of whatever class, as `arrow.convert_array` does for those of one.

    Returns the semantic array and the mask of the values that do not fit, None when all do; they are null in the array.
    """
    found = {value.__class__ for value in values if value is not None}
    if not found:
        return pa.nulls(len(values), arrow_type(type)), None
    parts = [_part(values, kind, len(found) > 1, type, rule) for kind in sorted(found, key=lambda kind: kind.__name__)]
    masks = [mask for _, mask in parts if mask is not None]
    array = parts[0][0] if len(parts) == 1 else pc.coalesce(*(array for array, _ in parts))
    wrong = masks[0] if masks else None
    for mask in masks[1:]:
        wrong = pc.or_(wrong, mask)
    return array, wrong


def _part(
    values: Sequence[SqliteValue | UndecodableText], kind: type, mixed: bool, target: PgType, rule: ColumnRule
) -> Converted:
    """Convert the values of one class; the places of the others are null."""
    mine = [value if value.__class__ is kind else None for value in values] if mixed else values
    if kind is UndecodableText:
        return _one_by_one(mine, target, rule)
    storage, arrow = _CLASSES[kind]
    return convert_array(pa.array(mine, arrow), storage, target, rule)


def _one_by_one(values: Sequence[SqliteValue | UndecodableText], type: PgType, rule: ColumnRule) -> Converted:
    answers = [convert(value, type, rule) for value in values]
    rejected = [isinstance(answer, Rejected) for answer in answers]
    fitting = [None if isinstance(answer, Rejected) else answer for answer in answers]
    return from_values(fitting, type), pa.array(rejected) if any(rejected) else None
