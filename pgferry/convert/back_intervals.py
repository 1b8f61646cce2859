"""Intervals on their way back: months, days and microseconds in the form in which the application writes them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from pgferry.convert.back_moments import units
from pgferry.convert.back_numbers import Render, in_order
from pgferry.convert.durations import Duration
from pgferry.convert.lexical_form import LexicalForm
from pgferry.convert.moments import EPOCH, MICROSECONDS
from pgferry.model import ColumnRule, PgType, SqliteValue

_DAY = 86_400_000_000
_MOST_DIGITS = 999_999_999  # of a count, as the rules read intervals


def intervals(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write an interval in the form's style, or else as an ISO 8601 duration, which holds every one.

    The style `number` counts in the rule's unit; the others are those of STYLES.
    """
    numbers = in_order(form, units(MICROSECONDS[rule.epoch])) if rule.epoch in MICROSECONDS and rule.epoch else []
    counted = [_counted(render) for render in numbers]
    texts = [_parsed(STYLES[style]) for style in dict.fromkeys((form.style, "iso")) if style in STYLES]
    return counted + texts if form.style == "number" else texts + counted


def _parsed(write: Callable[[Duration], str | None]) -> Render:
    return lambda value: write(Duration.parse(value))


def _counted(render: Callable[[int], SqliteValue]) -> Render:
    def of_duration(value: str) -> SqliteValue:
        duration = Duration.parse(value)
        return None if duration.months else render(duration.days * _DAY + duration.microseconds)

    return of_duration


def _moment(duration: Duration) -> str | None:
    if duration.months:
        return None
    try:
        moment = EPOCH + timedelta(days=duration.days, microseconds=duration.microseconds)
    except OverflowError:
        return None
    return moment.isoformat(" ", "microseconds")


def _python(duration: Duration) -> str | None:
    if duration.months or not 0 <= duration.microseconds < _DAY or abs(duration.days) > _MOST_DIGITS:
        return None
    return str(timedelta(days=duration.days, microseconds=duration.microseconds))


def _clock(duration: Duration) -> str | None:
    return None if duration.months or duration.days else _hours(duration.microseconds)


def _django(duration: Duration) -> str | None:
    if duration.months:
        return None
    hours = _hours(duration.microseconds)
    return f"{duration.days} {hours}" if duration.days else hours


def _hours(microseconds: int) -> str:
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06d}" if rest else ""
    sign = "-" if microseconds < 0 else ""
    return f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{fraction}"


def _years_and_months(duration: Duration) -> tuple[int, int]:
    years, months = divmod(abs(duration.months), 12)
    return (-years, -months) if duration.months < 0 else (years, months)


def _postgres(duration: Duration) -> str:
    """Write it as PostgreSQL prints it: a part after a negative one has its sign written."""
    years, months = _years_and_months(duration)
    parts: list[str] = []
    before = False
    for count, name in ((years, "year"), (months, "mon"), (duration.days, "day")):
        if count:
            parts.append(f"{'+' if before and count > 0 else ''}{count} {name}{'' if count == 1 else 's'}")
            before = count < 0
    if duration.microseconds or not parts:
        hours = _hours(duration.microseconds)
        hours = hours.rstrip("0") if "." in hours else hours
        parts.append(f"{'+' if before and duration.microseconds > 0 else ''}{hours}")
    return " ".join(parts)


def _iso(duration: Duration) -> str:
    years, months = _years_and_months(duration)
    weeks, days = divmod(abs(duration.days), 7) if abs(duration.days) > _MOST_DIGITS else (0, abs(duration.days))
    turn = -1 if duration.days < 0 else 1
    counts = ((years, "Y"), (months, "M"), (turn * weeks, "W"), (turn * days, "D"))
    day_part = "".join(f"{count}{letter}" for count, letter in counts if count)
    clock = _iso_clock(duration.microseconds)
    return f"P{day_part}T{clock}" if clock else f"P{day_part or 'T0S'}"


def _iso_clock(microseconds: int) -> str:
    seconds, rest = divmod(abs(microseconds), 1_000_000)
    sign = "-" if microseconds < 0 else ""
    hours, minutes = (seconds // 3600, seconds // 60 % 60) if seconds // 3600 <= _MOST_DIGITS else (0, 0)
    seconds -= (hours * 60 + minutes) * 60
    second = f"{seconds}.{rest:06d}".rstrip("0") if rest else str(seconds)
    parts = [f"{sign}{count}{letter}" for count, letter in ((hours, "H"), (minutes, "M")) if count]
    return "".join(parts + ([f"{sign}{second}S"] if seconds or rest else []))


STYLES: dict[str, Callable[[Duration], str | None]] = {
    "moment": _moment,
    "python": _python,
    "django": _django,
    "clock": _clock,
    "postgres": _postgres,
    "iso": _iso,
}
"""What each style writes; None where it cannot. `moment` is SQLAlchemy's: the moment so long after 1970."""
