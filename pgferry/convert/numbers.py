"""Numbers and booleans: a SQLite value becomes one exactly, or is rejected.

Text is read strictly: ASCII digits, no blanks around them, no separators. A REAL stands for its shortest decimal that
reads back as the same double, which is what SQLite, Python and PostgreSQL print.
"""

from __future__ import annotations

import re
import struct
from decimal import Context, Decimal, InvalidOperation
from math import isfinite, isinf, isnan

import numpy as np

from pgferry.convert.outcome import Rejected, empty, shown, type_name, unlike
from pgferry.model import ColumnRule, PgKind, PgType

INTEGER_RANGES = {
    PgKind.SMALLINT: (-(2**15), 2**15 - 1),
    PgKind.INTEGER: (-(2**31), 2**31 - 1),
    PgKind.BIGINT: (-(2**63), 2**63 - 1),
}
"""The least and the greatest value of each integer type."""

EXACT_DOUBLE = 2**53
"""Up to this magnitude every integer is a double, and every integral double stands for one integer only."""

# PostgreSQL's limits of numeric (https://www.postgresql.org/docs/current/datatype-numeric.html).
_MOST_INTEGRAL_DIGITS = 131_072
_MOST_FRACTIONAL_DIGITS = 16_383
_EXACT = Context(prec=_MOST_INTEGRAL_DIGITS + _MOST_FRACTIONAL_DIGITS + 10, Emax=999_999_999, Emin=-999_999_999)

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INFINITY = re.compile(r"([+-]?)inf(?:inity)?", re.IGNORECASE | re.ASCII)

_TRUE = frozenset({"1", "t", "true", "y", "yes", "on"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


# ---------------------------------------------------------------- integers


def integer_from_integer(value: int, type: PgType, rule: ColumnRule) -> int | Rejected:
    """Accept what lies in the type's range."""
    least, greatest = INTEGER_RANGES[type.kind]
    if value > greatest:
        return Rejected(f"{shown(value)} does not fit {type_name(type)} (at most {greatest})")
    if value < least:
        return Rejected(f"{shown(value)} does not fit {type_name(type)} (at least {least})")
    return value


def integer_from_real(value: float, type: PgType, rule: ColumnRule) -> int | Rejected:
    """Accept an integral double up to 2^53; beyond that it may stand for several integers."""
    if not isfinite(value) or value != int(value):
        return Rejected(f"{shown(value)} is no whole number, for {type_name(type)}")
    if abs(value) > EXACT_DOUBLE:
        return Rejected(f"{shown(value)} is a float over 2^53: the integer it was is not known")
    return integer_from_integer(int(value), type, rule)


def integer_from_text(value: str, type: PgType, rule: ColumnRule) -> int | Rejected | None:
    """Accept a sign and digits, nothing else."""
    if not value:
        return empty(type, rule)
    if not _INTEGER.fullmatch(value):
        return unlike(value, type)
    digits = value.lstrip("+-0")
    if len(digits) > 19:
        return Rejected(f"{shown(value)} does not fit {type_name(type)}: it has {len(digits)} digits")
    return integer_from_integer(int(value), type, rule)


# ---------------------------------------------------------------- floats


def double_from_integer(value: int, type: PgType, rule: ColumnRule) -> float | Rejected:
    """Accept an integer that is exactly a double."""
    number = float(value)
    if int(number) != value:
        return Rejected(f"{value} is not exact in double precision (it would become {int(number)})")
    return number


def double_from_real(value: float, type: PgType, rule: ColumnRule) -> float | Rejected:
    """Accept every double, bit for bit. SQLite stores no NaN."""
    return Rejected("NaN is no number") if isnan(value) else value


def double_from_text(value: str, type: PgType, rule: ColumnRule) -> float | Rejected | None:
    """Accept a literal whose value is the double's own, or its shortest decimal."""
    if not value:
        return empty(type, rule)
    infinity = _INFINITY.fullmatch(value)
    if infinity:
        return float(f"{infinity[1]}inf")
    decimal = parse_decimal(value)
    if decimal is None:
        return unlike(value, type)
    number = float(value)
    if isinf(number):
        return Rejected(f"{shown(value)} does not fit {type_name(type)}")
    if decimal not in (Decimal(number), Decimal(repr(number))):
        return Rejected(f"{shown(value)} is not exact in double precision (it would become {number!r})")
    return number


def float4_from_real(value: float, type: PgType, rule: ColumnRule) -> float | Rejected:
    """Accept a double that a float4 holds exactly, or prints with the same digits (0.1, not 1635161608.59)."""
    if isnan(value):
        return Rejected("NaN is no number")
    try:
        number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return Rejected(f"{shown(value)} does not fit real")
    if number == value or Decimal(str(np.float32(number))) == Decimal(repr(value)):
        return number
    return Rejected(f"{shown(value)} is not exact in real (it would become {np.float32(number)})")


def float4_from_integer(value: int, type: PgType, rule: ColumnRule) -> float | Rejected:
    """Accept an integer that a float4 holds or prints exactly."""
    number = double_from_integer(value, type, rule)
    return number if isinstance(number, Rejected) else float4_from_real(number, type, rule)


def float4_from_text(value: str, type: PgType, rule: ColumnRule) -> float | Rejected | None:
    """Accept a literal that is exact as a double and then as a float4."""
    number = double_from_text(value, type, rule)
    return float4_from_real(number, type, rule) if isinstance(number, float) else number


# ---------------------------------------------------------------- numeric


def numeric_from_integer(value: int, type: PgType, rule: ColumnRule) -> Decimal | Rejected:
    """Accept what has no more digits than the type."""
    return fit_numeric(Decimal(value), type)


def numeric_from_real(value: float, type: PgType, rule: ColumnRule) -> Decimal | Rejected:
    """Accept the shortest decimal of a double, a whole one without digits after the point (as an INTEGER is)."""
    if not isfinite(value):
        return Rejected(f"{shown(value)} is no number that {type_name(type)} holds")
    decimal = Decimal(repr(value))
    return fit_numeric(Decimal(int(decimal)) if value == int(value) else decimal, type)


def numeric_from_text(value: str, type: PgType, rule: ColumnRule) -> Decimal | Rejected | None:
    """Accept a decimal literal; an unconstrained numeric keeps its digits, trailing zeros too."""
    if not value:
        return empty(type, rule)
    decimal = parse_decimal(value)
    return unlike(value, type) if decimal is None else fit_numeric(decimal, type)


def fit_numeric(value: Decimal, type: PgType) -> Decimal | Rejected:
    """Return the decimal as PostgreSQL stores it (its display scale is the exponent, negated), or reject it."""
    exponent = int(value.as_tuple().exponent)
    if (value and value.adjusted() >= _MOST_INTEGRAL_DIGITS) or exponent >= _MOST_INTEGRAL_DIGITS:
        return Rejected(f"{shown(value)} has more digits than numeric holds")
    scale = max(0, -exponent) if type.precision is None else type.scale or 0
    if scale > _MOST_FRACTIONAL_DIGITS:
        return Rejected(f"{shown(value)} has more than {_MOST_FRACTIONAL_DIGITS} digits after the point")
    fitted = _quantize(value, scale)
    if fitted is None:
        return Rejected(f"{shown(value)} has more digits after the point than {type_name(type)} holds")
    if type.precision is not None and fitted and value.adjusted() >= type.precision - scale:
        return Rejected(f"{shown(value)} has too many digits before the point for {type_name(type)}")
    return fitted


def _quantize(value: Decimal, scale: int) -> Decimal | None:
    """Return the value with exactly `scale` digits after the point (never fewer than 0); None if digits would go."""
    if not value:
        return Decimal((0, (0,), -max(0, scale)))
    if value.adjusted() < -scale:
        return None
    fitted = value.quantize(Decimal((0, (1,), -scale)), context=_EXACT)
    if fitted != value:
        return None
    return fitted if scale >= 0 else fitted.quantize(Decimal(1), context=_EXACT)


def parse_decimal(text: str) -> Decimal | None:
    """Return the decimal that a literal denotes, all its digits kept; None when it is no decimal literal."""
    if not _DECIMAL.fullmatch(text):
        return None
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond Python's own limits
        return None


# ---------------------------------------------------------------- booleans


def boolean_from_number(value: float, type: PgType, rule: ColumnRule) -> bool | Rejected:
    """Accept 0 and 1."""
    if value in (0, 1):
        return bool(value)
    return Rejected(f"{shown(value)} is no boolean (0 or 1)")


def boolean_from_text(value: str, type: PgType, rule: ColumnRule) -> bool | Rejected | None:
    """Accept PostgreSQL's own spellings, in any case."""
    if not value:
        return empty(type, rule)
    word = value.lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    return Rejected(f"{shown(value)} is no boolean (true/false, t/f, yes/no, y/n, on/off, 1/0)")
