"""JSON and arrays: the text is kept as it was written, once it is known that PostgreSQL takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pgferry.convert.jsonb import Number, parse_json, print_json, refuse_constant
from pgferry.convert.numbers import fit_numeric, parse_decimal
from pgferry.convert.outcome import Rejected, empty, shown, type_name
from pgferry.convert.text import surrogate, without_nul
from pgferry.model import ColumnRule, PgKind, PgType

DEEPEST = 300
"""Levels of nesting that are taken. Far below what PostgreSQL parses, and within Python's stack in any caller."""

# The backslashes before it are an even number, so that `\\u0000` (an escaped backslash) is left alone.
_ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LARGEST_JSONB = 2**28 - 1


# No number in a text of this length has more digits than numeric holds, as long as it has no exponent.
_CLOSER_LOOK = 4_000
_EXPONENT = re.compile(r"[0-9][eE]")
_quick_decoder = json.JSONDecoder(parse_constant=refuse_constant)
_UNCONSTRAINED = PgType(PgKind.NUMERIC)


# ---------------------------------------------------------------- json and jsonb


def json_from_text(value: str, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept strict JSON (RFC 8259); for jsonb also what its strings and numbers can hold."""
    if not value:
        return empty(type, rule)
    text = without_nul(value, rule)
    if isinstance(text, Rejected):
        return text
    if type.kind is PgKind.JSONB and rule.on_nul == "strip":
        text = _ESCAPED_NUL.sub(r"\1", text)
    reason = _fault(text, type)
    return text if reason is None else Rejected(reason)


def json_from_integer(value: int, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept: a declared type JSON has NUMERIC affinity, which makes the text `5` a number."""
    return str(value)


def json_from_real(value: float, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept a finite number, as `json_from_integer`."""
    return json_from_text(repr(value), type, rule)


def json_from_blob(value: bytes, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept JSON text stored as a BLOB when the rule says so; SQLite's own binary JSONB is rejected."""
    if not rule.blob_as_text:
        return Rejected(f"{shown(value)} where {type_name(type)} is expected; blob_as_text = true reads UTF-8 JSON")
    try:
        return json_from_text(value.decode("utf-8"), type, rule)
    except UnicodeDecodeError:
        return Rejected(f"{shown(value)} is no JSON text")


def _fault(text: str, type: PgType) -> str | None:
    """Return why PostgreSQL would not take the text as that type, or None."""
    if _too_deep(text):
        return f"{shown(text)} is nested more than {DEEPEST} levels deep"
    if _plainly_held(text):
        return None
    try:
        document = parse_json(text)
    except RecursionError:
        return f"{shown(text)} is nested too deeply"
    except ValueError as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else f": {error}"
        return f"{shown(text)} is no JSON{where}"
    broken = surrogate(text)
    if broken is not None:
        return broken.reason
    return _jsonb_fault(text, document) if type.kind is PgKind.JSONB else None


def _plainly_held(text: str) -> bool:
    """Say whether it is JSON without anything that jsonb might not hold; False only means a closer look."""
    if (
        len(text) > _CLOSER_LOOK
        or "\\u" in text
        or _EXPONENT.search(text)
        or not (text.isascii() or surrogate(text) is None)
    ):
        return False
    try:
        _quick_decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _too_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for mark in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if mark in "[{" else -1
        if depth > DEEPEST:
            return True
    return False


def _jsonb_fault(text: str, document: object) -> str | None:
    if len(text) > _LARGEST_JSONB // 4 and len(text.encode()) > _LARGEST_JSONB:
        return f"JSON of {len(text)} characters is larger than jsonb holds"
    return _leaf_fault(document)


def _leaf_fault(node: object) -> str | None:
    if isinstance(node, Number):
        return (
            None if fits_numeric(node) else f"the number {shown(str(node)).strip(chr(39))} is larger than jsonb holds"
        )
    if isinstance(node, str):
        return _string_fault(node)
    if isinstance(node, dict):
        children: list[object] = [*node.keys(), *node.values()]
    elif isinstance(node, list):
        children = node
    else:
        return None
    for child in children:
        if (fault := _leaf_fault(child)) is not None:
            return fault
    return None


def _string_fault(text: str) -> str | None:
    if "\x00" in text:
        return r'\u0000 in JSON, which jsonb cannot hold; on_nul = "strip" takes it out'
    if not text.isascii() and surrogate(text) is not None:
        return r"half of a surrogate pair (\ud800 to \udfff) in JSON, which jsonb cannot hold"
    return None


def fits_numeric(number: str) -> bool:
    """Say whether a JSON number lies within the limits of numeric."""
    if len(number) < 300 and "e" not in number and "E" not in number:
        return True
    decimal = parse_decimal(number)
    return decimal is not None and not isinstance(fit_numeric(decimal, _UNCONSTRAINED), Rejected)


# ---------------------------------------------------------------- arrays

Convert = Callable[[Any, PgType, ColumnRule], object]


def array_from_text(value: str, type: PgType, rule: ColumnRule, convert: Convert) -> list[object] | Rejected | None:
    """Convert each element of a JSON array by the element type's own rules; arrays within arrays are rejected."""
    if not value:
        return empty(type, rule)
    try:
        items = None if _too_deep(value) else parse_json(value)
    except (ValueError, RecursionError):
        return Rejected(f"{shown(value)} is no JSON array, for {type_name(type)}")
    if not isinstance(items, list):
        return Rejected(f"{shown(value)} is no JSON array, for {type_name(type)}")
    if type.element is None:
        return Rejected("the array's element type is not known")
    return _elements(items, type.element, rule, convert)


def _elements(items: list[Any], element: PgType, rule: ColumnRule, convert: Convert) -> list[object] | Rejected:
    converted: list[object] = []
    for position, item in enumerate(items, 1):
        value = _element(item, element, rule, convert)
        if isinstance(value, Rejected):
            return Rejected(f"element {position}: {value.reason}")
        converted.append(value)
    return converted


def _element(item: Any, element: PgType, rule: ColumnRule, convert: Convert) -> object:
    if element.kind in (PgKind.JSON, PgKind.JSONB):
        return None if item is None else convert(print_json(item), element, rule)
    if isinstance(item, list | dict):
        return Rejected(f"a nested {'array' if isinstance(item, list) else 'object'}")
    if isinstance(item, bool) and element.kind is not PgKind.BOOLEAN:
        return Rejected(f"{str(item).lower()} is no {type_name(element)}")
    return convert(_stored(item, element) if isinstance(item, Number) else item, element, rule)


# The kinds whose rule for text keeps every digit of a number as it was written.
_EXACT_FROM_TEXT = (PgKind.NUMERIC, PgKind.DOUBLE, PgKind.REAL, PgKind.TEXT, PgKind.VARCHAR, PgKind.CHAR)


def _stored(number: Number, element: PgType) -> int | float | str:
    """Return a JSON number as SQLite would store it, or as text where that keeps more digits."""
    if element.kind in _EXACT_FROM_TEXT:
        return str(number)
    if number.lstrip("-").isdigit():
        return int(number) if len(number) <= 19 else str(number)
    return float(number)
