"""The looser spellings of text, which mean something only where the declared type promises it.

Words like `yes` or `12:30` are no boolean or time of day by their look alone; in a column that is declared as such they
are. Like a lexical form, a spelling is a subset of what its PostgreSQL type accepts by the rules of `pgferry.convert`.
"""

from __future__ import annotations

import re
from datetime import date
from enum import StrEnum
from functools import lru_cache

from pgferry.sqlite.forms import Form, Forms


class Spelling(StrEnum):
    """A spelling of text."""

    MINUTES = "dates with hours and minutes, a space between"
    MINUTES_T = "dates with hours and minutes, a T between"
    NAIVE = "dates and times to different precision"
    UTC = "dates and times in UTC"
    OFFSET = "dates and times with an offset"
    MOMENT = "dates and times, some with an offset and some without"
    """Of a column that has none of the others above: whether the naive ones are in UTC is not for us to say."""
    TIME_MINUTES = "times of day with hours and minutes"
    CLOCK = "times of day, some without seconds"
    """Of a column that has neither TIME_MINUTES nor a form: 03:25 beside 01:03:25 may be minutes and seconds."""
    BOOLEAN = "true or false, t or f, yes or no, y or n, on or off"
    JSON = "JSON object, array or null"


Spellings = frozenset[Spelling]

_NO_SPELLING: Spellings = frozenset()
_HOURS_AND_MINUTES = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_CLOCK = rf"{_HOURS_AND_MINUTES}(:[0-5][0-9](?:\.[0-9]{{1,6}}0{{0,3}})?)?"
_OFFSET = r" ?(?:Z|z|UTC|[+-](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"
_MOMENT = re.compile(rf"([0-9]{{4}})-([0-9]{{2}})-([0-9]{{2}})([ T]){_CLOCK}({_OFFSET})?")
_MINUTES = re.compile(_HOURS_AND_MINUTES)
_UTC = re.compile(r"Z|z|UTC|[+-]00(?::?00)?")
TRUE_WORDS = frozenset({"t", "true", "y", "yes", "on"})
"""The words for true, in lower case; the others of `Spelling.BOOLEAN` are for false."""
_WORDS = TRUE_WORDS | {"f", "false", "n", "no", "off"}
_BLANKS = " \t\r\n"
_LONGEST = 64  # of any spelling but JSON

_NAIVE: Spellings = frozenset({Spelling.NAIVE, Spelling.MOMENT})
_IN_UTC: Spellings = frozenset({Spelling.UTC, Spelling.OFFSET, Spelling.MOMENT})
_WITH_OFFSET: Spellings = frozenset({Spelling.OFFSET, Spelling.MOMENT})
_BOOLEAN: Spellings = frozenset({Spelling.BOOLEAN})
_JSON: Spellings = frozenset({Spelling.JSON})
_SECONDS: Spellings = frozenset({Spelling.CLOCK})
_MINUTES_OF_DAY: Spellings = frozenset({Spelling.CLOCK, Spelling.TIME_MINUTES})
_BY_FORM: tuple[tuple[Form, Spellings], ...] = (
    (Form.TIMESTAMP_ANY, _NAIVE),
    (Form.TIMESTAMP_UTC, _IN_UTC),
    (Form.TIMESTAMP_OFFSET, _WITH_OFFSET),
    (Form.TIME, _SECONDS),
    (Form.BOOLEAN, _BOOLEAN),
    (Form.JSON, _JSON),
)


def spellings_of(text: str, forms: Forms) -> Spellings:
    """Return every spelling of a text that has those forms; JSON only by its look, for `json_fit` to confirm."""
    if forms:
        return _implied(forms)
    if text[0] in "n" + _BLANKS and _looks_like_json(text):
        return _JSON
    if len(text) > _LONGEST:
        return _NO_SPELLING
    match = _MOMENT.fullmatch(text)
    if match is not None:
        return _moment(match)
    if text.lower() in _WORDS:
        return _BOOLEAN
    return _MINUTES_OF_DAY if _MINUTES.fullmatch(text) else _NO_SPELLING


@lru_cache(maxsize=64)
def _implied(forms: Forms) -> Spellings:
    return next((spellings for form, spellings in _BY_FORM if form in forms), _NO_SPELLING)


def _looks_like_json(text: str) -> bool:
    bare = text.lstrip(_BLANKS)
    return bare[:1] in ("{", "[") or bare.rstrip(_BLANKS) == "null"


def _moment(match: re.Match[str]) -> Spellings:
    year, month, day, between, seconds, offset = match.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return _NO_SPELLING
    if offset is None:
        minutes = Spelling.MINUTES_T if between == "T" else Spelling.MINUTES
        return _NAIVE if seconds else _NAIVE | {minutes}
    if not "0002" <= year < "9999":  # an offset may carry the outermost years beyond the calendar
        return _NO_SPELLING
    return _IN_UTC if _UTC.fullmatch(offset.lstrip()) else _WITH_OFFSET
