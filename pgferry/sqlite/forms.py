"""The lexical forms of text that decide a column's type.

A form is a subset of what its PostgreSQL type accepts: text that has the form converts without loss of meaning.
"""

from __future__ import annotations

import json
import re
from datetime import date
from enum import IntEnum, StrEnum

from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType


class Form(StrEnum):
    """A lexical form of text."""

    DATE = "ISO date"
    TIMESTAMP = "ISO date and time, a space between"
    TIMESTAMP_T = "ISO date and time, a T between"
    TIMESTAMP_ANY = "ISO date or date and time"
    TIMESTAMP_UTC = "ISO date and time in UTC"
    TIMESTAMP_OFFSET = "ISO date and time with an offset"
    TIME = "time of day"
    UUID = "UUID in lower case with dashes"
    UUID_ANY = "UUID"
    INTEGER = "integer in digits"
    DECIMAL = "decimal number in digits"
    BOOLEAN = "true or false"
    JSON = "JSON object or array"


class JsonFit(IntEnum):
    """Which JSON type holds a text; jsonb keeps one of several equal keys, so such text is for json."""

    NONE = 0
    JSON = 1
    JSONB = 2


Forms = frozenset[Form]

SORTED_FORMS: Forms = frozenset({Form.DATE, Form.TIMESTAMP, Form.TIMESTAMP_T, Form.TIME})
"""Forms whose texts, when all are of one length, sort as the moments that they name, and name no moment twice."""

_JSON, _JSONB, _NO_RULE = PgType(PgKind.JSON), PgType(PgKind.JSONB), ColumnRule()
_NO_FORM: Forms = frozenset()
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
_MOMENT = re.compile(rf"([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})(?:([ T]){_CLOCK}(Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9])?)?")
_TIME = re.compile(_CLOCK)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_ANY = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}")
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?")
_WORDS = frozenset({"t", "f", "true", "false"})
_UTC = frozenset({"Z", "+00:00", "-00:00"})
_LONGEST = 202  # of any form but JSON

_OF_MOMENTS: dict[str | None, Forms] = {
    None: frozenset({Form.DATE, Form.TIMESTAMP_ANY}),
    " ": frozenset({Form.TIMESTAMP, Form.TIMESTAMP_ANY}),
    "T": frozenset({Form.TIMESTAMP_T, Form.TIMESTAMP_ANY}),
}
_OF_UTC: Forms = frozenset({Form.TIMESTAMP_UTC, Form.TIMESTAMP_OFFSET})
_OF_OFFSETS: Forms = frozenset({Form.TIMESTAMP_OFFSET})
_OF_JSON: Forms = frozenset({Form.JSON})


def forms_of(text: str) -> Forms:
    """Return every form that a text has; JSON only by its first character, for `json_fit` to confirm."""
    if text[:1] in ("{", "["):
        return _OF_JSON
    if len(text) > _LONGEST:
        return _NO_FORM
    match = _MOMENT.fullmatch(text)
    if match is not None:
        return _moment(match)
    return _numbers(text) | _others(text)


def _moment(match: re.Match[str]) -> Forms:
    year, month, day, between, offset = match.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return _NO_FORM
    if offset is None:
        return _OF_MOMENTS[between]
    if not "0002" <= year < "9999":  # an offset may carry the outermost years beyond the calendar
        return _NO_FORM
    return _OF_UTC if offset in _UTC else _OF_OFFSETS


def _numbers(text: str) -> Forms:
    if _DECIMAL.fullmatch(text) is None:
        return _NO_FORM
    whole = _INTEGER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63
    return frozenset({Form.DECIMAL, Form.INTEGER} if whole else {Form.DECIMAL})


def _others(text: str) -> Forms:
    if len(text) in (32, 36) and _UUID_ANY.fullmatch(text):
        return frozenset({Form.UUID, Form.UUID_ANY} if _UUID.fullmatch(text) else {Form.UUID_ANY})
    if text.lower() in _WORDS:
        return frozenset({Form.BOOLEAN})
    return frozenset({Form.TIME}) if _TIME.fullmatch(text) else _NO_FORM


def json_fit(text: str) -> JsonFit:
    """Say which JSON type takes a text, by the rules of `pgferry.convert`."""
    if not isinstance(convert(text, _JSONB, _NO_RULE), Rejected) and not _repeats_a_key(text):
        return JsonFit.JSONB
    return JsonFit.NONE if isinstance(convert(text, _JSON, _NO_RULE), Rejected) else JsonFit.JSON


def _repeats_a_key(text: str) -> bool:
    if text.count(":") < 2:
        return False
    repeated = False

    def count(pairs: list[tuple[str, object]]) -> None:
        nonlocal repeated
        repeated |= len({key for key, _ in pairs}) != len(pairs)

    json.loads(text, object_pairs_hook=count, parse_int=str)
    return repeated
