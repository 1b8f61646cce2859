"""PostgreSQL's binary numeric: base-10000 digits without zeros at either end, their weight, and the display scale.

The layout is that of numeric_send and numeric_recv in PostgreSQL's src/backend/utils/adt/numeric.c.
"""

from __future__ import annotations

import struct
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pgferry.convert.buffers import Integers, fixed_values, scatter, valid_rows

_HEADER = struct.Struct("!hhHH")
_NEGATIVE = 0x4000
_SPECIAL = {0xC000: Decimal("NaN"), 0xD000: Decimal("Infinity"), 0xF000: Decimal("-Infinity")}


def encode_numeric(value: Decimal) -> bytes:
    """Return the bytes that PostgreSQL sends for a finite decimal whose exponent is minus its display scale."""
    whole, _, digits = format(value.copy_abs(), "f").partition(".")
    scale = len(digits)
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    digits = digits.ljust(-(-scale // 4) * 4, "0")
    text = whole + digits
    groups = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    weight = len(whole) // 4 - 1
    leading = next((place for place, group in enumerate(groups) if group), None)
    if leading is None:
        return _HEADER.pack(0, 0, 0, scale)
    last = max(place for place, group in enumerate(groups) if group) + 1
    sign = _NEGATIVE if value.is_signed() else 0
    header = _HEADER.pack(last - leading, weight - leading, sign, scale)
    return header + struct.pack(f"!{last - leading}H", *groups[leading:last])


def decode_numeric(raw: bytes) -> Decimal:
    """Return the decimal, its exponent minus the display scale; NaN and infinities too."""
    count, weight, sign, scale = _HEADER.unpack_from(raw)
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    groups = struct.unpack_from(f"!{count}H", raw, _HEADER.size)
    places = 4 * (count - 1 - weight)  # digits after the point that the groups write
    digits = "".join(f"{group:04d}" for group in groups) or "0"
    digits = digits + "0" * (scale - places) if scale >= places else digits[: len(digits) - (places - scale)]
    return Decimal(f"{'-' if sign == _NEGATIVE else ''}{digits or '0'}E-{scale}")


# Digits of a value that the columnwise way takes: with three zeros to fill the last group they stay below 2^63.
_MOST_DIGITS = 15
_GROUPS = 5


def encode_numerics(texts: pa.Array) -> pa.Array:
    """Return the fields of a text array of plain decimals (`-12.50`), NULLs kept; short ones a column at a time."""
    point = pc.find_substring(texts, ".")
    length = pc.binary_length(texts)
    short = pc.less_equal(length, _MOST_DIGITS)
    rows = pc.fill_null(short, False).to_numpy(zero_copy_only=False)
    valid = valid_rows(texts)
    fields = pa.nulls(len(texts), pa.binary())
    if rows.any():
        picked = texts.filter(pa.array(rows))
        places = pc.if_else(pc.less(point, 0), 0, pc.subtract(pc.subtract(length, point), 1)).filter(pa.array(rows))
        unscaled = pc.cast(pc.replace_substring(picked, ".", ""), pa.int64())
        fields = scatter(fields, rows, _short_fields(fixed_values(unscaled, np.int64), places.to_numpy()))
    long = valid & ~rows
    if long.any():
        values = [encode_numeric(Decimal(text)) for text in texts.filter(pa.array(long)).to_pylist()]
        fields = scatter(fields, long, pa.array(values, pa.binary()))
    return fields


def _short_fields(unscaled: Integers, places: Integers) -> pa.Array:
    fill = -places % 4
    rest = np.abs(unscaled) * 10**fill
    groups = np.empty((len(unscaled), _GROUPS), np.int64)
    for place in reversed(range(_GROUPS)):
        rest, groups[:, place] = np.divmod(rest, 10_000)
    written = groups != 0
    zero = ~written.any(axis=1)
    leading = np.where(zero, 0, written.argmax(axis=1))
    end = np.where(zero, 0, _GROUPS - written[:, ::-1].argmax(axis=1))
    weight = np.where(zero, 0, _GROUPS - 1 - leading - (places + fill) // 4)
    sign = np.where(unscaled < 0, _NEGATIVE, 0)
    words = np.concatenate([np.stack([end - leading, weight, sign, places], axis=1), groups], axis=1)
    column = np.arange(4 + _GROUPS)
    kept = (column < 4) | ((column >= 4 + leading[:, None]) & (column < 4 + end[:, None]))
    data = words[kept].astype(">i2")
    offsets = np.concatenate(([0], np.cumsum(kept.sum(axis=1) * 2))).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(unscaled), [None, pa.py_buffer(offsets), pa.py_buffer(data)])
