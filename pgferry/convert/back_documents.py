"""JSON and arrays on their way back: text as the application's own JSON library writes it."""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any

from pgferry.convert.back_numbers import Render, in_order
from pgferry.convert.jsonb import Number, parse_json
from pgferry.convert.lexical_form import JsonForm, LexicalForm
from pgferry.convert.stored import read_number
from pgferry.model import ColumnRule, PgKind, PgType, SqliteValue, StorageClass

_NUMBERS = (StorageClass.INTEGER, StorageClass.REAL)


def documents(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write JSON: a json's own text, a jsonb's document in the form's style; numbers and BLOBs where those are usual.

    jsonb keeps neither blanks nor the order of keys nor exponents; the form restores what it can know of them.
    """
    write = (lambda text: text) if type.kind is PgKind.JSON else _document_writer(form.json)
    by_class: dict[StorageClass, Render] = {
        StorageClass.TEXT: write,
        StorageClass.INTEGER: lambda text: _number(text, int),
        StorageClass.REAL: lambda text: _number(text, float),
    }
    if rule.blob_as_text:
        by_class[StorageClass.BLOB] = lambda text: str(write(text)).encode()
    return [*in_order(form, by_class), str]


def _number(text: str, kind: type[int] | type[float]) -> SqliteValue:
    number = read_number(text)
    return number if isinstance(number, kind) else None


def _document_writer(form: JsonForm) -> Callable[[str], str]:
    # PostgreSQL prints jsonb as json.dumps does, keys in its own order and nothing escaped.
    as_it_is = (form.comma, form.colon, form.in_order, form.keys) == (", ", ": ", False, ())
    write = JsonWriter(form)

    def of_text(text: str) -> str:
        plain = as_it_is and (text.isascii() or not form.ascii) and "0.0000" not in text
        return text if plain else write(parse_json(text))

    return of_text


class JsonWriter:
    """Writes a document that `parse_json` returned, in the form's style."""

    def __init__(self, form: JsonForm) -> None:
        self._form = form
        self._places = {key: place for place, key in enumerate(form.keys)}
        self._text = encode_basestring_ascii if form.ascii else encode_basestring
        self._writers: dict[type, Callable[[Any], str]] = {
            Number: _number_text,
            str: self._text,
            dict: self._object,
            list: self._list,
            bool: lambda node: "true" if node else "false",
            type(None): lambda node: "null",
        }

    def __call__(self, node: Any) -> str:
        """Return the text; numbers are `Number`, all others what JSON knows."""
        return self._writers[node.__class__](node)

    def _object(self, node: dict[str, Any]) -> str:
        colon = self._form.colon
        members = [f"{self._text(key)}{colon}{self(node[key])}" for key in self._keys(node)]
        return "{" + self._form.comma.join(members) + "}"

    def _list(self, node: list[Any]) -> str:
        return "[" + self._form.comma.join([self(item) for item in node]) + "]"

    def _keys(self, node: dict[str, Any]) -> list[str]:
        if self._form.in_order:
            return sorted(node)
        places = self._places
        return sorted(node, key=lambda key: places.get(key, len(places))) if places else list(node)


def _number_text(number: str) -> str:
    """Write small fractions as Python does (1e-05), when they are the digits of a double and nothing is lost."""
    if "0.0000" not in number[:7] or "e" in number or "E" in number:
        return str(number)
    short = repr(float(number))
    places = len(number.partition(".")[2])
    mantissa, _, exponent = short.partition("e-")
    if not exponent or not float(number):
        return str(number)
    written = len(mantissa.partition(".")[2].rstrip("0")) + int(exponent)
    digits = mantissa.replace(".", "").lstrip("-").rstrip("0")
    return short if places == written and number.rstrip("0").endswith(digits) else str(number)


# ---------------------------------------------------------------- arrays


def node_of(value: SqliteValue, semantic: object, element: PgType, form: LexicalForm) -> object:
    """Return the JSON node of an element that its form wrote as a value of SQLite.

    Raises ValueError for bytes that are no text, which JSON cannot hold.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = value.decode()
    if element.kind in (PgKind.JSON, PgKind.JSONB):
        return parse_json(str(value))
    if element.kind is PgKind.BOOLEAN and form.storage is StorageClass.INTEGER and form.style != "number":
        return bool(value)
    if element.kind is PgKind.NUMERIC and form.storage in _NUMBERS:
        return Number(format(semantic, "f"))
    if isinstance(value, str):
        return value
    # JSON knows no infinities; the rules read these names.
    return Number(repr(value)) if value - value == 0 else repr(value).replace("inf", "Infinity")
