"""Whole columns give the answers of the scalar rules, value by value, whatever the values are."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgferry.convert import fast_moments, fast_numbers, fast_text
from pgferry.convert.arrow import arrow_type, convert_array, from_values, source_classes
from pgferry.convert.outcome import type_name
from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType, StorageClass, UndecodableText

ARROW = {
    StorageClass.INTEGER: pa.int64(),
    StorageClass.REAL: pa.float64(),
    StorageClass.TEXT: pa.string(),
    StorageClass.BLOB: pa.binary(),
}

TYPES = [
    *(PgType(kind) for kind in PgKind if kind not in (PgKind.ENUM, PgKind.ARRAY)),
    *(
        PgType(PgKind.NUMERIC, precision=p, scale=s)
        for p, s in ((5, 2), (12, 0), (15, 15), (18, 4), (19, 4), (38, 30), (40, 3))
    ),
    PgType(PgKind.NUMERIC, precision=30, scale=18),
    PgType(PgKind.NUMERIC, precision=3, scale=-2),
    PgType(PgKind.NUMERIC, precision=2, scale=4),
    PgType(PgKind.VARCHAR, length=5),
    PgType(PgKind.CHAR, length=5),
    PgType(PgKind.TIME, precision=0),
    PgType(PgKind.TIMESTAMP, precision=3),
    PgType(PgKind.TIMESTAMPTZ, precision=0),
    PgType(PgKind.INTERVAL, precision=2),
    PgType(PgKind.ENUM, labels=("red", "dark green", "ärger", "", "7"), name="colour"),
    PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)),
    PgType(PgKind.ARRAY, element=PgType(PgKind.NUMERIC)),
]
RULES = [
    ColumnRule(),
    ColumnRule(on_empty="null", on_nul="strip", on_zero_date="null", blob_as_text=True),
    ColumnRule(epoch="s"),
    ColumnRule(epoch="ms", on_zero_date="null"),
    ColumnRule(epoch="us", timezone="UTC"),
    ColumnRule(epoch="julian", timezone="Europe/Berlin"),
]

# ---------------------------------------------------------------- values of each storage class

_POWERS = [2**power for power in (0, 1, 8, 15, 16, 24, 31, 32, 52, 53, 54, 62)] + [10**power for power in range(19)]
INTEGERS = (
    st.integers(-(2**63), 2**63 - 1)
    | st.integers(-10, 10)
    | st.builds(
        lambda power, step, sign: sign * power + step,
        st.sampled_from(_POWERS),
        st.integers(-2, 2),
        st.sampled_from([1, -1]),
    )
    | st.sampled_from([2**63 - 1, -(2**63), 253402300799, 253402300800, -62135596800, -62135596801, 1700000000])
    | st.integers(1_600_000_000_000, 1_800_000_000_000)
)
REALS = (
    st.floats(allow_nan=False)
    | st.floats(width=32, allow_nan=False)
    | INTEGERS.map(float)
    | st.decimals(-(10**9), 10**9, places=2).map(float)
    | st.decimals(-10, 10, places=4).map(float)
    | st.integers(-10000, 10000).map(lambda cents: cents / 100)
    | st.integers(0, 9 * 10**7).map(lambda number: 1_640_000_000 + number / 64)
    | st.floats(2_400_000, 2_500_000)
    | st.sampled_from([0.0, -0.0, 0.1, 1.5, 5e-324, 1e22, 1e-7, 1635161608.59, float("inf"), -float("inf"), 2460310.5])
)
_OFFSETS = st.sampled_from(["", "Z", "+00:00", "+00", " +0000", "-05:00", "+15:59:59", "+16:00", "z", " UTC", "-00:00"])
_MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))


def _moment_text(moment: datetime, separator: str, digits: int, offset: str) -> str:
    text = moment.strftime(f"%m-%d{separator}%H:%M:%S")
    fraction = f"{moment.microsecond:06d}000"[:digits]
    return f"{moment.year:04d}-{text}{'.' + fraction if digits else ''}{offset}"


MOMENT_TEXTS = st.builds(_moment_text, _MOMENTS, st.sampled_from(" T"), st.integers(0, 9), _OFFSETS)
SHORT_MOMENTS = st.builds(lambda text, length: text[:length], MOMENT_TEXTS, st.sampled_from([4, 7, 10, 13, 16, 19]))
FORMS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "-0",
        "+7",
        "007",
        " 5",
        "5 ",
        "1.0",
        "1.10",
        ".5",
        "5.",
        "1e2",
        "1e-400",
        "1e400",
        "0x10",
        "1_000",
        "٣",
        "NaN",
        "Infinity",
        "-inf",
        "0.1",
        "0.30000000000000004",
        "9223372036854775808",
        "t",
        "TRUE",
        "no",
        "On",
        "maybe",
        "red",
        "Red",
        "dark green",
        "ärger",
        "a\x00b",
        "\x00",
        "äöüßé",
        "äöüßé!",
        "0000-00-00",
        "0000-00-00 00:00:00",
        "2023-02-29",
        "2024-02-29",
        "2024-03-31 02:30:00",
        "2024-10-27 02:30:00",
        "2024-06-30T23:59:60",
        "2024-06-30 24:00:00",
        "2024-06-30 23:60",
        "2024-13-01",
        "24:00:00",
        "23:59",
        "23:59:59.999999",
        "1 day, 0:00:01",
        "-1 day, 23:59:59.5",
        "P1Y2M3DT4H5M6.7S",
        "P",
        "PT",
        "1970-01-02 03:00:00.000000",
        "{}",
        '{"a": [1.50, null, "\\u0000"]}',
        '"\\ud800"',
        "[1, null, 3]",
        "[1.5]",
        "[[1]]",
        "[NaN]",
        "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "6F9619FF8B86D011B42D00C04FC964FF",
        "6f9619ff-8b86-d011-b42d-00c04fc964fg",
        "6f9619ff_8b86_d011_b42d_00c04fc964ff",
        "{6f9619ff-8b86-d011-b42d-00c04fc964ff}",
    ]
)


def _spoil(text: str, place: int, character: str) -> str:
    place %= len(text) + 1
    return text[:place] + character + text[place + 1 :]


_GOOD = MOMENT_TEXTS | SHORT_MOMENTS | FORMS | INTEGERS.map(str) | REALS.map(repr) | st.uuids().map(str)
_SPOILT = st.builds(
    _spoil, _GOOD, st.integers(0, 50), st.sampled_from("0123456789:-. Tzé\x00/;٣") | st.characters(codec="utf-8")
)
TEXTS = (_GOOD | _SPOILT | st.text(st.characters(codec="utf-8"), max_size=8)).map(str.encode)
RAW_TEXTS = (
    TEXTS
    | st.sampled_from([b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"2024-01-0\xb1"])
    | st.binary(max_size=6)
)
BLOBS = st.binary(max_size=8) | st.binary(min_size=16, max_size=16) | TEXTS

VALUES: dict[StorageClass, st.SearchStrategy[Any]] = {
    StorageClass.INTEGER: INTEGERS,
    StorageClass.REAL: REALS,
    StorageClass.TEXT: RAW_TEXTS,
    StorageClass.BLOB: BLOBS,
}

# ---------------------------------------------------------------- the comparison


def column(values: list[Any], storage: StorageClass) -> pa.Array:
    """The array that the reader hands out; text unchecked, and at an offset as a slice has it."""
    filler = {StorageClass.INTEGER: 1, StorageClass.REAL: 1.5}.get(storage, b"1")
    raw = pa.binary() if storage is StorageClass.TEXT else ARROW[storage]
    array = pa.array([filler, None, *values, filler], raw)
    return (array.view(pa.string()) if storage is StorageClass.TEXT else array).slice(2, len(values))


def stored(value: Any, storage: StorageClass) -> Any:
    if storage is not StorageClass.TEXT or value is None:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return UndecodableText(value)


def python_values(array: pa.Array, type: PgType) -> list[Any]:
    """Semantic values as the rules return them, floats by their bits."""
    values = array.to_pylist()
    if type.kind is PgKind.TIMESTAMPTZ:
        values = [None if value is None else value.astimezone(UTC) for value in values]
    return [struct.pack("<d", value) if isinstance(value, float) else value for value in values]


def assert_same_answers(values: list[Any], storage: StorageClass, type: PgType, rule: ColumnRule) -> None:
    array, mask = convert_array(column(values, storage), storage, type, rule)
    answers = [convert(stored(value, storage), type, rule) for value in values]
    expected = [None if isinstance(answer, Rejected) else answer for answer in answers]
    assert array.type == arrow_type(type)
    assert len(array) == len(values)
    misfits = [False] * len(values) if mask is None else mask.to_pylist()
    assert misfits == [isinstance(answer, Rejected) for answer in answers]
    assert mask is None or any(misfits)
    assert python_values(array, type) == python_values(from_values(expected, type), type)
    array.validate(full=True)


@pytest.mark.parametrize("storage", ARROW)
@pytest.mark.parametrize("type", TYPES, ids=type_name)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_column_answers_as_its_values(type: PgType, storage: StorageClass, data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(RULES))
    values = data.draw(st.lists(st.none() | VALUES[storage], min_size=0, max_size=25))
    assert_same_answers(values, storage, type, rule)


@pytest.mark.parametrize("type", TYPES, ids=type_name)
def test_every_form_in_one_column(type: PgType) -> None:
    texts = [form.encode() for form in FORMS.elements]  # type: ignore[attr-defined]
    for rule in RULES:
        assert_same_answers([*texts, None], StorageClass.TEXT, type, rule)


@pytest.mark.parametrize("type", TYPES, ids=type_name)
def test_every_edge_in_one_column(type: PgType) -> None:
    numbers = [sign * power + step for sign, power, step in product((1, -1), _POWERS, (-2, -1, 0, 1, 2))]
    integers = [number for number in numbers if abs(number) < 2**63]
    reals = [*map(float, numbers), *(number / 100 for number in numbers), *(number / 2**20 for number in numbers)]
    for rule in RULES:
        assert_same_answers([*integers, None], StorageClass.INTEGER, type, rule)
        assert_same_answers([*reals, None, 0.1 + 0.2, 1 / 3, 2 / 3], StorageClass.REAL, type, rule)


@pytest.mark.parametrize("type", TYPES, ids=type_name)
def test_every_moment_form_in_one_column(type: PgType) -> None:
    base = datetime(2024, 2, 29, 23, 59, 58, 120000)
    offsets = ["", "Z", "+00:00", "-00:00", "+00", "+02:00", " Z", "UTC", " UTC", "+0000", " +0000"]
    texts = [
        _moment_text(base, separator, digits, offset).encode()
        for separator, digits, offset in product(" T", range(10), offsets)
    ]
    texts += [text[:length] for text in texts[:1] for length in range(len(text))]
    texts += [
        b"2024-02-29Z",
        b"2024-02-29+00:00",
        b"2024-02-29 00:00Z",
        b"2024-02-2Z",
        b"2024+00:00",
        b"12345+00:00",
        b"123456+0000",
        b"123456 UTC",
        b"23:59:58.12",
        b"23:59:58.",
        b"2024-02-29 00:00:00.000",
    ]
    for rule in RULES:
        assert_same_answers(texts, StorageClass.TEXT, type, rule)


@pytest.mark.parametrize("tail", ["Z", "+00:00", " UTC", "+0000"])
def test_a_column_in_utc_is_read_whole(tail: str) -> None:
    texts = pa.array([f"2024-02-29 23:{minute:02}{tail}" for minute in range(60)])
    for kind in (PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ):
        reading = fast_moments.moments(texts, PgType(kind), RULES[0])
        assert reading is not None
        assert reading[1].all(), "no text of it is left to the slower rules"


def test_every_day_of_the_calendar_has_its_own_date() -> None:
    first = datetime(1, 1, 1)
    days = [(first + timedelta(days=number)).date() for number in range(0, 3652059, 13)]
    array, mask = convert_array(
        pa.array([day.isoformat() for day in days]), StorageClass.TEXT, PgType(PgKind.DATE), RULES[0]
    )
    assert mask is None
    assert array.to_pylist() == days
    wrong = [
        f"{year:04d}-{month:02d}-{day:02d}"
        for year in (0, 1900, 2000, 2023, 9999)
        for month in range(14)
        for day in (0, 29, 30, 31, 32)
    ]
    assert_same_answers([text.encode() for text in wrong], StorageClass.TEXT, PgType(PgKind.DATE), RULES[0])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=200, max_size=200))
def test_float4_of_any_bits(bits: list[int]) -> None:
    numbers = np.array(bits, np.uint32).view(np.float32)
    values = [float(str(number)) for number in numbers if np.isfinite(number)] + [
        float(number) for number in numbers if np.isfinite(number)
    ]
    _, mask = convert_array(pa.array(values, pa.float64()), StorageClass.REAL, PgType(PgKind.REAL), RULES[0])
    assert mask is None
    assert_same_answers(values, StorageClass.REAL, PgType(PgKind.REAL), RULES[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 38), st.integers(0, 38), st.lists(REALS | st.floats(0, 1) | INTEGERS.map(float), max_size=50))
def test_any_numeric_from_reals(precision: int, scale: int, values: list[float]) -> None:
    type = PgType(PgKind.NUMERIC, precision=precision, scale=min(scale, precision))
    assert_same_answers(values, StorageClass.REAL, type, RULES[0])


def test_one_bad_text_leaves_the_others_alone() -> None:
    values = [b"fine", b"a\x00b", "größer".encode(), b"\xff\xfe", None, b""]
    array, mask = convert_array(column(values, StorageClass.TEXT), StorageClass.TEXT, PgType(PgKind.TEXT), RULES[0])
    assert array.to_pylist() == ["fine", None, "größer", None, None, ""]
    assert mask is not None
    assert mask.to_pylist() == [False, True, False, True, False, False]


def test_zeros_keep_their_signs_as_distinct_values() -> None:
    type = PgType(PgKind.TEXT)
    array, _ = convert_array(pa.array([0.0, -0.0, 0.0]), StorageClass.REAL, type, RULES[0])
    assert array.to_pylist() == ["0.0", "-0.0", "0.0"]


def test_the_classes_that_a_column_can_be_read_in() -> None:
    plain, epoch = ColumnRule(), ColumnRule(epoch="ms")
    assert source_classes(PgType(PgKind.INTEGER), plain)[0] is StorageClass.INTEGER
    assert source_classes(PgType(PgKind.TIMESTAMP), plain) == (StorageClass.TEXT,)
    assert source_classes(PgType(PgKind.TIMESTAMP), epoch) == (
        StorageClass.TEXT,
        StorageClass.INTEGER,
        StorageClass.REAL,
    )
    assert source_classes(PgType(PgKind.BYTEA), plain) == (StorageClass.BLOB, StorageClass.TEXT)
    assert source_classes(PgType(PgKind.UNSUPPORTED), plain) == ()
    for kind in set(PgKind) - {PgKind.UNSUPPORTED}:
        assert source_classes(PgType(kind), plain), kind


def test_parquet_holds_decimals_up_to_38_digits_and_text_beyond() -> None:
    assert arrow_type(PgType(PgKind.NUMERIC, precision=38, scale=10)) == pa.decimal128(38, 10)
    assert arrow_type(PgType(PgKind.NUMERIC, precision=39, scale=10)) == pa.string()
    assert arrow_type(PgType(PgKind.NUMERIC, precision=3, scale=-1)) == pa.string()
    assert arrow_type(PgType(PgKind.NUMERIC)) == pa.string()
    assert from_values([Decimal("1E+2").quantize(Decimal(1)), None], PgType(PgKind.NUMERIC)).to_pylist() == [
        "100",
        None,
    ]


CLEAN = [
    (
        "moments",
        fast_moments.moments,
        PgType(PgKind.TIMESTAMP),
        pa.array(["2024-02-29 12:30:01", None, "2024-02-29T12:30:01.5"]),
    ),
    (
        "zoned",
        fast_moments.moments,
        PgType(PgKind.TIMESTAMPTZ),
        pa.array(["2024-02-29 12:30:01+00:00", "2024-02-29T12:30Z"]),
    ),
    ("dates", fast_moments.moments, PgType(PgKind.DATE), pa.array(["2024-02-29", "9999-12-31", "0001-01-01"])),
    ("times", fast_moments.times, PgType(PgKind.TIME), pa.array(["00:00", "23:59:59", "23:59:59.999999"])),
    ("texts", fast_text.texts, PgType(PgKind.VARCHAR, length=6), pa.array(["größer", "", None])),
    ("uuids", fast_text.uuids, PgType(PgKind.UUID), pa.array(["6f9619ff-8b86-d011-b42d-00c04fc964ff", "6F" * 16])),
    (
        "cents",
        fast_numbers.numerics_from_reals,
        PgType(PgKind.NUMERIC, precision=9, scale=2),
        pa.array([0.1, -1234567.89, 0.0]),
    ),
    ("float4s", fast_numbers.float4s, PgType(PgKind.REAL), pa.array([0.1, -1.5, 3.4028235e38, -0.0])),
    ("integers", fast_numbers.integers, PgType(PgKind.SMALLINT), pa.array([32767, -32768, None])),
]


@pytest.mark.parametrize(("read", "type", "array"), [case[1:] for case in CLEAN], ids=[case[0] for case in CLEAN])
def test_clean_columns_need_no_look_at_single_values(read: Any, type: PgType, array: pa.Array) -> None:
    values, certain = read(array, type, ColumnRule())
    assert certain[array.is_valid().to_numpy(zero_copy_only=False)].all()
    assert values.is_valid().equals(array.is_valid())


def test_an_array_of_another_type_than_its_class_is_refused() -> None:
    with pytest.raises(TypeError, match="integer comes as int64, not double"):
        convert_array(pa.array([1.5]), StorageClass.INTEGER, PgType(PgKind.BIGINT), ColumnRule())
    nothing, mask = convert_array(pa.nulls(2), StorageClass.TEXT, PgType(PgKind.UUID), ColumnRule())
    assert (nothing.type, nothing.null_count, mask) == (pa.string(), 2, None)
