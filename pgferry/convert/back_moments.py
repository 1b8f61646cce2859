"""Dates, times and timestamps on their way back: text in the column's own form, or numbers of its unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from pgferry.convert.back_numbers import Render, in_order
from pgferry.convert.lexical_form import MINIMAL, TRIMMED, LexicalForm, MomentForm
from pgferry.convert.moments import EPOCH, MICROSECONDS
from pgferry.convert.rules import convert
from pgferry.model import ColumnRule, PgKind, PgType, SqliteValue, StorageClass

_MICROSECOND = timedelta(microseconds=1)

_DAY_MILLISECONDS = 86_400_000
_JULIAN_EPOCH_MILLISECONDS = 210_866_760_000_000
_PLAIN = MomentForm(digits=MINIMAL)
_INSTANT = PgType(PgKind.TIMESTAMPTZ)
_ZERO_NAMES = ("Z", "z", "UTC")

Clock = Callable[[Any], str | None]


def moments(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a date or timestamp in the column's form, or in the nearest one that holds all of it."""
    written = [_text(near, type, rule) for near in _nearby(form.moment, type)]
    if rule.epoch is None:
        return written
    numbers = _numbers(type, form, rule.epoch)
    as_text = form.storage is StorageClass.TEXT and form.style != "number"
    return written + numbers if as_text else numbers + written


def times(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a time of day in the column's form, or with all its digits."""
    return [clock(near, time) for near in (form.moment, _PLAIN)]


def _nearby(form: MomentForm, type: PgType) -> list[MomentForm]:
    longer = replace(form, between=form.between or " ", seconds=True, digits=MINIMAL)
    certain = replace(longer, suffix="+00:00" if type.kind is PgKind.TIMESTAMPTZ else "", in_zone=False)
    return list(dict.fromkeys((form, replace(form, digits=MINIMAL), longer, certain)))


# ---------------------------------------------------------------- text


def _text(form: MomentForm, type: PgType, rule: ColumnRule) -> Render:
    write = clock(form)

    def render(value: date) -> SqliteValue:
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        try:
            wall, suffix = _placed(moment, form, rule)
        except OverflowError:
            return None
        text = write(wall)
        return None if text is None else text + suffix

    return render


def _placed(moment: datetime, form: MomentForm, rule: ColumnRule) -> tuple[datetime, str]:
    """Return the wall clock that the form writes, and the offset after it. Raises OverflowError."""
    zone = zone_of(rule)
    if not form.suffix:
        return (moment if moment.tzinfo is None else moment.astimezone(zone).replace(tzinfo=None)), ""
    aware = moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
    local = aware.astimezone(zone if form.in_zone else timezone(offset_of(form.suffix)))
    suffix = write_offset(local.utcoffset() or timedelta(), form.suffix) if form.in_zone else form.suffix
    return local.replace(tzinfo=None), suffix


def zone_of(rule: ColumnRule) -> tzinfo:
    """Return the rule's zone; UTC when it names none."""
    return UTC if rule.timezone is None or rule.timezone == "UTC" else ZoneInfo(rule.timezone)


@lru_cache(maxsize=256)
def offset_of(suffix: str) -> timedelta:
    """Return the offset that a suffix denotes. Raises ValueError when it denotes none."""
    there = convert(f"2000-01-01 00:00:00{suffix}", _INSTANT, ColumnRule())
    if not isinstance(there, datetime):
        raise ValueError(f"{suffix!r} is no offset")  # noqa: TRY004
    return datetime(2000, 1, 1, tzinfo=UTC) - there


def write_offset(offset: timedelta, like: str) -> str:
    """Write an offset as another is written: with or without a blank, a colon, minutes."""
    blank, name = like[: len(like) - len(like.lstrip())], like.lstrip()
    if name in _ZERO_NAMES and not offset:
        return like
    seconds = abs(offset) // timedelta(seconds=1)
    hours, minutes = f"{seconds // 3600:02d}", f"{seconds // 60 % 60:02d}"
    colon = ":" if ":" in name or name in _ZERO_NAMES else ""
    short = len(name) == 3 and name not in _ZERO_NAMES and not seconds % 3600
    parts = [hours] if short else [hours, minutes] + ([f"{seconds % 60:02d}"] if seconds % 60 else [])
    return f"{blank}{'-' if offset < timedelta() else '+'}{colon.join(parts)}"


def clock(form: MomentForm, of: type[datetime] | type[time] = datetime) -> Clock:
    """Return what writes a wall clock (or a time of day) in that form, None for one that the form would cut."""
    between: tuple[str, ...] = () if of is time else (form.between,)
    if between == ("",):
        return lambda v: v.date().isoformat() if v.time() == time() else None
    if not form.seconds:
        return lambda v: v.isoformat(*between, "minutes") if not v.second and not v.microsecond else None
    if form.digits == MINIMAL:
        return lambda v: str(v.isoformat(*between))
    if form.digits == TRIMMED:
        return lambda v: _trimmed(v.isoformat(*between))
    if form.digits == 0:
        return lambda v: v.isoformat(*between, "seconds") if not v.microsecond else None
    return _with_digits(form.digits, between)


def _with_digits(digits: int, between: tuple[str, ...]) -> Clock:
    if digits >= 6:
        zeros = "0" * (digits - 6)
        return lambda v: v.isoformat(*between, "microseconds") + zeros
    finest, cut = 10 ** (6 - digits), digits - 6
    return lambda v: v.isoformat(*between, "microseconds")[:cut] if v.microsecond % finest == 0 else None


def _trimmed(text: str) -> str:
    return text.rstrip("0") if "." in text else text


def quick_moment(type: PgType, form: LexicalForm, rule: ColumnRule) -> tuple[datetime, Clock, str] | None:
    """Return the moment 2000-01-01 as the column writes it, its clock and its suffix; None when zones must be asked.

    With them a moment is written without a check: naive text of a timestamp, and text with a fixed offset of an
    instant, read back as themselves.
    """
    epoch, moment = datetime(2000, 1, 1), form.moment
    if form.storage is not StorageClass.TEXT or form.style == "number" or moment.in_zone:
        return None
    if moment.suffix and not moment.between:  # a date alone takes no offset
        return None
    if not moment.suffix:
        fixed = type.kind is not PgKind.TIMESTAMPTZ or zone_of(rule) is UTC
        return (epoch, clock(moment), "") if fixed else None
    offset = offset_of(moment.suffix)
    in_utc = zone_of(rule) is UTC and (rule.timezone is not None or not offset)
    fixed = type.kind is PgKind.TIMESTAMPTZ or in_utc
    return (epoch + offset, clock(moment), moment.suffix) if fixed else None


# ---------------------------------------------------------------- numbers


def _numbers(type: PgType, form: LexicalForm, unit: str) -> list[Render]:
    renders = _julian_days() if unit == "julian" else units(MICROSECONDS[unit])
    return [_counted(render) for render in in_order(form, renders)]


def _counted(render: Callable[[int], SqliteValue]) -> Render:
    def of_moment(value: date) -> SqliteValue:
        moment = value if isinstance(value, datetime) else datetime.combine(value, time())
        return render((moment.replace(tzinfo=None) - EPOCH) // _MICROSECOND)

    return of_moment


def units(size: int) -> dict[StorageClass, Callable[[int], SqliteValue]]:
    """Return what writes a count of microseconds as a number of units of that many microseconds."""
    return {
        StorageClass.INTEGER: lambda count: None if count % size else count // size,
        StorageClass.REAL: lambda count: count / size,
        StorageClass.TEXT: lambda count: _decimal(Decimal(count) / size),
    }


def _julian_days() -> dict[StorageClass, Callable[[int], SqliteValue]]:
    return {
        StorageClass.REAL: _julian,
        StorageClass.INTEGER: lambda count: None if (days := _julian(count)) is None or days % 1 else int(days),
        StorageClass.TEXT: lambda count: None if (days := _julian(count)) is None else repr(days),
    }


def _julian(count: int) -> float | None:
    if count % 1000:
        return None
    return (count // 1000 + _JULIAN_EPOCH_MILLISECONDS) / _DAY_MILLISECONDS


def _decimal(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
