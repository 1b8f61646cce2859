"""Intervals: PostgreSQL keeps months, days and microseconds apart, and so does their text here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from pgferry.convert.moments import EPOCH, fraction, in_microseconds
from pgferry.convert.numbers import parse_decimal
from pgferry.convert.outcome import Rejected, empty, shown, type_name, unlike
from pgferry.model import ColumnRule, PgKind, PgType

_DAY = 86_400_000_000
_MICROSECONDS = PgType(PgKind.INTERVAL)
_INT32 = 2**31
_INT64 = 2**63

_CLOCK = r"([+-]?)([0-9]{1,9}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?"
_COUNT = r"([+-]?[0-9]{1,9})"
# `1 year 2 mons -3 days +04:05:06.7` (PostgreSQL), `-1 day, 23:00:00` (Python), `1 02:03:04` (Django), `04:05:06`.
_WORDS = re.compile(
    rf"(?:{_COUNT} years?(?: |\Z))?(?:{_COUNT} mons?(?: |\Z))?(?:{_COUNT}(?: days?)?(?:,? |\Z))?(?:{_CLOCK})?"
)
_ISO = re.compile(
    rf"(-?)P(?:{_COUNT}Y)?(?:{_COUNT}M)?(?:{_COUNT}W)?(?:{_COUNT}D)?"
    rf"(?:T(?:{_COUNT}H)?(?:{_COUNT}M)?(?:([+-]?)([0-9]{{1,18}})(?:\.([0-9]{{1,9}}))?S)?)?"
)
_EPOCH_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}")
_CANONICAL = re.compile(r"P(-?[0-9]+)M(-?[0-9]+)DT(-?)([0-9]+)\.([0-9]{6})S")


@dataclass(frozen=True, slots=True)
class Duration:
    """An interval as PostgreSQL stores it. Months and days fit 32 bits, microseconds 64."""

    months: int
    days: int
    microseconds: int

    def __str__(self) -> str:
        """Return the canonical text: ISO 8601 with every part written, `P0M1DT-3600.000000S`."""
        sign = "-" if self.microseconds < 0 else ""
        seconds, rest = divmod(abs(self.microseconds), 1_000_000)
        return f"P{self.months}M{self.days}DT{sign}{seconds}.{rest:06d}S"

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read the canonical text; raises ValueError for any other."""
        match = _CANONICAL.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no canonical interval")
        microseconds = int(match[4]) * 1_000_000 + int(match[5])
        return cls(int(match[1]), int(match[2]), -microseconds if match[3] else microseconds)


def interval_from_text(value: str, type: PgType, rule: ColumnRule) -> str | Rejected | None:
    """Accept ISO 8601 durations, PostgreSQL's and Python's own forms, and SQLAlchemy's moment counted from 1970."""
    if not value:
        return empty(type, rule)
    if match := _ISO.fullmatch(value):
        return _from_iso(value, match, type)
    if _EPOCH_MOMENT.fullmatch(value):
        return _from_epoch_moment(value, type)
    if rule.epoch is not None and (number := parse_decimal(value)) is not None:
        return interval_from_number(number, type, rule)
    match = _WORDS.fullmatch(value)
    return unlike(value, type) if match is None else _from_words(value, match, type)


def interval_from_number(value: object, type: PgType, rule: ColumnRule) -> str | Rejected:
    """Accept a number of the rule's unit, split into days and the rest as a timedelta is."""
    if rule.epoch not in ("s", "ms", "us"):
        return Rejected(
            f'{shown(value)} is a number, in an interval column; say its unit with epoch = "s", "ms" or "us"'
        )
    total = None
    if abs(value) < 10**18:  # type: ignore[arg-type]
        total = in_microseconds(value, rule.epoch)  # type: ignore[arg-type]
    if total is None:
        return Rejected(f"{shown(value)} is no whole number of microseconds in an interval's range")
    return _fit(value, Duration(0, *divmod(total, _DAY)), type)


def _from_words(value: str, match: re.Match[str], type: PgType) -> str | Rejected:
    years, months, days, sign, hours, minutes, seconds, digits = match.groups()
    # A bare number is no interval, though Django writes `5 02:03:04`.
    if value[-1] in " ," or (hours is None and years is None and months is None and "day" not in value):
        return unlike(value, type)
    clock = 0
    if hours is not None:
        microseconds = fraction(digits, _MICROSECONDS)
        if microseconds is None or int(minutes) > 59 or int(seconds) > 59:
            return unlike(value, type)
        clock = _clock(int(hours), int(minutes), int(seconds), microseconds)
    duration = Duration(_int(years) * 12 + _int(months), _int(days), -clock if sign == "-" else clock)
    return _fit(value, duration, type)


def _from_iso(value: str, match: re.Match[str], type: PgType) -> str | Rejected:
    minus, years, months, weeks, days, hours, minutes, sign, seconds, digits = match.groups()
    microseconds = fraction(digits, _MICROSECONDS)
    if microseconds is None or value.endswith(("P", "T")):
        return unlike(value, type)
    second = _int(seconds) * 1_000_000 + microseconds
    clock = _clock(_int(hours), _int(minutes), 0, -second if sign == "-" else second)
    turn = -1 if minus else 1
    duration = Duration(turn * (_int(years) * 12 + _int(months)), turn * (_int(weeks) * 7 + _int(days)), turn * clock)
    return _fit(value, duration, type)


def _from_epoch_moment(value: str, type: PgType) -> str | Rejected:
    try:
        delta = datetime.fromisoformat(value) - EPOCH
    except ValueError:
        return unlike(value, type)
    return _fit(value, Duration(0, delta.days, delta.seconds * 1_000_000 + delta.microseconds), type)


def _fit(value: object, duration: Duration, type: PgType) -> str | Rejected:
    whole = 10 ** (6 - min(6 if type.precision is None else type.precision, 6))
    if duration.microseconds % whole:
        return Rejected(f"{shown(value)} is finer than {type_name(type)}")
    if max(abs(duration.months), abs(duration.days)) >= _INT32 or abs(duration.microseconds) >= _INT64:
        return Rejected(f"{shown(value)} does not fit interval")
    return str(duration)


def _clock(hours: int, minutes: int, seconds: int, microseconds: int) -> int:
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + microseconds


def _int(digits: str | None) -> int:
    return int(digits or 0)
