"""Whole columns of dates and times: ISO 8601 text of a fixed layout, parsed by column of characters; and epochs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pgferry.convert.buffers import (
    Bools,
    Bytes,
    Integers,
    Reading,
    byte_lengths,
    columns_of,
    fixed_array,
    fixed_values,
    valid_rows,
)
from pgferry.convert.moments import MICROSECONDS
from pgferry.model import ColumnRule, PgKind, PgType

_DAY = 86_400_000_000
_FIRST, _LAST = -62_135_596_800_000_000, 253_402_300_799_999_999  # 0001-01-01 and 9999-12-31 23:59:59.999999
_MONTHS = np.arange("0001-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int64)
_MONTH_LENGTHS = np.diff(_MONTHS)
# SQLite's Julian days count from noon, -4713-11-24.
_JULIAN_DAY = 86_400_000_000
_JULIAN_ZERO = -210_866_760_000_000_000
# For each unit: steps in one, microseconds in a step, the size up to which a double is finer than a step, moment 0.
_REAL_UNITS = {
    "s": (1e6, 1, 2.0**33, 0),
    "ms": (1e3, 1, 2.0**43, 0),
    "us": (1.0, 1, 2.0**53, 0),
    "julian": (86_400_000.0, 1000, 2.0**23, _JULIAN_ZERO),
}
_TAILS = tuple(np.frombuffer(tail, np.uint8)[:, None] for tail in (b"Z", b"+00:00", b" UTC", b"+0000"))
"""Ways to write an offset of zero of which no text ends in two."""


def moments(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """ISO text into date, timestamp or timestamptz; offsets only when they are zero, zones only when they are UTC."""
    values, certain = _by_length(array, type, rule)
    return _finish(values, certain, array, type)


def epochs(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 of the rule's unit into date, timestamp or timestamptz."""
    if rule.epoch is None:
        return None
    unit, zero = (_JULIAN_DAY, _JULIAN_ZERO) if rule.epoch == "julian" else (MICROSECONDS[rule.epoch], 0)
    numbers = fixed_values(array, np.int64)
    certain = (numbers >= -((zero - _FIRST) // unit)) & (numbers <= (_LAST - zero) // unit)
    return _finish(np.where(certain, numbers, 0) * unit + zero, _zeros_apart(certain, numbers, rule), array, type)


def real_epochs(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """float64 of the rule's unit into date, timestamp or timestamptz: no digit finer than a microsecond.

    While a double's neighbours are nearer than the finest step, only one step reads back as the double; it is its
    shortest decimal, or the millisecond of its Julian day.
    """
    if rule.epoch is None:
        return None
    steps, microseconds, limit, zero = _REAL_UNITS[rule.epoch]
    numbers = fixed_values(array, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        counts = np.rint(numbers * steps)
        certain = (np.abs(numbers) < limit) & (counts / steps == numbers)
    values = np.where(certain, counts, 0).astype(np.int64) * microseconds + zero
    certain &= (values >= _FIRST) & (values <= _LAST)
    return _finish(values, _zeros_apart(certain, numbers, rule), array, type)


def _zeros_apart(certain: Bools, numbers: NDArray[Any], rule: ColumnRule) -> Bools:
    return certain & (numbers != 0) if rule.on_zero_date == "null" else certain


def times(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """HH:MM, HH:MM:SS or HH:MM:SS.f into time."""
    lengths, valid = byte_lengths(array), valid_rows(array)
    values, certain = np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
    for length in _present(lengths, valid, 5, 15):
        rows = valid & (lengths == length)
        values[rows], certain[rows] = _clock(columns_of(array, rows, length))
    certain &= _fine(values, type)
    return fixed_array(values, pa.time64("us"), valid), certain


def _finish(values: Integers, certain: Bools, array: pa.Array, type: PgType) -> Reading:
    valid = valid_rows(array)
    if type.kind is PgKind.DATE:
        certain &= values % _DAY == 0
        return fixed_array((values // _DAY).astype(np.int32), pa.date32(), valid), certain
    zone = "UTC" if type.kind is PgKind.TIMESTAMPTZ else None
    return fixed_array(values, pa.timestamp("us", zone), valid), certain & _fine(values, type)


def _fine(values: Integers, type: PgType) -> Bools:
    if type.precision is None or type.precision >= 6:
        return np.ones(len(values), np.bool_)
    fine: Bools = values % 10 ** (6 - type.precision) == 0
    return fine


def _present(lengths: Integers, valid: Bools, least: int, most: int) -> list[int]:
    counts = np.bincount(np.clip(lengths[valid], 0, most + 1), minlength=most + 2)
    return [length for length in range(least, most + 1) if counts[length]]


def _by_length(array: pa.Array, type: PgType, rule: ColumnRule) -> tuple[Integers, Bools]:
    lengths, valid = byte_lengths(array), valid_rows(array)
    values, certain = np.zeros(len(array), np.int64), np.zeros(len(array), np.bool_)
    for length in _present(lengths, valid, 10, 32):
        rows = valid & (lengths == length)
        values[rows], certain[rows] = _one_length(columns_of(array, rows, length), type, rule)
    return values, certain


def _one_length(columns: Bytes, type: PgType, rule: ColumnRule) -> tuple[Integers, Bools]:
    """Parse texts of one length, which end in nothing or in one of the tails that stand for UTC."""
    tails = [((columns[-len(tail) :] == tail).all(axis=0), len(tail)) for tail in _TAILS]
    naive = ~np.logical_or.reduce([rows for rows, _ in tails])
    values, certain = np.zeros(columns.shape[1], np.int64), np.zeros(columns.shape[1], np.bool_)
    naive_taken = type.kind is not PgKind.TIMESTAMPTZ or rule.timezone in (None, "UTC")
    offset_taken = type.kind is PgKind.TIMESTAMPTZ or rule.timezone in (None, "UTC")
    for rows, tail, taken in ((naive, 0, naive_taken), *((rows, tail, offset_taken) for rows, tail in tails)):
        if taken and rows.any():
            part = columns[: len(columns) - tail]
            values[rows], certain[rows] = _moment(part if rows.all() else part[:, rows], tail)
    return values, certain


def _moment(columns: Bytes, tail: int) -> tuple[Integers, Bools]:
    """Parse `YYYY-MM-DD`, or that and a clock; an offset (`tail`) only follows a clock."""
    if len(columns) != 10 and len(columns) < 16:  # `2024+00:00` is shorter than a date before its tail
        return np.zeros(columns.shape[1], np.int64), np.zeros(columns.shape[1], np.bool_)
    days, certain = _days(columns[:10])
    if len(columns) == 10:
        return days * _DAY, certain & (tail == 0)
    clock, good = _clock(columns[11:])
    separated = (columns[10] == ord(" ")) | (columns[10] == ord("T"))
    return days * _DAY + clock, certain & good & separated


def _days(columns: Bytes) -> tuple[Integers, Bools]:
    digits = columns - np.uint8(ord("0"))
    year, month, day = _number(digits[0:4]), _number(digits[5:7]), _number(digits[8:10])
    certain = _all_digits(digits, (0, 1, 2, 3, 5, 6, 8, 9))
    certain &= (columns[4] == ord("-")) & (columns[7] == ord("-"))
    certain &= (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1)
    index = np.where(certain, (year - 1) * 12 + month - 1, 0)
    certain &= day <= _MONTH_LENGTHS[index]
    return np.where(certain, _MONTHS[index] + day - 1, 0), certain


def _clock(columns: Bytes) -> tuple[Integers, Bools]:
    """Parse `HH:MM`, `HH:MM:SS` or `HH:MM:SS.f` with one to six digits, as microseconds since midnight."""
    length = columns.shape[0]
    if length not in (5, 8, 10, 11, 12, 13, 14, 15):
        return np.zeros(columns.shape[1], np.int64), np.zeros(columns.shape[1], np.bool_)
    digits = columns - np.uint8(ord("0"))
    hour, minute = _number(digits[0:2]), _number(digits[3:5])
    certain = _all_digits(digits, (0, 1, 3, 4)) & (columns[2] == ord(":")) & (hour < 24) & (minute < 60)
    clock = (hour * 60 + minute) * 60_000_000
    if length >= 8:
        second = _number(digits[6:8])
        certain &= _all_digits(digits, (6, 7)) & (columns[5] == ord(":")) & (second < 60)
        clock += second * 1_000_000
    if length > 8:
        certain &= _all_digits(digits, range(9, length)) & (columns[8] == ord("."))
        clock += _number(digits[9:]) * 10 ** (15 - length)
    return np.where(certain, clock, 0), certain


def _all_digits(digits: Bytes, places: tuple[int, ...] | range) -> Bools:
    good = np.ones(digits.shape[1], np.bool_)
    for place in places:
        good &= digits[place] <= 9
    return good


def _number(digits: Bytes) -> Integers:
    total: Integers = digits[0].astype(np.int64)
    for digit in digits[1:]:
        total = total * 10 + digit
    return total
