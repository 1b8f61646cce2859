"""Whether what the two databases answer to the same question is the same, value by value.

A value of either side is brought into one plain form, by the type that PostgreSQL says its column has: SQLite's 1 is
true, its '2024-02-29 12:00:00.000000' a timestamp, its text a document. What has no such form stays as it is, and is
then equal to nothing else.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

Row = tuple[Any, ...]
Form = Callable[[Any], Hashable]

TOLERANCE = 1e-9
"""How far computed numbers may lie apart, relative: sums of floats depend on the order in which they are added."""

_EPOCH = datetime(1970, 1, 1)
_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


@dataclass(frozen=True, slots=True)
class Column:
    """How a column's values are compared."""

    form: Form
    computed: bool
    """Whether a number may be off by `TOLERANCE`."""


def column(type_name: str, computed: bool, numbers_as_text: bool = False) -> Column:
    """Return how values of a PostgreSQL type (its name in pg_type) compare with SQLite's.

    `numbers_as_text`: SQLite gives numbers where PostgreSQL gives text, as for values out of JSON.
    """
    if type_name.endswith("[]"):
        inner = _FORMS.get(type_name.removesuffix("[]"), _text)
        return Column(lambda value: _array(value, inner), computed)
    form = _FORMS.get(type_name, _text)
    return Column(_number_in_text if form is _text and numbers_as_text else form, computed)


def plain_rows(rows: Iterable[Sequence[Any]], columns: Sequence[Column]) -> list[Row]:
    """Return rows of either side in plain form."""
    return [tuple(_plain(value, c.form) for value, c in zip(row, columns, strict=True)) for row in rows]


def _plain(value: Any, form: Form) -> Hashable:
    if value is None:
        return None
    try:
        return form(value)
    except (ValueError, TypeError, ArithmeticError):
        # Not equal to a value of the column's type, and equal to itself.
        return ("no value of its type", type(value).__name__, str(value))


# ---------------------------------------------------------------- forms


def _boolean(value: Any) -> bool:
    word = str(int(value)) if isinstance(value, bool | int) else str(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(word)


def _number(value: Any) -> Decimal | str:
    """Return a number's exact value; the shortest digits of a float are its value."""
    if isinstance(value, bool | bytes):
        raise TypeError(value)
    number = Decimal(repr(value) if isinstance(value, float) else str(value).strip())
    return number if number.is_finite() else str(number)


def _float(value: Any) -> float | str:
    if isinstance(value, bool | bytes):
        raise TypeError(value)
    number = float(value)
    return "NaN" if math.isnan(number) else number


def _datetime(value: Any) -> datetime:
    """Return a moment in UTC without a zone; what has no zone is in UTC. Numbers are epochs, as their size says."""
    if isinstance(value, int | float):
        return _EPOCH + timedelta(seconds=value / _unit(abs(value)))
    moment = value if isinstance(value, datetime) else _parsed(value)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _parsed(value: Any) -> datetime:
    return datetime.combine(value, time()) if isinstance(value, date) else datetime.fromisoformat(value)


def _unit(size: float) -> int:
    """Return the parts of a second that an epoch counts: seconds reach the year 5138 before they look like others."""
    return 1 if size < 1e11 else 1_000 if size < 1e14 else 1_000_000


def _date(value: Any) -> date:
    moment = _datetime(value)
    if moment.time() != time():
        raise ValueError(value)
    return moment.date()


def _time(value: Any) -> time:
    return value if isinstance(value, time) else time.fromisoformat(value)


def _interval(value: Any) -> timedelta:
    """Return a duration; SQLAlchemy stores it in SQLite as a moment counted from 1970."""
    if isinstance(value, timedelta):
        return value
    return timedelta(seconds=value) if isinstance(value, int | float) else datetime.fromisoformat(value) - _EPOCH


def _uuid(value: Any) -> UUID:
    # asyncpg has a class of its own, which compares with the standard one but is no subclass everywhere.
    return UUID(bytes=value) if isinstance(value, bytes) else UUID(str(value))


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)


def _document(value: Any) -> Hashable:
    """Return JSON by its meaning: neither the order of keys nor spaces nor trailing zeros count."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return _frozen(json.loads(text, parse_int=Decimal, parse_float=Decimal))


def _frozen(node: Any) -> Hashable:
    if isinstance(node, dict):
        return ("object", frozenset((name, _frozen(part)) for name, part in node.items()))
    if isinstance(node, list):
        return ("array", *map(_frozen, node))
    return (type(node).__name__, node)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else str(value)


def _padded(value: Any) -> str:
    return _text(value).rstrip(" ")


def _number_in_text(value: Any) -> Hashable:
    """Return text by the number or the truth that it spells, if it spells one."""
    if value in ("true", "false"):
        return Decimal(value == "true")
    try:
        return _number(value)
    except ArithmeticError:
        return _text(value)


def _array(value: Any, inner: Form) -> Hashable:
    items = json.loads(value) if isinstance(value, str) else value
    return tuple(None if item is None else inner(item) for item in items)


_FORMS: dict[str, Form] = {
    "bool": _boolean,
    "int2": _number,
    "int4": _number,
    "int8": _number,
    "oid": _number,
    "numeric": _number,
    "float4": _float,
    "float8": _float,
    "timestamp": _datetime,
    "timestamptz": _datetime,
    "date": _date,
    "time": _time,
    "interval": _interval,
    "uuid": _uuid,
    "bytea": _bytes,
    "json": _document,
    "jsonb": _document,
    "bpchar": _padded,
}


# ---------------------------------------------------------------- rows


def close(one: Any, other: Any, col: Column) -> bool:
    """Say whether two plain values are equal, or two computed numbers nearly so."""
    if one == other:
        return True
    numbers = isinstance(one, Decimal | float) and isinstance(other, Decimal | float)
    return col.computed and numbers and math.isclose(float(one), float(other), rel_tol=TOLERANCE)


def unmatched(one: Sequence[Row], other: Sequence[Row], columns: Sequence[Column]) -> tuple[list[int], list[int], int]:
    """Compare plain rows as multisets.

    Returns the places of rows that only the one, and that only the other side has, and the number of rows that are
    equal only within `TOLERANCE`.
    """
    common = Counter(one) & Counter(other)
    lone, lother = _without(one, common.copy()), _without(other, common.copy())
    computed = [place for place, col in enumerate(columns) if col.computed]
    if not lone or not lother or not computed:
        return lone, lother, 0
    return _match_nearly(one, other, (lone, lother), columns, computed)


def _without(rows: Sequence[Row], common: Counter[Row]) -> list[int]:
    left = []
    for place, row in enumerate(rows):
        if common[row] > 0:
            common[row] -= 1
        else:
            left.append(place)
    return left


def _match_nearly(
    one: Sequence[Row],
    other: Sequence[Row],
    left: tuple[list[int], list[int]],
    columns: Sequence[Column],
    computed: list[int],
) -> tuple[list[int], list[int], int]:
    """Pair what is left by its exact columns, and within these in the order of its numbers."""
    buckets: defaultdict[Row, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((one, other)):
        for place in left[side]:
            exact = tuple(None if position in computed else value for position, value in enumerate(rows[place]))
            buckets[exact][side].append(place)
    mine: list[int] = []
    theirs: list[int] = []
    near = 0
    for first, second in buckets.values():
        first.sort(key=lambda place: _order(one[place], computed))
        second.sort(key=lambda place: _order(other[place], computed))
        lone, lother = _merge(first, second, one, other, columns, computed)
        near += len(first) - len(lone)
        mine += lone
        theirs += lother
    return sorted(mine), sorted(theirs), near


def _order(row: Row, computed: list[int]) -> list[tuple[int, float, str]]:
    values = [row[place] for place in computed]
    return [(0, float(v), "") if isinstance(v, Decimal | float) else (1, 0.0, str(v)) for v in values]


def _merge(
    first: list[int],
    second: list[int],
    one: Sequence[Row],
    other: Sequence[Row],
    columns: Sequence[Column],
    computed: list[int],
) -> tuple[list[int], list[int]]:
    """Walk two sorted lists and drop the pairs that are nearly equal."""
    lone: list[int] = []
    lother: list[int] = []
    a = b = 0
    while a < len(first) and b < len(second):
        mine, theirs = one[first[a]], other[second[b]]
        if all(close(mine[place], theirs[place], columns[place]) for place in computed):
            a, b = a + 1, b + 1
        elif _order(mine, computed) < _order(theirs, computed):
            lone.append(first[a])
            a += 1
        else:
            lother.append(second[b])
            b += 1
    return lone + first[a:], lother + second[b:]
