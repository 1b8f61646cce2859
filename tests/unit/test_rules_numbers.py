"""Numbers and booleans: what is accepted is exact, what is not is rejected with its reason."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgferry.convert.numbers import INTEGER_RANGES
from pgferry.convert.outcome import type_name
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType

RULE = ColumnRule()
EMPTY_IS_NULL = ColumnRule(on_empty="null")
SMALLINT, INTEGER, BIGINT = PgType(PgKind.SMALLINT), PgType(PgKind.INTEGER), PgType(PgKind.BIGINT)
REAL, DOUBLE, NUMERIC = PgType(PgKind.REAL), PgType(PgKind.DOUBLE), PgType(PgKind.NUMERIC)
BOOLEAN = PgType(PgKind.BOOLEAN)
MONEY = PgType(PgKind.NUMERIC, precision=8, scale=2)
NUMBER_TYPES = [SMALLINT, INTEGER, BIGINT, REAL, DOUBLE, NUMERIC, MONEY, BOOLEAN]


def reason(value: Any, type: PgType, rule: ColumnRule = RULE) -> str:
    answer = convert(value, type, rule)
    assert isinstance(answer, Rejected), f"{value!r} became {answer!r}"
    return answer.reason


# ---------------------------------------------------------------- integers


@pytest.mark.parametrize("type", [SMALLINT, INTEGER, BIGINT], ids=type_name)
@given(number=st.integers(-(2**63), 2**63 - 1) | st.integers(-70_000, 70_000))
def test_an_integer_is_itself_or_out_of_range(type: PgType, number: int) -> None:
    least, greatest = INTEGER_RANGES[type.kind]
    for value in (number, str(number), f"{number:+d}", f"{number:05d}"):
        if least <= number <= greatest:
            assert convert(value, type, RULE) == number
        else:
            assert "does not fit" in reason(value, type)


@given(st.floats(allow_nan=False))
def test_a_real_is_an_integer_only_when_it_is_whole_and_up_to_2_to_the_53(value: float) -> None:
    answer = convert(value, BIGINT, RULE)
    if isinstance(answer, Rejected):
        assert not value.is_integer() or abs(value) > 2**53
    else:
        assert type(answer) is int
        assert Decimal(answer) == Decimal(value)
        assert abs(value) <= 2**53


@given(st.text(max_size=6))
def test_text_is_an_integer_only_as_a_sign_and_ascii_digits(text: str) -> None:
    answer = convert(text, BIGINT, RULE)
    digits = text[1:] if text[:1] in ("+", "-") else text
    if digits and digits.isascii() and digits.isdigit():
        assert answer == int(text)
    else:
        assert isinstance(answer, Rejected)


def test_integer_reasons() -> None:
    assert reason("abc", INTEGER) == "'abc' is no integer"
    assert reason(2147483648, INTEGER) == "2147483648 does not fit integer (at most 2147483647)"
    assert reason(-32769, SMALLINT) == "-32769 does not fit smallint (at least -32768)"
    assert (
        reason("9" * 60, BIGINT) == "'9999999999999999999999999999999999999999'… does not fit bigint: it has 60 digits"
    )
    assert reason(b"\x00\x01", INTEGER) == "a BLOB of 2 bytes where integer is expected"
    assert reason(1.5, INTEGER) == "1.5 is no whole number, for integer"
    assert "over 2^53" in reason(2.0**53 + 2, BIGINT)
    assert reason("", INTEGER) == "an empty text where integer is expected"
    for text in (" 42", "42 ", "4_2", "4,2", "42.0", "1e3", "٤٢", "0x2A", "--1", "+", "4\x002"):
        assert reason(text, INTEGER).endswith("is no integer"), text


@pytest.mark.parametrize("type", NUMBER_TYPES, ids=type_name)
def test_an_empty_text_is_null_only_by_rule_and_null_is_null(type: PgType) -> None:
    assert "empty" in reason("", type)
    assert convert("", type, EMPTY_IS_NULL) is None
    assert convert(None, type, RULE) is None
    assert "BLOB" in reason(b"1", type)
    assert isinstance(convert(" ", type, EMPTY_IS_NULL), Rejected)


# ---------------------------------------------------------------- floats


@given(st.floats(allow_nan=False))
def test_a_double_keeps_every_bit(value: float) -> None:
    assert struct.pack("<d", convert(value, DOUBLE, RULE)) == struct.pack("<d", value)


@given(st.integers(-(2**63), 2**63 - 1) | st.integers(2**53 - 5, 2**53 + 5))
def test_an_integer_is_a_double_only_when_exact(value: int) -> None:
    answer = convert(value, DOUBLE, RULE)
    if isinstance(answer, Rejected):
        assert int(float(value)) != value
    else:
        assert isinstance(answer, float)
        assert Decimal(answer) == Decimal(value)


@given(st.floats(allow_nan=False))
def test_the_text_of_a_double_is_that_double(value: float) -> None:
    texts = [repr(value)]
    if math.isfinite(value):
        texts += [format(Decimal(value), "f"), format(Decimal(repr(value)), "f"), repr(value).replace("e", "E")]
    for text in texts:
        assert struct.pack("<d", convert(text, DOUBLE, RULE)) == struct.pack("<d", value)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_text_is_a_double_only_when_no_digit_is_lost(decimal: Decimal) -> None:
    answer = convert(str(decimal), DOUBLE, RULE)
    if isinstance(answer, float):
        assert decimal in (Decimal(answer), Decimal(repr(answer)))


@given(
    st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False) | st.decimals(-1000, 1000, places=3).map(float)
)
def test_a_float4_holds_the_value_or_prints_its_digits(value: float) -> None:
    answer = convert(value, REAL, RULE)
    if isinstance(answer, Rejected):
        with np.errstate(over="ignore"):
            assert float(np.float32(value)) != value
    else:
        assert isinstance(answer, float)
        assert float(np.float32(answer)) == answer
        assert answer == value or Decimal(str(np.float32(answer))) == Decimal(repr(value))


def test_float_forms() -> None:
    assert convert(0.1, REAL, RULE) == float(np.float32(0.1))
    assert reason(1635161608.59, REAL) == "1635161608.59 is not exact in real (it would become 1635161600.0)"
    assert reason(1e39, REAL) == "1e+39 does not fit real"
    assert isinstance(convert(1e-46, REAL, RULE), Rejected)
    assert convert(2**24, REAL, RULE) == 2.0**24
    assert isinstance(convert(2**24 + 1, REAL, RULE), Rejected)
    assert convert("1.10", DOUBLE, RULE) == 1.1
    assert convert("-inf", DOUBLE, RULE) == -math.inf
    assert convert("Infinity", REAL, RULE) == math.inf
    assert str(convert("-0", DOUBLE, RULE)) == "-0.0"
    assert "is not exact in double precision" in reason("0.10000000000000000001", DOUBLE)
    assert reason(2**53 + 1, DOUBLE) == (
        "9007199254740993 is not exact in double precision (it would become 9007199254740992)"
    )
    assert "does not fit" in reason("1e400", DOUBLE)
    assert isinstance(convert("1e-400", DOUBLE, RULE), Rejected)
    for text in ("NaN", "nan", "1,5", "0x1p3", "1_0", "1e", ".", "1 ", "infinit", "e5"):
        assert reason(text, DOUBLE).endswith("is no double precision"), text


# ---------------------------------------------------------------- numeric


@given(st.integers(1, 60), st.integers(0, 60), st.integers(-(10**62), 10**62), st.integers(-65, 3))
def test_a_decimal_is_equal_and_of_the_scale_or_does_not_fit(
    precision: int, scale: int, unscaled: int, power: int
) -> None:
    scale = min(scale, precision)
    decimal = Decimal(f"{unscaled}E{power}")
    answer = convert(f"{unscaled}E{power}", PgType(PgKind.NUMERIC, precision=precision, scale=scale), RULE)
    fits = abs(decimal) < Decimal(f"1E{precision - scale}") and _digits_after_point(decimal) <= scale
    if fits:
        assert answer == decimal
        assert isinstance(answer, Decimal)
        assert answer.as_tuple().exponent == -scale
    else:
        assert isinstance(answer, Rejected)


def _digits_after_point(decimal: Decimal) -> int:
    text = format(decimal, "f")
    return len(text.partition(".")[2].rstrip("0"))


@given(st.integers(-(10**50), 10**50), st.integers(0, 50))
def test_an_unconstrained_numeric_keeps_the_digits_given(unscaled: int, places: int) -> None:
    text = format(Decimal(f"{unscaled}E-{places}"), "f")
    answer = convert(text, NUMERIC, RULE)
    assert isinstance(answer, Decimal)
    assert format(answer, "f") == (text.lstrip("-") if not unscaled else text)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_numeric_of_a_real_is_its_shortest_decimal(value: float) -> None:
    answer = convert(value, NUMERIC, RULE)
    assert isinstance(answer, Decimal)
    assert answer == Decimal(repr(value))
    assert float(answer) == value
    assert int(answer.as_tuple().exponent) <= 0


def test_numeric_forms() -> None:
    assert str(convert("1.10", NUMERIC, RULE)) == "1.10"
    assert str(convert(5.0, NUMERIC, RULE)) == "5"
    assert str(convert(5, MONEY, RULE)) == "5.00"
    assert str(convert("1e2", NUMERIC, RULE)) == "100"
    assert str(convert("1.50e1", NUMERIC, RULE)) == "15.0"
    assert str(convert("-0.000", MONEY, RULE)) == "0.00"
    assert str(convert("12.3000", MONEY, RULE)) == "12.30"
    assert str(convert("1200", PgType(PgKind.NUMERIC, precision=3, scale=-2), RULE)) == "1200"
    assert isinstance(convert("1250", PgType(PgKind.NUMERIC, precision=3, scale=-2), RULE), Rejected)
    assert reason(12.345, MONEY) == "12.345 has more digits after the point than numeric(8,2) holds"
    assert reason(0.1 + 0.2, MONEY).startswith("0.30000000000000004 has more digits after the point")
    assert reason(1_000_000, MONEY) == "1000000 has too many digits before the point for numeric(8,2)"
    assert reason(math.inf, NUMERIC) == "inf is no number that numeric holds"
    assert reason("Infinity", NUMERIC) == "'Infinity' is no numeric"
    assert "more digits than numeric holds" in reason("1e131072", NUMERIC)
    assert "more digits than numeric holds" in reason("1e999999999999999999", NUMERIC)
    assert "16383" in reason("1e-16384", NUMERIC)
    assert "more digits" in reason("0e999999", NUMERIC)
    assert convert("1e131071", NUMERIC, RULE) == Decimal("1e131071")


# ---------------------------------------------------------------- booleans

SPELLINGS = {
    True: ["1", "t", "true", "y", "yes", "on", "T", "True", "YES", "On"],
    False: ["0", "f", "false", "n", "no", "off", "F", "FALSE", "No", "oFF"],
}


@pytest.mark.parametrize("truth", [True, False])
def test_a_fixed_table_of_spellings_is_boolean(truth: bool) -> None:
    for value in [*SPELLINGS[truth], int(truth), float(truth)]:
        assert convert(value, BOOLEAN, RULE) is truth


@given(st.text(max_size=5) | st.integers() | st.floats(allow_nan=False))
def test_everything_else_is_no_boolean(value: Any) -> None:
    spelled = isinstance(value, str) and value.lower() in [word for words in SPELLINGS.values() for word in words]
    if not spelled and value not in (0, 1, ""):
        assert "is no boolean" in reason(value, BOOLEAN)


def test_two_is_no_boolean() -> None:
    assert reason(2, BOOLEAN) == "2 is no boolean (0 or 1)"
    assert reason("01", BOOLEAN) == "'01' is no boolean (true/false, t/f, yes/no, y/n, on/off, 1/0)"
    assert reason("tru", BOOLEAN).startswith("'tru' is no boolean")
