"""A profile counts exactly, and its lexical forms promise no more than the rules of the conversion keep."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import decode_text, open_read_only
from pgferry.sqlite.forms import Form, JsonFit, json_fit
from pgferry.sqlite.profile import ColumnProfile, TableProfile, profile_table
from pgferry.sqlite.spellings import Spelling


def profiled(path: Path, script: str) -> TableProfile:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    with closing(open_read_only(path)) as connection:
        (table,) = read_catalog(connection).tables
        return profile_table(connection, table)


def column(values: Iterable[object], declared: str = "") -> ColumnProfile:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = decode_text
        connection.execute(f"CREATE TABLE t (a {declared})")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        (table,) = read_catalog(connection).tables
        return profile_table(connection, table).columns[0]


def test_storage_classes_and_edges() -> None:
    found = column([None, 5, -(2**63), 2**53 + 1, 1.0, 1.5, 1e300, "text", "", "a\x00b", b"12345", b"", "é"])
    assert (found.rows, found.nulls, found.integers, found.reals, found.texts, found.blobs) == (13, 1, 3, 3, 4, 2)
    assert (found.integer_min, found.integer_max) == (-(2**63), 2**53 + 1)
    assert (found.real_min, found.real_max, found.whole_reals) == (1.0, 1e300, 1)
    assert (found.empties, found.nuls, found.not_ascii, found.undecodable) == (1, 1, 1, 0)
    assert (found.max_chars, found.max_octets, found.blob_lengths) == (4, 5, (0, 5))
    assert found.forms == frozenset()
    assert not column([float("inf")]).finite


def test_empty_table_and_nulls_only() -> None:
    assert column([]).rows == 0
    found = column([None, None])
    assert (found.nulls, found.values, found.max_octets, found.forms) == (2, 0, 0, frozenset())


def test_undecodable_text(tmp_path: Path) -> None:
    values = "(CAST(x'636166e9' AS TEXT)), ('é'), ('plain'), (CAST(x'6100ff' AS TEXT))"
    script = f"CREATE TABLE t (a TEXT); INSERT INTO t VALUES {values};"
    found = profiled(tmp_path / "a.db", script).column("a")
    assert (found.undecodable, found.nuls) == (2, 1)


def test_utf16_text_is_measured(tmp_path: Path) -> None:
    script = (
        "PRAGMA encoding = 'UTF-16le'; CREATE TABLE t (a TEXT); INSERT INTO t VALUES ('2024-01-31'), ('2024-02-29');"
    )
    found = profiled(tmp_path / "a.db", script).column("a")
    assert Form.DATE in found.forms
    assert (found.max_chars, found.nuls, found.undecodable) == (10, 0, 0)
    assert found.max_octets >= 10


def test_two_hundred_columns(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(200)]
    values = ", ".join(f"'{number}'" for number in range(200))
    found = profiled(tmp_path / "a.db", f"CREATE TABLE t ({', '.join(names)}); INSERT INTO t VALUES ({values});")
    assert [item.name for item in found.columns] == names
    assert all(item.texts == 1 and Form.INTEGER in item.forms for item in found.columns)


def test_an_exception_after_the_sample_counts() -> None:
    assert Form.DATE in column(["2024-01-01"] * 3000).forms
    assert Form.DATE not in column(["2024-01-01"] * 3000 + ["2024-13-01"]).forms


@given(
    st.lists(st.sampled_from(["", "a\x00", "é", "plain", "2024-01-02", '{"a": 1}', '{"a": 1, "a": 2}', "7.50", "true"]))
)
def test_texts_that_come_again_are_counted_each_time(values: list[str]) -> None:
    found, once = column(values), column(dict.fromkeys(values))
    counted = (found.texts, found.empties, found.nuls, found.not_ascii)
    assert counted == (len(values), values.count(""), values.count("a\x00"), values.count("é"))
    assert (found.forms, found.spellings, found.json, found.words) == (
        once.forms,
        once.spellings,
        once.json,
        once.words,
    )
    assert (found.max_chars, found.max_octets) == (once.max_chars, once.max_octets)


def test_decimal_digits() -> None:
    found = column([1230.99, 0.5, -12345.125, 7, 1e-3], "DECIMAL(10, 2)")
    assert (found.whole_digits, found.scale) == (5, 3)
    assert column([0.1 + 0.2], "NUMERIC").scale == 17
    assert column([1.5], "REAL").scale == 0


def test_affinity_and_collation_do_not_change_what_is_seen() -> None:
    assert Form.TIMESTAMP_OFFSET in column(["2024-01-01 00:00:00+02:00"], "DATETIME").forms
    assert Form.DATE not in column(["0000-01-01"], "DATE").forms
    assert column(["  ", ""], "TEXT COLLATE RTRIM").empties == 1
    assert Form.DATE in column(["2024-01-01"], "TEXT COLLATE NOCASE").forms


def test_a_collation_of_the_application(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("mine", lambda a, b: (a > b) - (a < b))
        connection.executescript("CREATE TABLE t (a TEXT COLLATE mine UNIQUE); INSERT INTO t VALUES ('x'), ('');")
    with closing(open_read_only(path)) as connection:
        (table,) = read_catalog(connection).tables
        assert profile_table(connection, table).column("a").empties == 1


HAS_FORM = {
    "2024-02-29": {Form.DATE, Form.TIMESTAMP_ANY},
    "2023-02-29": set(),
    "0000-01-01": set(),
    "2024-1-1": set(),
    "2024-01-01 00:00:00": {Form.TIMESTAMP, Form.TIMESTAMP_ANY},
    "2024-01-01T23:59:59.999999": {Form.TIMESTAMP_T, Form.TIMESTAMP_ANY},
    "2024-01-01 00:00:00.1234567": set(),
    "2024-01-01 24:00:00": set(),
    "2024-01-01 00:00:60": set(),
    "2024-01-01 00:00:00.": set(),
    "2024-01-01 00:00:00Z": {Form.TIMESTAMP_UTC, Form.TIMESTAMP_OFFSET},
    "2024-01-01T00:00:00.5+00:00": {Form.TIMESTAMP_UTC, Form.TIMESTAMP_OFFSET},
    "2024-01-01 00:00:00+05:30": {Form.TIMESTAMP_OFFSET},
    "2024-01-01 00:00:00ZZ": set(),
    "2024-01-01 00:00:00+0530": set(),
    "2024-01-01 00:00:00 ": set(),
    "23:59:59": {Form.TIME},
    "24:00:00": set(),
    "0b0c4c2e-0d0a-4f6e-9c1b-1a2b3c4d5e6f": {Form.UUID, Form.UUID_ANY},
    "0B0C4C2E-0D0A-4F6E-9C1B-1A2B3C4D5E6F": {Form.UUID_ANY},
    "0b0c4c2e0d0a4f6e9c1b1a2b3c4d5e6f": {Form.UUID_ANY},
    "0b0c4c2e-0d0a4f6e-9c1b-1a2b3c4d5e6f-": set(),
    "12": {Form.INTEGER, Form.DECIMAL},
    "-12": {Form.INTEGER, Form.DECIMAL},
    "012": {Form.DECIMAL},
    "9223372036854775808": {Form.DECIMAL},
    "1.50": {Form.DECIMAL},
    "1.": set(),
    ".5": set(),
    "--1": set(),
    "1e5": set(),
    "-": set(),
    "True": {Form.BOOLEAN},
    "yes": set(),
    '{"a": 1}': {Form.JSON},
    "[]": {Form.JSON},
    "[1,]": set(),
    '"text"': set(),
}


@pytest.mark.parametrize(("text", "expected"), HAS_FORM.items())
def test_forms(text: str, expected: set[Form]) -> None:
    assert column([text]).forms == expected


KEPT = {
    Form.DATE: PgKind.DATE,
    Form.TIMESTAMP: PgKind.TIMESTAMP,
    Form.TIMESTAMP_T: PgKind.TIMESTAMP,
    Form.TIMESTAMP_ANY: PgKind.TIMESTAMP,
    Form.TIMESTAMP_UTC: PgKind.TIMESTAMPTZ,
    Form.TIMESTAMP_OFFSET: PgKind.TIMESTAMPTZ,
    Form.TIME: PgKind.TIME,
    Form.UUID: PgKind.UUID,
    Form.UUID_ANY: PgKind.UUID,
    Form.INTEGER: PgKind.BIGINT,
    Form.DECIMAL: PgKind.NUMERIC,
    Form.BOOLEAN: PgKind.BOOLEAN,
}

UTC = {Spelling.UTC, Spelling.OFFSET, Spelling.MOMENT}
NAIVE = {Spelling.NAIVE, Spelling.MOMENT}
IS_SPELLED = {
    "2024-02-29": NAIVE,
    "2024-01-01 00:00:00": NAIVE,
    "2024-01-01 23:59": NAIVE | {Spelling.MINUTES},
    "2024-01-01T23:59": NAIVE | {Spelling.MINUTES_T},
    "2024-01-01 00:00:00.123456000": NAIVE,
    "2024-01-01 00:00:00.1234567": set(),
    "2023-02-29 23:59": set(),
    "2024-01-01 24:00": set(),
    "2024-01-01 9:00": set(),
    "2024-01-01  09:00": set(),
    "2024-01-01 09:00 ": set(),
    "2024-01-01 09:00 UTC": UTC,
    "2024-01-01 09:00:00UTC": UTC,
    "2024-01-01 09:00:00 GMT": set(),
    "2024-01-01T09:00:00+0000": UTC,
    "2024-01-01T09:00:00z": UTC,
    "2024-01-01 09:00:00Z": UTC,
    "2024-01-01 09:00:00+0530": {Spelling.OFFSET, Spelling.MOMENT},
    "2024-01-01 09:00:00+14:00": {Spelling.OFFSET, Spelling.MOMENT},
    "2024-01-01 09:00:00+15:00": set(),
    "2024-01-01 UTC": set(),
    "9999-12-31 09:00 UTC": set(),
    "23:59": {Spelling.TIME_MINUTES, Spelling.CLOCK},
    "23:59:59": {Spelling.CLOCK},
    "24:00": set(),
    "9:30": set(),
    "Y": {Spelling.BOOLEAN},
    "no": {Spelling.BOOLEAN},
    "On": {Spelling.BOOLEAN},
    "TRUE": {Spelling.BOOLEAN},
    "maybe": set(),
    "null": {Spelling.JSON},
    " \n{}": {Spelling.JSON},
    "[1]": {Spelling.JSON},
    "nul": set(),
    "NULL": set(),
    " ": set(),
    " [1,]": set(),
    " 5": set(),
}


@pytest.mark.parametrize(("text", "expected"), IS_SPELLED.items())
def test_spellings(text: str, expected: set[Spelling]) -> None:
    assert column([text]).spellings == expected


def test_forms_do_not_widen_with_the_spellings() -> None:
    assert column(["2024-01-01 23:59"] * 20).forms == set()
    found = column(['{"a": 1}', "null"])
    assert (found.json, found.json_spelled) == (JsonFit.NONE, JsonFit.JSONB)
    assert column(['{"a": 1}', ' {"a": 1, "a": 2}']).json_spelled is JsonFit.JSON
    assert column(['{"a": 1}', "null", " {"]).json_spelled is JsonFit.NONE
    assert column(["null", "words"]).json_spelled is JsonFit.NONE
    assert column(["2024-01-01 23:59", "2024-01-01 23:59:59Z"]).spellings == {Spelling.MOMENT}
    assert column(["Y", b"\xff", "2024-01-01"]).spellings == set()


SPELLED = {
    Spelling.MINUTES: PgKind.TIMESTAMP,
    Spelling.MINUTES_T: PgKind.TIMESTAMP,
    Spelling.NAIVE: PgKind.TIMESTAMP,
    Spelling.UTC: PgKind.TIMESTAMP,
    Spelling.OFFSET: PgKind.TIMESTAMPTZ,
    Spelling.MOMENT: PgKind.TIMESTAMPTZ,
    Spelling.TIME_MINUTES: PgKind.TIME,
    Spelling.CLOCK: PgKind.TIME,
    Spelling.BOOLEAN: PgKind.BOOLEAN,
}

near_misses = st.one_of(
    st.from_regex(
        r"\A[0-9]{4}-[0-1][0-9]-[0-3][0-9]"
        r"([ T][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,8})?(Z|[+-][0-1][0-9]:[0-9]{2})?)?\Z"
    ),
    st.from_regex(r"\A[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{0,8})?\Z"),
    st.uuids().map(str),
    st.uuids().map(lambda value: value.hex),
    st.from_regex(r"\A-?[0-9]{0,21}\.?[0-9]{0,5}\Z"),
    st.from_regex(
        r"\A[0-9]{4}-[0-1][0-9]-[0-3][0-9][ T][0-2][0-9]:[0-6][0-9](:[0-6][0-9](\.[0-9]{0,10})?)?"
        r"( ?(Z|z|UTC|[+-][01][0-9](:?[0-6][0-9])?))?\Z"
    ),
    st.from_regex(r"\A[0-2][0-9]:[0-6][0-9]\Z"),
    st.sampled_from(["t", "F", "TRUE", "false", "yes", "1", "N", "On", "off"]),
    st.text(max_size=12),
)


@settings(deadline=None, max_examples=300)
@given(near_misses)
def test_text_that_has_a_form_converts(text: str) -> None:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return
    for form in column([text]).forms - {Form.JSON}:
        assert not isinstance(convert(text, PgType(KEPT[form]), ColumnRule()), Rejected), form
    for spelling in column([text]).spellings - {Spelling.JSON}:
        assert not isinstance(convert(text, PgType(SPELLED[spelling]), ColumnRule()), Rejected), spelling


def test_json_fit() -> None:
    assert json_fit('{"a": 1, "b": [1.5]}') is JsonFit.JSONB
    assert json_fit('{"a": 1, "a": 2}') is JsonFit.JSON
    assert json_fit('["\\u0000"]') is JsonFit.JSON
    assert json_fit('["\\ud800"]') is JsonFit.JSON
    assert json_fit("[NaN]") is JsonFit.NONE
    assert column(['{"a": 1}', '{"a": 1, "a": 2}', ""]).json is JsonFit.JSON
