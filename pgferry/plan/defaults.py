"""Translates column defaults: constants by the rules of the conversion, and the usual ways to say "now"."""

from __future__ import annotations

import re
from datetime import date, datetime, time
from decimal import Decimal
from math import isfinite
from typing import Any

from sqlglot import exp

from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType, SqliteValue
from pgferry.plan.translate import Untranslatable, parse
from pgferry.quoting import literal

_UTC = "(now() AT TIME ZONE 'utc')"
_STRFTIME = re.compile(r"strftime\(\s*'([^']*)'\s*,\s*'now'\s*\)", re.IGNORECASE)
_MOMENTS = {
    "current_timestamp": "%Y-%m-%d %H:%M:%S",
    "datetime('now')": "%Y-%m-%d %H:%M:%S",
    "current_date": "%Y-%m-%d",
    "date('now')": "%Y-%m-%d",
    "current_time": "%H:%M:%S",
    "time('now')": "%H:%M:%S",
    "unixepoch()": "%s",
    "unixepoch('now')": "%s",
}
"""Ways to say "now", without blanks and in lower case -> their strftime format."""

_TO_CHAR = {
    "%Y": "YYYY", "%m": "MM", "%d": "DD", "%H": "HH24", "%M": "MI", "%S": "SS", "%f": "SS.MS", "%T": "HH24:MI:SS",
    "%F": "YYYY-MM-DD",
}  # fmt: skip


def translate_default(text: str, type: PgType) -> str | None:
    """Return a default as PostgreSQL's SQL, None for NULL; raises Untranslatable with the reason."""
    inner = _bare(text)
    moment = _format_of_now(inner)
    if moment is not None:
        return _now(moment, type)
    value = _constant(parse(inner))
    converted = convert(value, type, ColumnRule())
    if isinstance(converted, Rejected):
        raise Untranslatable(converted.reason)
    return None if converted is None else _render(converted)


def _bare(text: str) -> str:
    inner = text.strip()
    while inner.startswith("(") and inner.endswith(")"):
        inner = inner[1:-1].strip()
    return inner


def _format_of_now(text: str) -> str | None:
    match = _STRFTIME.fullmatch(text)
    if match:
        return match[1]
    return _MOMENTS.get("".join(text.split()).lower())


def _now(form: str, type: PgType) -> str:
    if form == "%s":
        return _seconds(type)
    has_day, has_time = "%Y" in form or "%F" in form, "%H" in form or "%T" in form
    if type.kind is PgKind.TEXT:
        return f"to_char({_UTC}, {literal(_to_char(form))})"
    if type.kind is PgKind.TIMESTAMPTZ and has_day and has_time:
        return "now()"
    if type.kind is PgKind.TIMESTAMP and has_day:
        return _UTC if has_time else f"date_trunc('day', {_UTC})"
    if type.kind is PgKind.DATE and has_day and not has_time:
        return f"CAST({_UTC} AS date)"
    if type.kind is PgKind.TIME and has_time and not has_day:
        return f"CAST({_UTC} AS time)"
    raise Untranslatable(f"the moment of writing is no {type.kind.value}")


def _seconds(type: PgType) -> str:
    if type.kind not in (PgKind.INTEGER, PgKind.BIGINT):
        raise Untranslatable(f"seconds since 1970 are no {type.kind.value}")
    return "CAST(floor(extract(epoch FROM now())) AS bigint)"


def _to_char(form: str) -> str:
    parts = re.split(r"(%[A-Za-z])", form)
    if any(part.startswith("%") and part not in _TO_CHAR for part in parts):
        raise Untranslatable(f"the format {form} has no translation")
    # Letters outside the patterns would be read as patterns themselves.
    return "".join(_TO_CHAR.get(part) or (f'"{part}"' if any(c.isalpha() for c in part) else part) for part in parts)


def _constant(node: exp.Expression) -> SqliteValue:
    if isinstance(node, exp.Null):
        return None
    if isinstance(node, exp.Paren):
        return _constant(node.this)
    if isinstance(node, exp.Neg):
        return _negative(_constant(node.this))
    return _atom(node)


def _atom(node: exp.Expression) -> int | float | str | bytes:
    if isinstance(node, exp.Boolean):
        return int(bool(node.this))
    if isinstance(node, exp.Literal):
        return node.name if node.args.get("is_string") else _number(node.name)
    if isinstance(node, exp.HexString):
        return bytes.fromhex(str(node.this))
    if isinstance(node, exp.Column) and not node.args.get("table"):
        return node.name  # SQLite takes a name in the place of a default for text
    raise Untranslatable("it is neither a constant nor a known way to say now")


def _negative(value: SqliteValue) -> SqliteValue:
    if isinstance(value, int | float):
        return -value
    raise Untranslatable("it is neither a constant nor a known way to say now")


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _render(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, float):
        return repr(value) if isfinite(value) else literal(str(value))
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    if isinstance(value, datetime):
        return literal(value.isoformat(sep=" "))
    return literal(value.isoformat() if isinstance(value, date | time) else str(value))
