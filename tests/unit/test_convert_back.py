"""What goes back reads as the same value of PostgreSQL, in whatever form and column it is written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import product
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgferry.convert.back import reads_as, to_sqlite, writer
from pgferry.convert.back_intervals import STYLES
from pgferry.convert.durations import Duration
from pgferry.convert.elements import render_array
from pgferry.convert.fields import encode_field
from pgferry.convert.lexical_form import MINIMAL, TRIMMED, JsonForm, LexicalForm, MomentForm, default_form
from pgferry.convert.stored import read_number, stored
from pgferry.errors import Permanent
from pgferry.model import Affinity, ColumnRule, PgKind, PgType, SqliteValue, StorageClass

RULE = ColumnRule()
LABELS = ("red", "dark green", "ärger", "7", "-12", "007", "1e5", "")
BLOB, NUMERIC, REAL, TEXT = Affinity.BLOB, Affinity.NUMERIC, Affinity.REAL, Affinity.TEXT

# ---------------------------------------------------------------- values of every type

_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
_NUMBERS = st.sampled_from(
    ["", "0", "12", "-7", "007", "+5", "1e5", "1.50", " 5", "5 ", "\t1.", ".5", "-0", "9" * 19, "9" * 30, "1e400",
     "Infinity", "inf", "nan", "0x10", "true", "null", "2024-01-02", "1_0", "5\xa0", "٣"]
)  # fmt: skip
_TEXTS = _TEXT | _NUMBERS
_MOMENTS = (
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))
    | st.datetimes(datetime(2020, 1, 1), datetime(2026, 1, 1)).map(lambda moment: moment.replace(microsecond=0))
    | st.datetimes(datetime(1999, 1, 1), datetime(2030, 1, 1)).map(lambda moment: moment.replace(microsecond=123000))
    | st.sampled_from(
        [datetime(1970, 1, 1), datetime(1, 1, 1), datetime(2024, 3, 31, 1, 30), datetime(2024, 10, 27, 1)]
    )
)
_SINGLES = st.floats(width=32, allow_nan=False)


def _numerics(precision: int, scale: int) -> st.SearchStrategy[Decimal]:
    limit = 10**precision - 1
    return (st.integers(-9999, 9999) | st.integers(-limit, limit)).map(lambda n: Decimal(f"{n}E-{scale}"))


def _decimals() -> st.SearchStrategy[Decimal]:
    zeros = st.builds(lambda n, scale: Decimal(f"{n}E-{scale}"), st.integers(-(10**40), 10**40), st.integers(0, 45))
    return zeros | st.sampled_from([Decimal("0.000"), Decimal(10**30), Decimal(2**63), Decimal(-(2**63)), Decimal(1)])


_INTERVALS = st.builds(
    lambda months, days, microseconds: str(Duration(months, days, microseconds)),
    st.just(0) | st.integers(-40, 40) | st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-40, 40) | st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(0, 86_399_999_999) | st.just(0) | st.integers(-(10**12), 10**12) | st.integers(-(2**63) + 1, 2**63 - 1),
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
_DOCUMENTS = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4)
)
_JSON = st.builds(
    lambda node, ascii_only, indent: json.dumps(node, ensure_ascii=ascii_only, indent=indent),
    _DOCUMENTS,
    st.booleans(),
    st.sampled_from([None, None, 1]),
)


def _plain_json(text: str) -> bool:
    return "\\u0000" not in text


VALUES: dict[PgType, st.SearchStrategy[Any]] = {
    PgType(PgKind.SMALLINT): st.integers(-(2**15), 2**15 - 1),
    PgType(PgKind.INTEGER): st.integers(-(2**31), 2**31 - 1),
    PgType(PgKind.BIGINT): st.integers(-(2**63), 2**63 - 1),
    PgType(PgKind.REAL): _SINGLES | st.sampled_from([float(np.float32(0.1)), -0.0, 1.0]),
    PgType(PgKind.DOUBLE): st.floats(allow_nan=False) | st.integers(-99, 99).map(float),
    PgType(PgKind.NUMERIC): _decimals(),
    PgType(PgKind.NUMERIC, precision=10, scale=2): _numerics(10, 2),
    PgType(PgKind.NUMERIC, precision=38, scale=10): _numerics(38, 10),
    PgType(PgKind.BOOLEAN): st.booleans(),
    PgType(PgKind.TEXT): _TEXTS,
    PgType(PgKind.VARCHAR, length=30): _TEXTS,
    PgType(PgKind.CHAR, length=30): _TEXTS.map(lambda text: text.ljust(30)),
    PgType(PgKind.BYTEA): st.binary(max_size=20) | _TEXTS.map(str.encode),
    PgType(PgKind.DATE): _MOMENTS.map(datetime.date),
    PgType(PgKind.TIME): _MOMENTS.map(datetime.time),
    PgType(PgKind.TIMESTAMP): _MOMENTS,
    PgType(PgKind.TIMESTAMPTZ): _MOMENTS.map(lambda moment: moment.replace(tzinfo=UTC)),
    PgType(PgKind.INTERVAL): _INTERVALS,
    PgType(PgKind.UUID): st.uuids().map(str) | st.integers(0, 10**31).map(lambda n: str(UUID(f"{n:032d}"))),
    PgType(PgKind.JSON): _JSON,
    PgType(PgKind.JSONB): _JSON.filter(_plain_json),
    PgType(PgKind.ENUM, labels=LABELS): st.sampled_from(LABELS),
}


def _array_values(element: PgType) -> st.SearchStrategy[str]:
    values = VALUES[element]
    if element.kind is PgKind.BYTEA:
        values = _TEXTS.map(str.encode)
    if element.kind in (PgKind.JSON, PgKind.JSONB):
        values = values.filter(lambda text: text != "null" and _plain_json(text))
    return st.lists(st.none() | values, max_size=4).map(render_array)


SCALARS = tuple(VALUES)
ARRAYS = tuple(PgType(PgKind.ARRAY, element=element) for element in SCALARS)
VALUES |= {PgType(PgKind.ARRAY, element=element): _array_values(element) for element in SCALARS}

_STYLES = ["", "shortest", "exact", "whole", "fixed", "short", "padded", "trimmed", "number", *STYLES,
           "hex", "dashes", "HEX", "DASHES"]  # fmt: skip
_MOMENT_FORMS = st.builds(
    MomentForm,
    between=st.sampled_from([" ", "T", ""]),
    seconds=st.booleans() | st.just(True),
    digits=st.sampled_from([MINIMAL, TRIMMED, 0, 1, 3, 6, 9]),
    suffix=st.sampled_from(["", "Z", "+00:00", " UTC", "+02:00", " -0530", "+05", "-00:00"]),
    in_zone=st.booleans(),
)
_JSON_FORMS = st.builds(
    JsonForm,
    comma=st.sampled_from([", ", ","]),
    colon=st.sampled_from([": ", ":"]),
    ascii=st.booleans(),
    in_order=st.booleans(),
    keys=st.sampled_from([(), ("b", "a"), ("12", "")]),
)
_RULES = st.builds(
    ColumnRule,
    on_empty=st.sampled_from(["quarantine", "null"]),
    on_zero_date=st.sampled_from(["quarantine", "null"]),
    epoch=st.sampled_from([None, "s", "ms", "us", "julian"]),
    timezone=st.sampled_from([None, "UTC", "Europe/Berlin"]),
    blob_as_text=st.booleans(),
    number_as_bytes=st.booleans(),
)


@st.composite
def _forms(draw: st.DrawFn, affinity: st.SearchStrategy[Affinity]) -> LexicalForm:
    return LexicalForm(
        storage=draw(st.sampled_from([s for s in StorageClass if s is not StorageClass.NULL])),
        affinity=draw(affinity),
        style=draw(st.sampled_from(_STYLES)),
        words=draw(st.sampled_from([("false", "true"), ("F", "T"), ("0", "1"), ("No", "Yes")])),
        moment=draw(_MOMENT_FORMS),
        json=draw(_JSON_FORMS),
    )


@st.composite
def _cases(draw: st.DrawFn, *affinities: Affinity) -> tuple[bytes, PgType, LexicalForm, ColumnRule]:
    type = draw(st.sampled_from(SCALARS) | st.sampled_from(ARRAYS))
    form = draw(_forms(st.sampled_from(affinities)))
    if type.kind is PgKind.ARRAY:
        form = replace(form, element=draw(st.none() | _forms(st.just(BLOB))))
    return encode_field(draw(VALUES[type]), type), type, form, draw(_RULES)


@given(_cases(BLOB, TEXT))
def test_every_value_goes_back_whatever_the_form(case: tuple[bytes, PgType, LexicalForm, ColumnRule]) -> None:
    field, type, form, rule = case
    value = to_sqlite(field, type, form, rule)
    assert reads_as(value, field, type, rule)
    assert _same(stored(value, form.affinity), value)


@given(_cases(NUMERIC, Affinity.INTEGER, REAL))
def test_a_numeric_affinity_loses_nothing_silently(case: tuple[bytes, PgType, LexicalForm, ColumnRule]) -> None:
    field, type, form, rule = case
    try:
        value = to_sqlite(field, type, form, rule)
    except Permanent:
        # Only what SQLite would turn into another number there has no form.
        assert type.kind in _NUMERIC_LOOKING
        return
    assert reads_as(value, field, type, rule)
    assert _same(stored(value, form.affinity), value)


_NUMERIC_LOOKING = {
    PgKind.BIGINT, PgKind.REAL, PgKind.DOUBLE, PgKind.NUMERIC, PgKind.TEXT, PgKind.VARCHAR, PgKind.CHAR, PgKind.ENUM,
    PgKind.JSON, PgKind.JSONB,
}  # fmt: skip


@given(_cases(BLOB, TEXT, NUMERIC, REAL), st.sampled_from([s for s in StorageClass if s is not StorageClass.NULL]))
def test_a_column_of_one_class_gets_that_class_or_nothing(
    case: tuple[bytes, PgType, LexicalForm, ColumnRule], only: StorageClass
) -> None:
    field, type, form, rule = case
    try:
        value = to_sqlite(field, type, replace(form, only=only), rule)
    except Permanent:
        return
    classes = {int: "integer", float: "real", str: "text", bytes: "blob"}
    assert classes[value.__class__] == only
    assert reads_as(value, field, type, rule)


@given(_forms(st.sampled_from(Affinity)), st.none() | st.sampled_from(["", 0]))
def test_a_form_survives_json(form: LexicalForm, null: SqliteValue) -> None:
    form = replace(form, null=null, only=StorageClass.TEXT, element=replace(form, column="t.c"))
    assert LexicalForm.from_json(json.loads(json.dumps(form.to_json()))) == form


# ---------------------------------------------------------------- what SQLite stores


def _same(one: object, other: object) -> bool:
    return one.__class__ is other.__class__ and repr(one) == repr(other)


@pytest.fixture(scope="module")
def columns() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as file:
        file.execute("CREATE TABLE t (a INTEGER, b TEXT, c BLOB, d REAL, e NUMERIC)")
        yield file


AFFINITIES = (Affinity.INTEGER, TEXT, BLOB, REAL, NUMERIC)
_NUMERALS = st.from_regex(r"[ \t]?[+-]?[0-9]{0,20}\.?[0-9]{0,3}(?:[eE][+-]?[0-9]{0,2})?[ \n]?", fullmatch=True)


@given(st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | _TEXTS | _NUMERALS | st.binary(max_size=5))
@example(float(2**63))
@example(-float(2**63))
@example(float("-inf"))
def test_stored_values_are_those_of_sqlite(columns: sqlite3.Connection, value: SqliteValue) -> None:
    columns.execute("DELETE FROM t")
    columns.execute("INSERT INTO t VALUES (?1, ?1, ?1, ?1, ?1)", (value,))
    found = columns.execute("SELECT * FROM t").fetchone()
    for affinity, there in zip(AFFINITIES, found, strict=True):
        answer = stored(value, affinity)
        if affinity is TEXT and isinstance(value, float):
            assert answer == repr(value)  # SQLite writes 15 digits
        elif isinstance(value, str) and isinstance(there, int | float):
            assert isinstance(answer, int | float)
            assert answer == pytest.approx(there, rel=1e-14)  # SQLite reads digits less exactly than Python
        else:
            assert _same(answer, there), (affinity, answer, there)
        columns.execute("DELETE FROM t")
        columns.execute("INSERT INTO t VALUES (?1, ?1, ?1, ?1, ?1)", (answer,))
        again = columns.execute("SELECT * FROM t").fetchone()[AFFINITIES.index(affinity)]
        assert _same(again, answer)


def test_numbers_of_text() -> None:
    assert read_number(" 12 ") == 12
    assert read_number("9223372036854775808") == 2.0**63
    assert read_number("1e") is None
    assert read_number("٣") is None


# ---------------------------------------------------------------- the forms, by example


def back(value: Any, type: PgType, *, rule: ColumnRule = RULE, affinity: Affinity = BLOB, **form: Any) -> SqliteValue:
    return to_sqlite(
        encode_field(value, type), type, replace(default_form(type, rule, affinity=affinity), **form), rule
    )


AT = datetime(2024, 7, 1, 12, 30, 5, 120000)
TIMESTAMP, TIMESTAMPTZ = PgType(PgKind.TIMESTAMP), PgType(PgKind.TIMESTAMPTZ)
BERLIN = ColumnRule(timezone="Europe/Berlin")


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (MomentForm(), "2024-07-01 12:30:05.120000"),
        (MomentForm("T", digits=3), "2024-07-01T12:30:05.120"),
        (MomentForm("T", digits=TRIMMED), "2024-07-01T12:30:05.12"),
        (MomentForm("T", digits=9), "2024-07-01T12:30:05.120000000"),
        (MomentForm(digits=0), "2024-07-01 12:30:05.120000"),
        (MomentForm(digits=1), "2024-07-01 12:30:05.120000"),
        (MomentForm(seconds=False), "2024-07-01 12:30:05.120000"),
        (MomentForm(""), "2024-07-01 12:30:05.120000"),
    ],
)
def test_a_fraction_that_the_form_has_no_room_for_is_written_all_the_same(moment: MomentForm, written: str) -> None:
    assert back(AT, TIMESTAMP, moment=moment) == written


@pytest.mark.parametrize(
    ("suffix", "in_zone", "rule", "written"),
    [
        ("", False, RULE, "2024-07-01 12:30:05.120000"),
        ("Z", False, RULE, "2024-07-01 12:30:05.120000Z"),
        (" UTC", False, RULE, "2024-07-01 12:30:05.120000 UTC"),
        ("+05:30", False, RULE, "2024-07-01 18:00:05.120000+05:30"),
        ("-0800", False, RULE, "2024-07-01 04:30:05.120000-0800"),
        ("", False, BERLIN, "2024-07-01 14:30:05.120000"),
        ("+01:00", True, BERLIN, "2024-07-01 14:30:05.120000+02:00"),
        ("+01", True, BERLIN, "2024-07-01 14:30:05.120000+02"),
        ("Z", True, BERLIN, "2024-07-01 14:30:05.120000+02:00"),
    ],
)
def test_an_instant_has_the_offset_of_its_column(suffix: str, in_zone: bool, rule: ColumnRule, written: str) -> None:
    moment = MomentForm(suffix=suffix, in_zone=in_zone)
    assert back(AT.replace(tzinfo=UTC), TIMESTAMPTZ, rule=rule, moment=moment) == written


def test_a_date_alone_has_no_offset() -> None:
    assert back(AT.date(), PgType(PgKind.DATE), moment=MomentForm("", suffix="Z")) == "2024-07-01 00:00:00Z"


def test_an_hour_that_comes_twice_has_its_offset_written() -> None:
    twice = datetime(2024, 10, 27, 0, 30, tzinfo=UTC)
    assert back(twice, TIMESTAMPTZ, rule=BERLIN) == "2024-10-27 00:30:00+00:00"
    assert back(twice + timedelta(hours=1), TIMESTAMPTZ, rule=BERLIN) == "2024-10-27 01:30:00+00:00"


@pytest.mark.parametrize(
    ("unit", "storage", "written"),
    [
        ("s", StorageClass.INTEGER, 1719837005.12),
        ("s", StorageClass.REAL, 1719837005.12),
        ("ms", StorageClass.INTEGER, 1719837005120),
        ("us", StorageClass.INTEGER, 1719837005120000),
        ("julian", StorageClass.REAL, 2460493.0208925926),
    ],
)
def test_moments_are_numbers_of_the_rule(unit: str, storage: StorageClass, written: float) -> None:
    rule = ColumnRule(epoch=unit)
    value = back(AT, TIMESTAMP, rule=rule, storage=storage)
    assert _same(value, written)
    if unit == "julian":
        with closing(sqlite3.connect(":memory:")) as file:
            assert file.execute("SELECT julianday('2024-07-01 12:30:05.120')").fetchone() == (value,)


def test_what_no_number_of_the_unit_holds_becomes_text() -> None:
    finer = AT.replace(microsecond=1)
    assert back(finer, TIMESTAMP, rule=ColumnRule(epoch="julian")) == "2024-07-01 12:30:05.000001"
    zero = ColumnRule(epoch="s", on_zero_date="null")
    assert back(datetime(1970, 1, 1), TIMESTAMP, rule=zero) == "1970-01-01 00:00:00.000000"


SQLALCHEMY: list[tuple[PgType, Any, Affinity, SqliteValue]] = [
    (PgType(PgKind.BOOLEAN), True, NUMERIC, 1),
    (PgType(PgKind.NUMERIC, precision=10, scale=2), Decimal("12.50"), NUMERIC, 12.5),
    (PgType(PgKind.NUMERIC, precision=10, scale=2), Decimal("12.00"), NUMERIC, 12),
    (PgType(PgKind.REAL), float(np.float32(0.1)), REAL, 0.1),
    (PgType(PgKind.DATE), date(2024, 7, 1), NUMERIC, "2024-07-01"),
    (PgType(PgKind.TIME), time(1, 2, 3), NUMERIC, "01:02:03.000000"),
    (PgType(PgKind.INTERVAL), "P0M1DT3.000000S", NUMERIC, "1970-01-02 00:00:03.000000"),
    (PgType(PgKind.UUID), "00000000-0000-0000-0000-00000000000a", TEXT, "0" * 31 + "a"),
    (PgType(PgKind.JSONB), '{"ä": 1}', NUMERIC, '{"\\u00e4": 1}'),
    (PgType(PgKind.CHAR, length=5), "ab   ", TEXT, "ab"),
    (PgType(PgKind.ARRAY, element=PgType(PgKind.NUMERIC)), '["1.50",null]', TEXT, "[1.50, null]"),
]


@pytest.mark.parametrize(("type", "value", "affinity", "written"), SQLALCHEMY)
def test_an_empty_column_takes_what_sqlalchemy_writes(
    type: PgType, value: Any, affinity: Affinity, written: SqliteValue
) -> None:
    assert _same(back(value, type, affinity=affinity), written)


def test_a_uuid_of_digits_keeps_its_dashes_where_it_would_become_a_number() -> None:
    digits = "12345678-1234-1234-1234-123456789012"
    assert back(digits, PgType(PgKind.UUID), affinity=NUMERIC) == digits
    assert back(digits, PgType(PgKind.UUID), affinity=TEXT) == digits.replace("-", "")


def test_jsonb_gets_blanks_keys_and_exponents_back() -> None:
    jsonb = PgType(PgKind.JSONB)
    text = '{"name": "x", "id": 1e-07, "tiny": 0.00000010}'
    form = JsonForm(",", ":", keys=("name", "id"))
    assert back(text, jsonb, json=form) == '{"name":"x","id":1e-07,"tiny":0.00000010}'
    assert back(text, jsonb, json=JsonForm(in_order=True)) == '{"id": 1e-07, "name": "x", "tiny": 0.00000010}'


def test_null_is_what_the_form_says() -> None:
    form = default_form(TIMESTAMP)
    assert writer(TIMESTAMP, form, RULE)(None) is None
    assert writer(TIMESTAMP, replace(form, null=""), ColumnRule(on_empty="null"))(None) == ""


# ---------------------------------------------------------------- what never came from SQLite

_INT8_LARGEST, _INT4_LARGEST = (2**63 - 1).to_bytes(8, "big"), (2**31 - 1).to_bytes(4, "big")
_LEAST = b"\x80" + bytes(7)
BOUNDS = bytes.fromhex("00000001 00000000 00000017 00000001 00000000 00000004 00000007".replace(" ", ""))
SQUARE = bytes.fromhex(
    "00000002 00000000 00000017 00000001 00000001 00000001 00000001 00000004 00000007".replace(" ", "")
)

STRANGE: list[tuple[PgType, bytes, str]] = [
    (TIMESTAMP, _INT8_LARGEST, "infinity"),
    (TIMESTAMPTZ, _LEAST, "-infinity"),
    (PgType(PgKind.DATE), _INT4_LARGEST, "infinity"),
    (PgType(PgKind.DATE), (-800_000).to_bytes(4, "big", signed=True), "2000-01-01 and -800000 days"),
    (TIMESTAMP, (10**18).to_bytes(8, "big"), "2000-01-01 and 1000000"),
    (PgType(PgKind.TIME), (86_400_000_000).to_bytes(8, "big"), "24:00:00"),
    (PgType(PgKind.DOUBLE), bytes.fromhex("7ff8000000000000"), "nan"),
    (PgType(PgKind.REAL), bytes.fromhex("7fc00000"), "nan"),
    (PgType(PgKind.NUMERIC), bytes.fromhex("00000000c0000000"), "NaN"),
    (PgType(PgKind.NUMERIC), bytes.fromhex("00000000d0000020"), "Infinity"),
    (PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)), BOUNDS, "does not count from 1"),
    (PgType(PgKind.ARRAY, element=PgType(PgKind.INTEGER)), SQUARE, "2 dimensions"),
    (PgType(PgKind.UNSUPPORTED, name="inet"), b"", "inet"),
]


@pytest.mark.parametrize(("type", "field", "named"), STRANGE)
@pytest.mark.parametrize("rule", [RULE, ColumnRule(epoch="s", timezone="Europe/Berlin", blob_as_text=True)])
def test_what_the_way_there_never_writes_is_refused_by_name(
    type: PgType, field: bytes, named: str, rule: ColumnRule
) -> None:
    for affinity in Affinity:
        form = default_form(type, rule, affinity=affinity, column="t.c")
        with pytest.raises(Permanent, match=r"The column t\.c holds") as refused:
            to_sqlite(field, type, form, rule)
        assert named in refused.value.message
        assert "Change that value in PostgreSQL" in refused.value.action


def test_a_number_that_the_column_would_round_is_refused() -> None:
    digits = Decimal("0.12345678901234567890")
    assert back(digits, PgType(PgKind.NUMERIC), affinity=TEXT) == "0.12345678901234567890"
    assert back(digits, PgType(PgKind.NUMERIC), affinity=BLOB) == "0.12345678901234567890"
    with pytest.raises(Permanent, match=r"holds '0\.1234567890.*numeric.*NUMERIC affinity"):
        back(digits, PgType(PgKind.NUMERIC), affinity=NUMERIC)
    with pytest.raises(Permanent, match="holds '0123'"):
        back("0123", PgType(PgKind.TEXT), affinity=NUMERIC)
    with pytest.raises(Permanent, match="takes integer only"):
        back(Decimal("1.5"), PgType(PgKind.NUMERIC), only=StorageClass.INTEGER)


@pytest.mark.parametrize(
    ("type", "affinity"), list(product([PgType(PgKind.REAL), PgType(PgKind.DOUBLE)], [NUMERIC, REAL]))
)
def test_a_negative_zero_is_zero_where_sqlite_has_no_other(type: PgType, affinity: Affinity) -> None:
    assert _same(back(-0.0, type, affinity=affinity), 0.0 if affinity is REAL else 0)
    assert _same(back(0.0, type, affinity=affinity), 0.0 if affinity is REAL else 0)
    assert _same(back(-0.0, type, affinity=BLOB), -0.0)


@st.composite
def _pairs(draw: st.DrawFn) -> tuple[PgType, bytes, bytes]:
    type = draw(st.sampled_from([PgType(kind) for kind in (PgKind.TEXT, PgKind.BIGINT, PgKind.TIMESTAMP, PgKind.UUID)]))
    one, other = draw(VALUES[type]), draw(VALUES[type])
    return type, encode_field(one, type), encode_field(other, type)


@given(_pairs())
def test_reads_as_tells_values_apart(pair: tuple[PgType, bytes, bytes]) -> None:
    type, one, other = pair
    value = to_sqlite(one, type, default_form(type), RULE)
    assert reads_as(value, one, type, RULE)
    assert reads_as(value, other, type, RULE) == (one == other)
    assert not reads_as(value, None, type, RULE)
    assert not reads_as(None, one, type, RULE)
    assert reads_as(None, None, type, RULE)
