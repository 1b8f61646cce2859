"""Single fields of COPY's binary format: what each type's send function writes, from the semantic value and back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pgferry.convert.durations import Duration
from pgferry.convert.elements import parse_array, render_array
from pgferry.convert.jsonb import canonical_jsonb, comparable_json, simplest_json
from pgferry.convert.numeric_wire import decode_numeric, encode_numeric
from pgferry.model import PgKind, PgType

_EPOCH_DATE = date(2000, 1, 1)
_EPOCH = datetime(2000, 1, 1)
_EPOCH_UTC = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_JSONB_VERSION = b"\x01"

_INT2, _INT4, _INT8 = struct.Struct("!h"), struct.Struct("!i"), struct.Struct("!q")
_FLOAT4, _FLOAT8 = struct.Struct("!f"), struct.Struct("!d")
_INTERVAL = struct.Struct("!qii")
_ARRAY_HEAD, _DIMENSION = struct.Struct("!iiI"), struct.Struct("!ii")

# pg_type.dat of PostgreSQL: the oids of built-in types never change.
_OIDS = {
    PgKind.BOOLEAN: 16,
    PgKind.BYTEA: 17,
    PgKind.BIGINT: 20,
    PgKind.SMALLINT: 21,
    PgKind.INTEGER: 23,
    PgKind.TEXT: 25,
    PgKind.JSON: 114,
    PgKind.REAL: 700,
    PgKind.DOUBLE: 701,
    PgKind.CHAR: 1042,
    PgKind.VARCHAR: 1043,
    PgKind.DATE: 1082,
    PgKind.TIME: 1083,
    PgKind.TIMESTAMP: 1114,
    PgKind.TIMESTAMPTZ: 1184,
    PgKind.INTERVAL: 1186,
    PgKind.NUMERIC: 1700,
    PgKind.UUID: 2950,
    PgKind.JSONB: 3802,
}


def encode_field(value: Any, type: PgType) -> bytes:
    """Return the bytes that PostgreSQL sends for a semantic value (as `rules.convert` returns it, not None)."""
    return _CODECS[type.kind][0](value, type)


def decode_field(raw: bytes, type: PgType) -> object:
    """Return the semantic value of the bytes that PostgreSQL sent, in the form of `rules.convert`.

    A moment that Python has no value for (infinity, years beyond 9999 or before 1, 24:00) comes as a text that says so.
    """
    return _CODECS[type.kind][1](raw, type)


def equal_field(one: bytes | None, other: bytes | None, type: PgType) -> bool:
    """Say whether two fields hold the same value, though their bytes may differ.

    numeric compares without its display scale, json and jsonb as documents, char(n) without its trailing blanks, arrays
    by element. All else is equal only when the bytes are: 0.0 is not -0.0, one month is not thirty days.
    """
    if one == other or one is None or other is None:
        return one == other
    compare = _EQUALITY.get(type.kind)
    return compare is not None and compare(one, other, type)


def interchangeable(one: bytes | None, other: bytes | None, type: PgType) -> bool:
    """Say whether two fields are equal as far as SQLite can tell: as `equal_field`, and zeros of either sign.

    A REAL column of SQLite has one zero only (https://www.sqlite.org/floatingpoint.html).
    """
    if equal_field(one, other, type):
        return True
    floats = type.kind in (PgKind.REAL, PgKind.DOUBLE) and one is not None and other is not None
    return floats and _unsigned_zero(one) == _unsigned_zero(other)


def canonical_field(raw: bytes, type: PgType) -> bytes:
    """Return the one form of a field that all fields share which `equal_field` says are equal.

    It is for marks and lookups, not for the server. Documents with numbers beyond a million digits stay as they are.
    """
    canonical = _CANONICAL.get(type.kind)
    return raw if canonical is None else canonical(raw, type)


# ---------------------------------------------------------------- codecs

Encode = Callable[[Any, PgType], bytes]
Decode = Callable[[bytes, PgType], object]


def _packed(layout: struct.Struct) -> tuple[Encode, Decode]:
    return lambda value, type: layout.pack(value), lambda raw, type: layout.unpack(raw)[0]


_TEXT: tuple[Encode, Decode] = (lambda value, type: value.encode(), lambda raw, type: raw.decode())


def _encode_moment(value: datetime, type: PgType) -> bytes:
    return _INT8.pack((value - (_EPOCH_UTC if type.kind is PgKind.TIMESTAMPTZ else _EPOCH)) // _MICROSECOND)


def _decode_moment(raw: bytes, type: PgType) -> object:
    (microseconds,) = _INT8.unpack(raw)
    epoch = _EPOCH_UTC if type.kind is PgKind.TIMESTAMPTZ else _EPOCH
    try:
        return epoch + timedelta(microseconds=microseconds)
    except OverflowError:
        return _infinity(microseconds, 2**63) or f"2000-01-01 and {microseconds} microseconds"


def _decode_date(raw: bytes, type: PgType) -> object:
    (days,) = _INT4.unpack(raw)
    try:
        return _EPOCH_DATE + timedelta(days=days)
    except OverflowError:
        return _infinity(days, 2**31) or f"2000-01-01 and {days} days"


def _infinity(count: int, limit: int) -> str | None:
    return {limit - 1: "infinity", -limit: "-infinity"}.get(count)


def _encode_time(value: time, type: PgType) -> bytes:
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return _INT8.pack(seconds * 1_000_000 + value.microsecond)


def _decode_time(raw: bytes, type: PgType) -> object:
    moment = _EPOCH + timedelta(microseconds=_INT8.unpack(raw)[0])
    return moment.time() if moment.date() == _EPOCH_DATE else "24:00:00"


def _encode_interval(value: str, type: PgType) -> bytes:
    duration = Duration.parse(value)
    return _INTERVAL.pack(duration.microseconds, duration.days, duration.months)


def _decode_interval(raw: bytes, type: PgType) -> str:
    microseconds, days, months = _INTERVAL.unpack(raw)
    return str(Duration(months, days, microseconds))


def _decode_jsonb(raw: bytes, type: PgType) -> str:
    if raw[:1] != _JSONB_VERSION:
        raise ValueError(f"jsonb of version {raw[:1].hex()} is not known")
    return raw[1:].decode()


def _encode_array(value: str, type: PgType) -> bytes:
    element = _element(type)
    items = parse_array(value, element)
    oid = element.oid or _OIDS.get(element.kind, 0)
    has_null = any(item is None for item in items)
    head = _ARRAY_HEAD.pack(1 if items else 0, has_null, oid)
    if not items:
        return head
    return head + _DIMENSION.pack(len(items), 1) + b"".join(_framed(item, element) for item in items)


def _framed(item: object, element: PgType) -> bytes:
    if item is None:
        return _INT4.pack(-1)
    raw = encode_field(item, element)
    return _INT4.pack(len(raw)) + raw


def _decode_array(raw: bytes, type: PgType) -> str:
    element = _element(type)
    return render_array([None if item is None else decode_field(item, element) for item in _items(raw)])


def _items(raw: bytes) -> list[bytes | None]:
    """Split an array of at most one dimension; raises ValueError for more, which pgferry never writes."""
    dimensions, _, _ = _ARRAY_HEAD.unpack_from(raw)
    if dimensions > 1:
        raise ValueError(f"an array of {dimensions} dimensions")
    at = _ARRAY_HEAD.size + dimensions * _DIMENSION.size
    items: list[bytes | None] = []
    while at < len(raw):
        (length,) = _INT4.unpack_from(raw, at)
        at += _INT4.size
        items.append(None if length < 0 else raw[at : at + length])
        at += max(length, 0)
    return items


def _element(type: PgType) -> PgType:
    if type.element is None:
        raise ValueError("the array's element type is not known")
    return type.element


_CODECS: dict[PgKind, tuple[Encode, Decode]] = {
    PgKind.SMALLINT: _packed(_INT2),
    PgKind.INTEGER: _packed(_INT4),
    PgKind.BIGINT: _packed(_INT8),
    PgKind.REAL: _packed(_FLOAT4),
    PgKind.DOUBLE: _packed(_FLOAT8),
    PgKind.NUMERIC: (lambda value, type: encode_numeric(Decimal(value)), lambda raw, type: decode_numeric(raw)),
    PgKind.BOOLEAN: (lambda value, type: b"\x01" if value else b"\x00", lambda raw, type: raw != b"\x00"),
    PgKind.TEXT: _TEXT,
    PgKind.VARCHAR: _TEXT,
    PgKind.CHAR: _TEXT,
    PgKind.BYTEA: (lambda value, type: value, lambda raw, type: raw),
    PgKind.DATE: (lambda value, type: _INT4.pack((value - _EPOCH_DATE).days), _decode_date),
    PgKind.TIME: (_encode_time, _decode_time),
    PgKind.TIMESTAMP: (_encode_moment, _decode_moment),
    PgKind.TIMESTAMPTZ: (_encode_moment, _decode_moment),
    PgKind.INTERVAL: (_encode_interval, _decode_interval),
    PgKind.UUID: (lambda value, type: UUID(value).bytes, lambda raw, type: str(UUID(bytes=raw))),
    PgKind.JSON: _TEXT,
    PgKind.JSONB: (lambda value, type: _JSONB_VERSION + canonical_jsonb(value).encode(), _decode_jsonb),
    PgKind.ENUM: _TEXT,
    PgKind.ARRAY: (_encode_array, _decode_array),
}


# ---------------------------------------------------------------- equality


def _same_numeric(one: bytes, other: bytes, type: PgType) -> bool:
    return decode_numeric(one) == decode_numeric(other)


def _same_document(one: bytes, other: bytes, type: PgType) -> bool:
    texts = [str(decode_field(raw, type)) for raw in (one, other)]
    try:
        return comparable_json(texts[0]) == comparable_json(texts[1])
    except (ValueError, ArithmeticError, RecursionError):
        return False


def _same_padded(one: bytes, other: bytes, type: PgType) -> bool:
    return one.rstrip(b" ") == other.rstrip(b" ")


def _same_array(one: bytes, other: bytes, type: PgType) -> bool:
    try:
        pairs = list(zip(_items(one), _items(other), strict=True))
    except ValueError:
        return False
    return all(equal_field(left, right, _element(type)) for left, right in pairs)


def _unsigned_zero(raw: bytes | None) -> bytes | None:
    return bytes(len(raw)) if raw and raw[0] == 0x80 and not any(raw[1:]) else raw


_EQUALITY: dict[PgKind, Callable[[bytes, bytes, PgType], bool]] = {
    PgKind.NUMERIC: _same_numeric,
    PgKind.JSON: _same_document,
    PgKind.JSONB: _same_document,
    PgKind.CHAR: _same_padded,
    PgKind.ARRAY: _same_array,
}


# ---------------------------------------------------------------- canonical forms

_DISPLAY_SCALE = slice(6, 8)


def _without_scale(raw: bytes, type: PgType) -> bytes:
    return raw[: _DISPLAY_SCALE.start] + raw[_DISPLAY_SCALE.stop :]


def _plain_document(raw: bytes, type: PgType) -> bytes:
    try:
        return simplest_json(str(decode_field(raw, type))).encode("utf-8", "surrogatepass")
    except (ValueError, ArithmeticError, RecursionError):
        return raw


def _without_padding(raw: bytes, type: PgType) -> bytes:
    return raw.rstrip(b" ")


def _plain_array(raw: bytes, type: PgType) -> bytes:
    try:
        items = _items(raw)
    except ValueError:
        return raw
    element = _element(type)
    plain = [None if item is None else canonical_field(item, element) for item in items]
    return b"".join(_INT4.pack(-1) if item is None else _INT4.pack(len(item)) + item for item in plain)


_CANONICAL: dict[PgKind, Callable[[bytes, PgType], bytes]] = {
    PgKind.NUMERIC: _without_scale,
    PgKind.JSON: _plain_document,
    PgKind.JSONB: _plain_document,
    PgKind.CHAR: _without_padding,
    PgKind.ARRAY: _plain_array,
}
