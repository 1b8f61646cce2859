"""Numbers and booleans on their way back: the renderings of a value, the column's own form first."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from pgferry.convert.lexical_form import LexicalForm
from pgferry.model import Affinity, ColumnRule, PgType, SqliteValue, StorageClass

Render = Callable[[Any], SqliteValue]
"""Writes a semantic value in one form; None when that form cannot write it."""

_NUMERIC_HEAD = struct.Struct("!hhHH")
_NEGATIVE = 0x4000
_CERTAIN = 10**15
"""Decimals of up to 15 digits are told apart by doubles: the shortest digits of the nearest double are theirs."""


def in_order(form: LexicalForm, renders: Mapping[StorageClass, Render]) -> list[Render]:
    """Return the renderings by storage class, that of the form first."""
    first = [renders[form.storage]] if form.storage in renders else []
    return first + [render for storage, render in renders.items() if storage is not form.storage]


def integers(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write an integer as such, in digits, or as a float."""
    return in_order(form, {StorageClass.INTEGER: lambda v: v, StorageClass.TEXT: str, StorageClass.REAL: float})


def booleans(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a boolean as 0 or 1, as one of the form's two words, or as 0.0 or 1.0."""
    return in_order(
        form,
        {
            StorageClass.INTEGER: int,
            StorageClass.TEXT: lambda v: form.words[v],
            StorageClass.REAL: float,
        },
    )


def floats(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a double: style `whole` writes text of whole numbers without a point."""
    return in_order(
        form,
        {
            StorageClass.REAL: lambda v: v,
            StorageClass.INTEGER: _whole,
            StorageClass.TEXT: lambda v: _digits(v, repr, form.style),
        },
    )


def single_floats(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a float4: style `shortest` as the double of its shortest digits, `exact` as the double that it is."""
    real: Render = (lambda v: v) if form.style == "exact" else shortest_single
    others = {
        StorageClass.REAL: real,
        StorageClass.INTEGER: _whole,
        StorageClass.TEXT: lambda v: _digits(v, _single_digits, form.style),
    }
    return [*in_order(form, others), lambda v: v]


def numerics(type: PgType, form: LexicalForm, rule: ColumnRule) -> list[Render]:
    """Write a decimal as a float or an integer that stands for it exactly, or as its digits.

    Style `short` leaves out the zeros at the end of text.
    """
    return in_order(
        form,
        {
            StorageClass.REAL: _as_float,
            StorageClass.INTEGER: _as_integer,
            StorageClass.TEXT: _short if form.style == "short" else _plain,
        },
    )


def shortest_single(value: float) -> float:
    """Return the double whose shortest digits are those of a float4."""
    return float(_single_digits(value))


def _single_digits(value: float) -> str:
    return str(np.float32(value))


def _digits(value: float, write: Callable[[float], str], style: str) -> str:
    text = write(value)
    return text.removesuffix(".0") if style == "whole" else text


def _whole(value: float) -> int | None:
    return int(value) if value - value == 0.0 and value == int(value) and -(2.0**63) <= value < 2.0**63 else None


def _as_float(value: Decimal) -> float | int | None:
    if not value.is_finite():
        return None
    number = float(value)
    return number if number - number == 0.0 and Decimal(repr(number)) == value else _as_integer(value)


def _as_integer(value: Decimal) -> int | None:
    if not value.is_finite() or value.adjusted() > 19 or value != int(value):
        return None
    return int(value) if -(2**63) <= value < 2**63 else None


def _plain(value: Decimal) -> str | None:
    return format(value, "f") if value.is_finite() else None


def _short(value: Decimal) -> str | None:
    text = _plain(value)
    return text.rstrip("0").rstrip(".") if text is not None and "." in text else text


# ---------------------------------------------------------------- straight from the field


def quick_numeric(form: LexicalForm) -> Callable[[bytes], SqliteValue]:
    """Return the quick way for decimals of up to 15 digits in a column of floats; None is no answer."""
    unpack, whole = _NUMERIC_HEAD.unpack_from, form.affinity in (Affinity.NUMERIC, Affinity.INTEGER)
    groups = [struct.Struct(f"!{count}H").unpack_from for count in range(6)]

    def write(raw: bytes) -> SqliteValue:
        count, weight, sign, _ = unpack(raw)
        if count > 5 or sign > _NEGATIVE or abs(weight) > 20:
            return None
        unscaled = 0
        for group in groups[count](raw, 8):
            unscaled = unscaled * 10_000 + group
        power = 4 * (weight - count + 1)
        number = unscaled * 10**power if power > 0 else unscaled
        # Groups may end in up to three zeros after the point, which are no digits.
        if number >= _CERTAIN:
            return None
        value = number / 10**-power if power < 0 else float(number)
        if sign:
            value = -value
        return int(value) if whole and value.is_integer() else value

    return write


_NUMBER_TEXT = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")


def integer_of(text: str) -> int | None:
    """Return the integer whose digits a text is; None when it is written otherwise, or needs more than 64 bits."""
    if not _NUMBER_TEXT.fullmatch(text) or text == "-0":
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def float_of(text: str) -> float | None:
    """Return the double of which a text is the shortest digits, infinities in PostgreSQL's spelling; None otherwise."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if repr(number).replace("inf", "Infinity") == text else None
