"""Dates, times and timestamps: ISO 8601 text, or numbers whose unit the rule names; exact to the microsecond."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import lru_cache
from math import isfinite
from zoneinfo import ZoneInfo

from pgferry.convert.numbers import parse_decimal
from pgferry.convert.outcome import Rejected, empty, shown, type_name, unlike
from pgferry.model import ColumnRule, PgKind, PgType

EPOCH = datetime(1970, 1, 1)
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds in each unit of `ColumnRule.epoch`, Julian days apart."""

_TIME = r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?"
_TIME_TEXT = re.compile(_TIME)
_MOMENT_TEXT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[ T]"
    + _TIME
    + r"(?: ?(Z|z|UTC|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2})?)?))?)?"
)
_ZERO_DATE = re.compile(r"0+(?:\.0+)?|0000-00-00(?:[ T].*)?")
# https://www.sqlite.org/lang_datefunc.html: SQLite's moments are whole milliseconds since Julian day 0.
_JULIAN_EPOCH_MILLISECONDS = 210_866_760_000_000
_DAY_MILLISECONDS = 86_400_000


# ---------------------------------------------------------------- the types


def timestamp(value: float | str, type: PgType, rule: ColumnRule) -> datetime | Rejected | None:
    """Return the naive wall clock. A value with an offset is turned into the rule's zone; with none, only offset 0."""
    moment = _moment(value, type, rule)
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        return moment
    if rule.timezone is not None:
        return _wall_clock(moment, value, rule.timezone)
    if moment.utcoffset():
        return Rejected(
            f"{shown(value)} has an offset, which {type_name(type)} cannot hold; name a timezone to turn it"
        )
    return moment.replace(tzinfo=None)


def timestamptz(value: float | str, type: PgType, rule: ColumnRule) -> datetime | Rejected | None:
    """Return the instant, in UTC. Naive text is a wall clock of the rule's zone, by default UTC; numbers are UTC."""
    moment = _moment(value, type, rule)
    if not isinstance(moment, datetime):
        return moment
    if moment.tzinfo is None:
        name = rule.timezone if isinstance(value, str) and _MOMENT_TEXT.fullmatch(value) else None
        located = _locate(moment, value, name)
        if isinstance(located, Rejected):
            return located
        moment = located
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return Rejected(f"{shown(value)} lies outside the years 1 to 9999 in UTC")


def day(value: float | str, type: PgType, rule: ColumnRule) -> date | Rejected | None:
    """Return the date of a timestamp whose time is midnight."""
    moment = timestamp(value, type, rule)
    if not isinstance(moment, datetime):
        return moment
    if moment.time() != time():
        return Rejected(f"{shown(value)} has a time of day, which date cannot hold")
    return moment.date()


def time_from_text(value: str, type: PgType, rule: ColumnRule) -> time | Rejected | None:
    """Accept HH:MM, HH:MM:SS and HH:MM:SS.f below 24:00."""
    if not value:
        return empty(type, rule)
    match = _TIME_TEXT.fullmatch(value)
    if match is None:
        return unlike(value, type)
    microsecond = fraction(match[4], type)
    if microsecond is None:
        return _too_fine(value, type)
    try:
        return time(int(match[1]), int(match[2]), int(match[3] or 0), microsecond)
    except ValueError:
        return unlike(value, type)


# ---------------------------------------------------------------- the forms


def _moment(value: float | str, type: PgType, rule: ColumnRule) -> datetime | Rejected | None:
    """Read any form of a moment: aware when it carries an offset, else naive. Nothing finer than the type."""
    if value == "":
        return empty(type, rule)
    if rule.on_zero_date == "null" and _is_zero(value):
        return None
    if isinstance(value, str) and _ZERO_DATE.fullmatch(value) and (rule.epoch is None or "-" in value):
        return Rejected(f'{shown(value)} is no date; on_zero_date = "null" makes it NULL')
    if isinstance(value, str) and (match := _MOMENT_TEXT.fullmatch(value)):
        return _from_iso(value, match, type)
    number = parse_decimal(value) if isinstance(value, str) else value
    if number is None:
        return unlike(value, type)
    return _from_number(number, value, type, rule)


def _is_zero(value: float | str) -> bool:
    return bool(_ZERO_DATE.fullmatch(value)) if isinstance(value, str) else value == 0


def _from_iso(value: str, match: re.Match[str], type: PgType) -> datetime | Rejected:
    year, month, day_, hour, minute, second, digits, offset = match.groups()
    microsecond = fraction(digits, type)
    if microsecond is None:
        return _too_fine(value, type)
    try:
        moment = datetime(
            int(year), int(month), int(day_), int(hour or 0), int(minute or 0), int(second or 0), microsecond
        )
        return moment if offset is None else moment.replace(tzinfo=_offset(offset))
    except ValueError:
        return Rejected(f"{shown(value)} is no moment of the calendar")


def _offset(text: str) -> timezone:
    """Return an offset up to 15:59:59, as PostgreSQL takes them; raises ValueError beyond."""
    if text in ("Z", "z", "UTC"):
        return UTC
    digits = text[1:].replace(":", "")
    hours, minutes, seconds = (int(digits[at : at + 2] or 0) for at in (0, 2, 4))
    if hours > 15 or minutes > 59 or seconds > 59:
        raise ValueError(text)
    delta = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    return timezone(-delta if text[0] == "-" else delta)


def _from_number(number: float | Decimal, value: object, type: PgType, rule: ColumnRule) -> datetime | Rejected:
    if rule.epoch is None:
        return Rejected(
            f"{shown(value)} is a number, in a {type_name(type)} column; say its unit with epoch = "
            '"s", "ms", "us" or "julian"'
        )
    if not isfinite(number) or not -(10**18) < number < 10**18:
        return Rejected(f"{shown(value)} is no moment of the years 1 to 9999")
    microseconds = _julian(number) if rule.epoch == "julian" else in_microseconds(number, rule.epoch)
    if microseconds is None or not _holds(microseconds, type):
        return _too_fine(value, type)
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return Rejected(f"{shown(value)} is no moment of the years 1 to 9999")


def in_microseconds(number: float | Decimal, unit: str) -> int | None:
    """Return a number of `s`, `ms` or `us` in microseconds; None when it is finer."""
    exact = (Decimal(repr(number)) if isinstance(number, float) else Decimal(number)) * MICROSECONDS[unit]
    return int(exact) if exact == int(exact) else None


def _julian(number: float | Decimal) -> int | None:
    """Return the moment whose `julianday()` is this number: SQLite writes whole milliseconds divided by a day's."""
    days = float(number)
    milliseconds = round(Decimal(days) * _DAY_MILLISECONDS)
    if milliseconds / _DAY_MILLISECONDS != days:
        return None
    return (milliseconds - _JULIAN_EPOCH_MILLISECONDS) * 1000


# ---------------------------------------------------------------- fractions and zones


def fraction(digits: str | None, type: PgType) -> int | None:
    """Return fractional-second digits as microseconds; None when they are finer than the type's precision."""
    if digits is None:
        return 0
    if digits[6:].strip("0"):
        return None
    microseconds = int(digits[:6].ljust(6, "0"))
    return microseconds if _holds(microseconds, type) else None


def _holds(microseconds: int, type: PgType) -> bool:
    # A date has no fraction: its midnight is checked later, with its own reason.
    if type.precision is None or type.kind is PgKind.DATE:
        return True
    finest: int = 10 ** (6 - min(type.precision, 6))
    return microseconds % finest == 0


def _too_fine(value: object, type: PgType) -> Rejected:
    limit = "a microsecond" if type.precision is None else f"{type.precision} digits after the second's point"
    return Rejected(f"{shown(value)} is finer than {limit}, in a {type_name(type)} column")


def _locate(moment: datetime, value: object, name: str | None) -> datetime | Rejected:
    """Place a wall clock in its zone; reject one that a change of the clocks skips or repeats."""
    zone = _zone(name)
    first, second = moment.replace(tzinfo=zone), moment.replace(tzinfo=zone, fold=1)
    if first.utcoffset() != second.utcoffset():
        return Rejected(f"{shown(value)} does not exist or comes twice in {name}, where the clocks change")
    return first


def _wall_clock(moment: datetime, value: object, name: str) -> datetime | Rejected:
    try:
        local = moment.astimezone(_zone(name)).replace(tzinfo=None, fold=0)
    except OverflowError:
        return Rejected(f"{shown(value)} lies outside the years 1 to 9999 in {name}")
    located = _locate(local, value, name)
    return located if isinstance(located, Rejected) else local


@lru_cache(maxsize=64)
def _zone(name: str | None) -> ZoneInfo | timezone:
    return UTC if name is None or name == "UTC" else ZoneInfo(name)
