"""Whole columns of numbers: the readings of `numbers`, for the forms that numpy can prove exact."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.buffers import (
    Bools,
    Integers,
    Reading,
    certain_all,
    decimal_array,
    fixed_array,
    fixed_values,
    valid_rows,
)
from pgferry.convert.numbers import EXACT_DOUBLE, INTEGER_RANGES
from pgferry.model import ColumnRule, PgKind, PgType

_WIDTHS = {
    PgKind.SMALLINT: (np.int16, pa.int16()),
    PgKind.INTEGER: (np.int32, pa.int32()),
    PgKind.BIGINT: (np.int64, pa.int64()),
}
# Every integer up to here is a float4.
_EXACT_FLOAT4 = 2**24
# Two decimals of at most 15 digits are never the same double, so the one that reads back is the shortest.
_UNIQUE_DIGITS = 10**15
# 10^22 is the largest power of ten that is a double: dividing by it rounds once only.
_EXACT_POWER = 22


def integers(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 into an integer type."""
    if type.kind is PgKind.BIGINT:
        return certain_all(array)
    least, greatest = INTEGER_RANGES[type.kind]
    numbers = fixed_values(array, np.int64)
    return _narrow(numbers, (numbers >= least) & (numbers <= greatest), array, type)


def integers_from_reals(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """float64 into an integer type: whole, up to 2^53."""
    least, greatest = INTEGER_RANGES[type.kind]
    numbers = fixed_values(array, np.float64)
    whole = (np.abs(numbers) <= EXACT_DOUBLE) & (np.floor(numbers) == numbers)
    return _narrow(numbers, whole & (numbers >= least) & (numbers <= greatest), array, type)


def _narrow(numbers: np.ndarray, certain: Bools, array: pa.Array, type: PgType) -> Reading:
    width, arrow = _WIDTHS[type.kind]
    return fixed_array(np.where(certain, numbers, 0).astype(width), arrow, valid_rows(array)), certain


def doubles(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """float64 as it is."""
    return array, ~np.isnan(fixed_values(array, np.float64))


def doubles_from_integers(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 into double precision, up to 2^53."""
    numbers = fixed_values(array, np.int64)
    values = fixed_array(numbers.astype(np.float64), pa.float64(), valid_rows(array))
    return values, (numbers <= EXACT_DOUBLE) & (numbers >= -EXACT_DOUBLE)


def float4s(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """float64 into float4: exact, or the same shortest decimal."""
    numbers = fixed_values(array, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = numbers.astype(np.float32)
    values = fixed_array(narrow, pa.float32(), valid_rows(array))
    certain = narrow == numbers
    if not certain.all():
        # The float4's shortest decimal has at most 9 digits, and is the double's shortest if it reads back as it.
        digits = pc.cast(fixed_array(narrow, pa.float32(), np.isfinite(narrow)), pa.string())
        certain = certain | (fixed_values(pc.cast(digits, pa.float64()), np.float64) == numbers) & np.isfinite(narrow)
    return values, certain


def float4s_from_integers(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 into float4, up to 2^24."""
    numbers = fixed_values(array, np.int64)
    values = fixed_array(numbers.astype(np.float32), pa.float32(), valid_rows(array))
    return values, (numbers <= _EXACT_FLOAT4) & (numbers >= -_EXACT_FLOAT4)


def numerics_from_integers(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """int64 into numeric."""
    if type.precision is None:
        return certain_all(pc.cast(array, pa.string()))
    scale = type.scale or 0
    if not _is_decimal(type):
        return None
    numbers = fixed_values(array, np.int64)
    limit = 10 ** (type.precision - scale)
    certain = _within(numbers, limit)
    if type.precision < 19:
        unscaled = np.where(certain, numbers, 0) * 10**scale
        return decimal_array(unscaled, pa.decimal128(type.precision, scale), valid_rows(array)), certain
    whole = decimal_array(np.where(certain, numbers, 0), pa.decimal128(19, 0), valid_rows(array))
    return pc.cast(whole, pa.decimal128(type.precision, scale)), certain


def numerics_from_reals(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """float64 into numeric: the shortest decimal, as long as it has at most 15 digits."""
    numbers = fixed_values(array, np.float64)
    if type.precision is None:
        return _plain_digits(array, numbers)
    scale = type.scale or 0
    if not _is_decimal(type) or scale > _EXACT_POWER:
        return None
    power = float(10**scale)
    with np.errstate(over="ignore", invalid="ignore"):
        unscaled = np.rint(numbers * power)
        certain = (np.abs(unscaled) < min(_UNIQUE_DIGITS, 10**type.precision)) & (unscaled / power == numbers)
    whole: Integers = np.where(certain, unscaled, 0).astype(np.int64)
    return decimal_array(whole, pa.decimal128(type.precision, scale), valid_rows(array)), certain


def booleans(array: pa.Array, type: PgType, rule: ColumnRule) -> Reading | None:
    """0 and 1 of int64 or float64."""
    numbers = fixed_values(array, np.int64 if pa.types.is_integer(array.type) else np.float64)
    valid = valid_rows(array)
    return pa.array(numbers == 1, mask=None if valid.all() else ~valid), (numbers == 0) | (numbers == 1)


def _plain_digits(array: pa.Array, numbers: np.ndarray) -> Reading:
    """Return the shortest digits where neither Arrow nor Python writes an exponent, and the sign of zero is plain."""
    text = pc.cast(array, pa.string())
    size = np.abs(numbers)
    return text, (size >= 1e-3) & (size < 1e9)


def _within(numbers: Integers, limit: int) -> Bools:
    if limit >= 2**63:
        return np.ones(len(numbers), np.bool_)
    return (numbers < limit) & (numbers > -limit)


def _is_decimal(type: PgType) -> bool:
    """Whether `arrow_type` is decimal128."""
    return type.precision is not None and type.precision <= 38 and 0 <= (type.scale or 0) <= type.precision
