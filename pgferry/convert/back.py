"""The way back: a field of PostgreSQL becomes the value of SQLite that the application would have written.

Whatever is returned here reads back, by the rules of `pgferry.convert.rules`, as the same value of PostgreSQL. Each
type has a list of renderings, that of the column's own form first; the first that reads back is taken. The simple
cases, where it cannot be otherwise, are written straight from the field.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from pgferry.convert.back_documents import JsonWriter, documents, node_of
from pgferry.convert.back_intervals import intervals
from pgferry.convert.back_moments import clock, moments, quick_moment, times
from pgferry.convert.back_numbers import (
    Render,
    booleans,
    float_of,
    floats,
    in_order,
    integer_of,
    integers,
    numerics,
    quick_numeric,
    shortest_single,
    single_floats,
)
from pgferry.convert.elements import parse_array
from pgferry.convert.fields import decode_field, encode_field, interchangeable
from pgferry.convert.lexical_form import MOMENTS, LexicalForm, default_form
from pgferry.convert.outcome import Rejected, shown, type_name
from pgferry.convert.rules import convert, storage_class
from pgferry.convert.stored import stored
from pgferry.errors import Permanent
from pgferry.model import Affinity, ColumnRule, PgKind, PgType, SqliteValue, StorageClass, UndecodableText

__all__ = ["LexicalForm", "Writer", "default_form", "reads_as", "to_sqlite", "writer"]

Writer = Callable[[bytes | None], SqliteValue]

_INT2, _INT4, _INT8 = struct.Struct("!h"), struct.Struct("!i"), struct.Struct("!q")
_FLOAT4, _FLOAT8 = struct.Struct("!f"), struct.Struct("!d")
_INTEGERS = {PgKind.SMALLINT: _INT2, PgKind.INTEGER: _INT4, PgKind.BIGINT: _INT8}
_MINUS_ZERO = _FLOAT8.pack(-0.0)
_EPOCH_DATE = date(2000, 1, 1)
_MIDNIGHT = datetime(2000, 1, 1)
_WHOLE = (Affinity.INTEGER, Affinity.NUMERIC)


def to_sqlite(field: bytes | None, type: PgType, form: LexicalForm, rule: ColumnRule) -> SqliteValue:
    """Return the value that SQLite is to hold for a field of COPY's binary format; see `writer`."""
    return writer(type, form, rule)(field)


@lru_cache(maxsize=4096)
def writer(type: PgType, form: LexicalForm, rule: ColumnRule) -> Writer:
    """Return what writes the fields of one column, in the column's form or the nearest that holds the value.

    The value has passed the column's affinity already: SQLite stores it as it is. It reads back as the same value by
    the rules of `convert` (numeric regardless of trailing zeros, json as a document); Permanent is raised, naming
    column, type and value, when no form in SQLite does. NULL becomes the form's `null`, which is mostly None.
    """
    careful = _careful(type, form, rule)
    quick = None if form.only is not None else _QUICK.get(type.kind, _no_quick_way)(type, form, rule, careful)
    write = quick or careful
    null = form.null
    return lambda field: null if field is None else write(field)


def reads_as(value: SqliteValue | UndecodableText, field: bytes | None, type: PgType, rule: ColumnRule) -> bool:
    """Say whether a value of SQLite stands for that field already, by the rules of the way there."""
    answer = convert(value, type, rule)
    if answer is None or field is None:
        return answer is None and field is None
    if isinstance(answer, Rejected):
        return False
    return interchangeable(encode_field(answer, type), field, type)


# ---------------------------------------------------------------- the careful way

Field = Callable[[bytes], SqliteValue]


def _careful(type: PgType, form: LexicalForm, rule: ColumnRule) -> Field:
    renders = _RENDERS[type.kind](type, form, rule)

    def write(field: bytes) -> SqliteValue:
        semantic = _semantic(field, type, form)
        for render in renders:
            value = stored(render(semantic), form.affinity)
            if value is not None and _allowed(value, form) and reads_as(value, field, type, rule):
                return value
        raise _refusal(semantic, type, form)

    return write


def _allowed(value: SqliteValue, form: LexicalForm) -> bool:
    return form.only is None or storage_class(value) is form.only


def _semantic(field: bytes, type: PgType, form: LexicalForm) -> Any:
    if type.kind is PgKind.UNSUPPORTED:
        raise _refusal(f"{len(field)} bytes", type, form)
    try:
        value = decode_field(field, type)
    except ValueError as error:
        raise _refusal(str(error), type, form) from error
    if type.kind in MOMENTS and isinstance(value, str):
        raise _refusal(value, type, form)
    if type.kind is PgKind.ARRAY and _has_own_bounds(field):
        raise _refusal(f"an array that does not count from 1: {value}", type, form)
    return value


def _has_own_bounds(field: bytes) -> bool:
    (dimensions,) = _INT4.unpack_from(field)
    return bool(dimensions) and _INT4.unpack_from(field, 16) != (1,)


def _refusal(value: object, type: PgType, form: LexicalForm) -> Permanent:
    where = f"The column {form.column}" if form.column else "A column"
    what = shown(format(value, "f") if isinstance(value, Decimal) and value.is_finite() else value)
    return Permanent(
        f"{where} holds {what} ({type_name(type)}) in PostgreSQL, for which SQLite has no form that reads back the "
        f"same{_why(form)}.",
        "Change that value in PostgreSQL to one that SQLite can hold, then run the same command again.",
        column=form.column,
        value=what,
        type=type_name(type),
    )


def _why(form: LexicalForm) -> str:
    if form.only is not None:
        return f" in a column that takes {form.only} only"
    return "" if form.affinity is Affinity.BLOB else f" in a column of {form.affinity} affinity"


# ---------------------------------------------------------------- renderings


def _texts(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    by_class: dict[StorageClass, Render] = {
        StorageClass.TEXT: lambda v: v,
        StorageClass.INTEGER: integer_of,
        StorageClass.REAL: float_of,
    }
    if rule.blob_as_text:
        by_class[StorageClass.BLOB] = lambda v: v.encode()
    return in_order(form, by_class)


def _padded(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write char(n): style `trimmed` without the blanks at its end, `padded` with them."""
    renders = _texts(type, form, rule)
    if form.style == "padded":
        return renders
    return [_trimmed(render) for render in renders] + renders


def _trimmed(render: Render) -> Render:
    return lambda v: render(v.rstrip(" "))


def _bytes(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    by_class: dict[StorageClass, Render] = {StorageClass.BLOB: lambda v: v, StorageClass.TEXT: _as_text}
    if rule.number_as_bytes:
        by_class[StorageClass.INTEGER] = lambda v: None if (text := _as_text(v)) is None else integer_of(text)
        by_class[StorageClass.REAL] = lambda v: None if (text := _as_text(v)) is None else float_of(text)
    return in_order(form, by_class)


def _as_text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


_UUID_STYLES: dict[str, Callable[[str], str]] = {
    "hex": lambda v: v.replace("-", ""),
    "dashes": lambda v: v,
    "HEX": lambda v: v.replace("-", "").upper(),
    "DASHES": lambda v: v.upper(),
}


def _uuids(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a UUID: styles `hex` and `dashes`, in capitals `HEX` and `DASHES`, or as 16 bytes.

    With its dashes it stays text where NUMERIC affinity would make a number of its digits.
    """
    texts: list[Render] = [_UUID_STYLES[style] for style in (form.style, "dashes") if style in _UUID_STYLES]
    as_bytes: list[Render] = [lambda v: UUID(v).bytes]
    return as_bytes + texts if form.storage is StorageClass.BLOB else texts + as_bytes


def _labels(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    return in_order(form, {StorageClass.TEXT: lambda v: v, StorageClass.INTEGER: integer_of})


def _arrays(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write an array as a JSON array of its elements."""
    if type.element is None:
        return []
    element, own = type.element, form.element or default_form(type.element, declared="TEXT")
    if own.storage is StorageClass.BLOB:  # which JSON does not have
        own = replace(own, storage=StorageClass.TEXT)
    write, to_text = writer(element, own, rule), JsonWriter(form.json)

    def render(value: str) -> SqliteValue:
        try:
            nodes = [
                None if item is None else node_of(write(encode_field(item, element)), item, element, own)
                for item in parse_array(value, element)
            ]
        except (Permanent, ValueError):
            return None
        return to_text(nodes)

    return [render]


_RENDERS: dict[PgKind, Callable[[PgType, LexicalForm, ColumnRule], list[Render]]] = {
    PgKind.SMALLINT: integers,
    PgKind.INTEGER: integers,
    PgKind.BIGINT: integers,
    PgKind.REAL: single_floats,
    PgKind.DOUBLE: floats,
    PgKind.NUMERIC: numerics,
    PgKind.BOOLEAN: booleans,
    PgKind.TEXT: _texts,
    PgKind.VARCHAR: _texts,
    PgKind.CHAR: _padded,
    PgKind.BYTEA: _bytes,
    PgKind.DATE: moments,
    PgKind.TIME: times,
    PgKind.TIMESTAMP: moments,
    PgKind.TIMESTAMPTZ: moments,
    PgKind.INTERVAL: intervals,
    PgKind.UUID: _uuids,
    PgKind.JSON: documents,
    PgKind.JSONB: documents,
    PgKind.ENUM: _labels,
    PgKind.ARRAY: _arrays,
    PgKind.UNSUPPORTED: lambda type, form, rule: [],
}

# ---------------------------------------------------------------- the quick way

Quick = Callable[[PgType, LexicalForm, ColumnRule, Field], Field | None]


def _no_quick_way(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    return None


def _quick_integer(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is not StorageClass.INTEGER or form.affinity in (Affinity.TEXT, Affinity.REAL):
        return None
    unpack = _INTEGERS[type.kind].unpack
    return lambda field: unpack(field)[0]


def _quick_double(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is not StorageClass.REAL or form.affinity is Affinity.TEXT:
        return None
    unpack, whole = _FLOAT8.unpack, form.affinity in _WHOLE

    def write(field: bytes) -> SqliteValue:
        value: float = unpack(field)[0]
        if value != value or field == _MINUS_ZERO or (whole and value.is_integer()):  # noqa: PLR0124
            return careful(field)
        return value

    return write


def _quick_single(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is not StorageClass.REAL or form.affinity not in (Affinity.REAL, Affinity.BLOB):
        return None
    pack, unpack = _FLOAT4.pack, _FLOAT4.unpack
    write_one: Callable[[float], float] = float if form.style == "exact" else shortest_single

    def write(field: bytes) -> SqliteValue:
        value = write_one(unpack(field)[0])
        # The shortest digits may lie so near the middle between two float4 that their double reads as the other.
        return value if value == value and value and pack(value) == field else careful(field)  # noqa: PLR0124

    return write


def _quick_numeric(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is not StorageClass.REAL or form.affinity is Affinity.TEXT:
        return None
    try_it = quick_numeric(form)
    return lambda field: careful(field) if (value := try_it(field)) is None else value


def _quick_boolean(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    values = {field: careful(field) for field in (b"\x00", b"\x01")}
    return values.__getitem__


def _quick_text(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    fixed = form.storage is StorageClass.TEXT and form.affinity in (Affinity.TEXT, Affinity.BLOB)
    return bytes.decode if fixed else None


def _quick_bytes(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    return bytes if form.storage is StorageClass.BLOB else None


def _quick_uuid(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is StorageClass.BLOB:
        return bytes
    fixed = form.style == "hex" and form.affinity in (Affinity.TEXT, Affinity.BLOB)
    return bytes.hex if fixed else None


def _quick_moment(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    found = quick_moment(type, form, rule)
    if found is None:
        return None
    start, write_clock, suffix = found
    unpack = (_INT4 if type.kind is PgKind.DATE else _INT8).unpack
    days, plain_date = type.kind is PgKind.DATE, type.kind is PgKind.DATE and not form.moment.between

    def write(field: bytes) -> SqliteValue:
        (count,) = unpack(field)
        try:
            moment = start + (timedelta(count) if days else timedelta(0, 0, count))
        except OverflowError:
            return careful(field)
        text = moment.isoformat()[:10] if plain_date else write_clock(moment)
        return careful(field) if text is None else text + suffix

    return write


def _quick_time(type: PgType, form: LexicalForm, rule: ColumnRule, careful: Field) -> Field | None:
    if form.storage is not StorageClass.TEXT:
        return None
    unpack, write_clock = _INT8.unpack, clock(form.moment, time)

    def write(field: bytes) -> SqliteValue:
        moment = _MIDNIGHT + timedelta(0, 0, unpack(field)[0])
        text = write_clock(moment.time()) if moment.day == 1 else None
        return careful(field) if text is None else text

    return write


_QUICK: dict[PgKind, Quick] = {
    PgKind.SMALLINT: _quick_integer,
    PgKind.INTEGER: _quick_integer,
    PgKind.BIGINT: _quick_integer,
    PgKind.REAL: _quick_single,
    PgKind.DOUBLE: _quick_double,
    PgKind.NUMERIC: _quick_numeric,
    PgKind.BOOLEAN: _quick_boolean,
    PgKind.TEXT: _quick_text,
    PgKind.VARCHAR: _quick_text,
    PgKind.BYTEA: _quick_bytes,
    PgKind.DATE: _quick_moment,
    PgKind.TIME: _quick_time,
    PgKind.TIMESTAMP: _quick_moment,
    PgKind.TIMESTAMPTZ: _quick_moment,
    PgKind.UUID: _quick_uuid,
}
