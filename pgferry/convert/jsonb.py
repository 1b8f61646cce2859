"""JSON read without loss, and jsonb as PostgreSQL prints it.

That is: keys by length and then by bytes, one blank after `,` and `:`, numbers as numeric.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any


class Number(str):
    """A JSON number as it was written, so that none of its digits is lost."""

    __slots__ = ()


def refuse_constant(name: str) -> None:
    """Raise ValueError for what Python reads and JSON does not know: NaN, Infinity, -Infinity."""
    raise ValueError(f"{name} is no JSON")


_decoder = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=refuse_constant)


def parse_json(text: str) -> Any:
    """Parse JSON, numbers as `Number`; of equal keys the last counts. Raises ValueError, or RecursionError."""
    return _decoder.decode(text)


def canonical_jsonb(text: str) -> str:
    """Return the text that PostgreSQL prints for a JSON text that it takes as jsonb."""
    return print_json(parse_json(text))


def comparable_json(text: str) -> object:
    """Return the document in a form whose equality is JSON's: numbers by value, and never equal to booleans."""
    return json.loads(text, parse_float=_number, parse_int=_number)


def simplest_json(text: str) -> str:
    """Return the text that all equal documents share: `canonical_jsonb` with numbers without trailing zeros."""
    return print_json(json.loads(text, parse_float=_shortest, parse_int=_shortest, parse_constant=refuse_constant))


def _shortest(digits: str) -> Number:
    plain = _print_number(digits)
    return Number(plain.rstrip("0").rstrip(".") if "." in plain and not plain.lower().count("e") else plain)


def _number(digits: str) -> tuple[str, Decimal]:
    return "number", Decimal(digits)


def print_json(node: Any) -> str:
    """Return the canonical text of a document that `parse_json` returned."""
    return str(_PRINTERS[node.__class__](node))


def _print_object(node: dict[str, Any]) -> str:
    members = [f"{encode_basestring(key)}: {_PRINTERS[node[key].__class__](node[key])}" for key in _in_order(node)]
    return "{" + ", ".join(members) + "}"


def _in_order(keys: Iterable[str]) -> list[str]:
    # Code points sort as their bytes in UTF-8 do; only the length differs. Half a surrogate may be met in json[].
    return sorted(keys, key=lambda key: (len(key) if key.isascii() else len(key.encode(errors="surrogatepass")), key))


def _print_list(node: list[Any]) -> str:
    return "[" + ", ".join([_PRINTERS[item.__class__](item) for item in node]) + "]"


def _print_number(number: str) -> str:
    """Return a JSON number as numeric prints it: its digits kept, no exponent, no negative zero."""
    if number.isdigit():
        return number
    if "e" in number or "E" in number:
        number = _without_exponent(number)
    return number.lstrip("-") if number[0] == "-" and not number.strip("-0.") else number


def _without_exponent(number: str) -> str:
    # A json column can hold 1e999999999, which must not be written out.
    exponent = number.lower().partition("e")[2].lstrip("+-0")
    if len(exponent) > 6:
        return number
    return format(Decimal(number), "f")


# The escapes of encode_basestring are those of PostgreSQL's escape_json: short ones, \u00xx for the other controls.
_PRINTERS: dict[type, Callable[[Any], str]] = {
    Number: _print_number,
    str: encode_basestring,
    dict: _print_object,
    list: _print_list,
    bool: lambda node: "true" if node else "false",
    type(None): lambda node: "null",
}
