"""The canonical text of a PostgreSQL array: a JSON array in which every element keeps its exact value."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pgferry.model import PgKind, PgType


def render_array(values: list[Any]) -> str:
    """Write the semantic values of an array's elements; `parse_array` reads them back exactly."""
    return json.dumps([_render(value) for value in values], ensure_ascii=False, separators=(",", ":"))


def parse_array(text: str, element: PgType) -> list[Any]:
    """Read the canonical text of an array whose elements are of that type."""
    parse = _PARSERS.get(element.kind)
    items = json.loads(text)
    return items if parse is None else [None if item is None else parse(item) for item in items]


def _render(value: Any) -> object:
    """Return what JSON holds: integers and booleans as such, everything else as text (JSON has no exact float)."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    return value.hex() if isinstance(value, bytes) else value.isoformat()


_PARSERS: dict[PgKind, Callable[[Any], object]] = {
    PgKind.REAL: float,
    PgKind.DOUBLE: float,
    PgKind.NUMERIC: Decimal,
    PgKind.BYTEA: bytes.fromhex,
    PgKind.DATE: date.fromisoformat,
    PgKind.TIME: time.fromisoformat,
    PgKind.TIMESTAMP: datetime.fromisoformat,
    PgKind.TIMESTAMPTZ: datetime.fromisoformat,
}
