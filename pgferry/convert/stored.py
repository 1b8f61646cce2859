"""What SQLite makes of a value when it stores it in a column (https://www.sqlite.org/datatype3.html#type_affinity)."""

from __future__ import annotations

import re

from pgferry.model import Affinity, SqliteValue

_NUMBER = re.compile(
    r"[ \t\n\v\f\r]*([+-]?(?:([0-9]+)|[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?"
    r"|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?))[ \t\n\v\f\r]*"
)
_LEAST, _GREATEST = -(2**63), 2**63 - 1


def stored(value: SqliteValue, affinity: Affinity) -> SqliteValue:
    """Return the value that the column holds after this one is written to it; writing that one again changes nothing.

    In one case it is not SQLite's own answer but a better one: a float in a column of text affinity becomes its
    shortest exact digits, where SQLite would write 15 of them.
    """
    if value is None or affinity is Affinity.BLOB or isinstance(value, bytes):
        return value
    if affinity is Affinity.TEXT:
        return value if isinstance(value, str) else str(value)
    number = read_number(value) if isinstance(value, str) else value
    if number is None:
        return value
    if affinity is Affinity.REAL:
        return float(number) + 0.0  # SQLite has no -0.0 in such a column
    return _whole(number) if isinstance(number, float) else number


def read_number(text: str) -> int | float | None:
    """Return the number that a column with a numeric affinity makes of a text; None when it stays text."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if match[2] is not None and len(match[2].lstrip("0")) <= 19 and _LEAST <= (whole := int(match[1])) <= _GREATEST:
        return whole
    return float(match[1])


def _whole(value: float) -> int | float:
    """Return a float as the integer that SQLite keeps in its place, if it does."""
    if value - value != 0.0 or value != int(value):
        return value
    return int(value) if _LEAST < int(value) < _GREATEST else value
