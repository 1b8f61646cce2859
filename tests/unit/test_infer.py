"""Types follow the data: what people expect where it holds every value, and else the type that loses no row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgferry.convert.rules import Rejected, convert
from pgferry.model import ColumnRule, PgKind, PgType
from pgferry.plan.fit import misfits
from pgferry.plan.infer import Proposal, Use, infer, type_sql
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import decode_text
from pgferry.sqlite.profile import ColumnProfile, profile_table

STAMPS = [str(datetime(2024, 1, 1) + timedelta(hours=n, microseconds=n)) for n in range(1, 40)]
DAYS = [f"2024-01-{n:02}" for n in range(1, 31)]
UUIDS = [f"0b0c4c2e-0d0a-4f6e-9c1b-{n:012x}" for n in range(20)]
DOCUMENTS = [f'{{"n": {n}}}' for n in range(20)]


NO_RULE = ColumnRule()
NO_USE = Use()


def proposed(declared: str, values: Iterable[object], rule: ColumnRule = NO_RULE, use: Use = NO_USE) -> Proposal:
    return measured(declared, values, rule, use)[0]


def measured(
    declared: str, values: Iterable[object], rule: ColumnRule = NO_RULE, use: Use = NO_USE
) -> tuple[Proposal, ColumnProfile, list[object]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = decode_text
        connection.execute(f"CREATE TABLE t (a {declared})")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        (table,) = read_catalog(connection).tables
        profile = profile_table(connection, table).columns[0]
        stored = [row[0] for row in connection.execute("SELECT a FROM t")]
    return infer(table.columns[0], profile, rule, use), profile, stored


CASES: list[tuple[str, Sequence[object], str]] = [
    ("TEXT", STAMPS, "timestamp without time zone"),
    ("TEXT", [stamp + "+00:00" for stamp in STAMPS], "timestamp with time zone"),
    ("TEXT", [stamp + "+02:00" for stamp in STAMPS], "text"),
    ("DATETIME", [stamp + "+02:00" for stamp in STAMPS], "timestamp with time zone"),
    ("TEXT", STAMPS[:3], "text"),
    ("TEXT DEFAULT (datetime('now'))", STAMPS[:3], "timestamp without time zone"),
    ("TEXT", [*STAMPS, ""], "text"),
    ("TEXT", [*STAMPS, "soon"], "text"),
    ("TEXT", DAYS, "date"),
    ("DATE", DAYS[:1], "date"),
    ("BYTEA", [], "bytea"),
    ("VARBINARY(16)", [None], "bytea"),
    ("BINARY(16)", [b"x"], "bytea"),
    ("BINARY(16)", [1], "integer"),
    ("", [1, b"1"], "bytea"),
    ("", [1.5, "a", b"1"], "bytea"),
    ("DATE", STAMPS[:1], "timestamp without time zone"),
    ("DATETIME", [*DAYS, *STAMPS], "timestamp without time zone"),
    ("DATETIME", [1727078780, 1727078782], "bigint"),
    ("DATETIME", ["never"], "text"),
    ("TIME", ["12:30:00"], "time without time zone"),
    ("TEXT", ["12:30:00"] * 20, "text"),
    ("TEXT", UUIDS, "uuid"),
    ("TEXT", [value.upper() for value in UUIDS], "text"),
    ("UUID", [value.upper() for value in UUIDS], "uuid"),
    ("UUID", [bytes(range(16))], "uuid"),
    ("CHAR(32)", [value.replace("-", "") for value in UUIDS], "text"),
    ("UUID", ["12345678901234567890123456789012"], "double precision"),
    ("TEXT", DOCUMENTS, "jsonb"),
    ("JSON", ["5", '"x"'], "text"),
    ("JSON", DOCUMENTS[:1], "jsonb"),
    ("JSON", ['{"a": 1, "a": 2}'], "json"),
    ("BOOLEAN", [0, 1, None], "boolean"),
    ("BOOLEAN", [0, 1, 2], "integer"),
    ("BOOLEAN", ["true", "false"], "boolean"),
    ("INTEGER", [0, 1], "integer"),
    ("INTEGER", [1, 2**31], "bigint"),
    ("BIGINT", [1], "bigint"),
    ("INTEGER", [], "bigint"),
    ("INTEGER", [1, "x"], "text"),
    ("INTEGER", [1, 1.5], "double precision"),
    ("INTEGER", [2**53 + 1, 1.5], "numeric"),
    ("REAL", [1, 2.5], "double precision"),
    ("REAL", [], "double precision"),
    ("REAL", [float("inf")], "double precision"),
    ("DECIMAL(10,2)", [1.25, 3], "numeric(10,2)"),
    ("DECIMAL(10,2)", [1.255], "numeric"),
    ("DECIMAL(3,2)", [12345], "numeric"),
    ("NUMERIC", [float("inf")], "double precision"),
    ("NUMERIC", [1, "x"], "text"),
    ("VARCHAR(3)", ["longer than three"], "text"),
    ("TEXT", [b"\xff", "x"], "bytea"),
    ("TEXT", ["a\x00b"], "bytea"),
    ("TEXT", ["x"] * 200 + ["a\x00b"], "text"),
    ("BLOB", [b"x"], "bytea"),
    ("BLOB", ["only", "text"], "text"),
    ("BLOB", [], "bytea"),
    ("", [], "text"),
    ("", [None], "text"),
    ("", [1, 2.5], "double precision"),
    ("", ["x", 1, None], "text"),
    ("STRING", ["x"], "text"),
    ("STRING", ["007"], "text"),
    ("int(11)", [7], "integer"),
    ("TEXT\nn", [], "text"),
]


MINUTES = [f"2024-01-{n:02} 09:{n:02}" for n in range(1, 31)]
NAIVE, ZONED = "timestamp without time zone", "timestamp with time zone"

SPELLED: list[tuple[str, Sequence[object], str]] = [
    ("DATETIME", MINUTES, NAIVE),
    ("TIMESTAMP", [text.replace(" ", "T") for text in MINUTES], NAIVE),
    ("DATE", MINUTES, NAIVE),
    ("TIMESTAMPTZ", MINUTES, ZONED),
    ("DATETIME", [*MINUTES, *STAMPS, *DAYS], NAIVE),
    ("DATETIME", [STAMPS[0], STAMPS[0][:19], STAMPS[0][:23]], NAIVE),
    ("DATETIME", [STAMPS[0] + "000"], NAIVE),
    ("DATETIME", [STAMPS[0] + "1"], "text"),
    ("DATETIME", [text + " UTC" for text in STAMPS], NAIVE),
    ("TIMESTAMP", [text + "+0000" for text in STAMPS], NAIVE),
    ("DATETIME", [STAMPS[0] + " UTC", STAMPS[1] + "Z", MINUTES[0] + "+00"], NAIVE),
    ("DATETIME", [STAMPS[0] + "+0530", STAMPS[1] + " UTC"], ZONED),
    ("DATETIME", [STAMPS[0], STAMPS[1] + "Z"], "text"),
    ("DATETIME", [MINUTES[0], STAMPS[1] + " UTC"], "text"),
    ("TIMESTAMPTZ", [DAYS[0], STAMPS[1] + "+0200"], "text"),
    ("DATETIME", [*MINUTES, "soon"], "text"),
    ("DATETIME", [*MINUTES, ""], "text"),
    ("TIME", ["09:30", "23:59"], "time without time zone"),
    ("TIME", ["09:30", "24:00"], "text"),
    ("TIME", ["03:25", "01:03:25"], "text"),
    ("BOOLEAN", ["Y", "N", None], "boolean"),
    ("BOOLEAN", ["yes", "No", "yes"], "boolean"),
    ("BOOLEAN", ["OFF"], "boolean"),
    ("BOOLEAN", ["t", "true", "F", 1], "boolean"),
    ("BOOLEAN", ["Y", "y", "N"], "text"),
    ("BOOLEAN", ["yes", "true"], "text"),
    ("BOOLEAN", ["Y", "N", 0], "text"),
    ("BOOLEAN", ["Y", "N", "?"], "text"),
    ("BOOLEAN", ["Y", 2], "text"),
    ("JSON", [*DOCUMENTS, "null"], "jsonb"),
    ("JSON", ["null"], "jsonb"),
    ("JSON", [" \n" + DOCUMENTS[0], "[]"], "jsonb"),
    ("JSON", [' {"a": 1, "a": 2}', "null"], "json"),
    ("JSON", ["null", "nothing"], "text"),
    # Only a declared type gives the looser spellings a meaning.
    ("TEXT", MINUTES, "text"),
    ("", MINUTES, "text"),
    ("TEXT DEFAULT (datetime('now'))", MINUTES, "text"),
    ("TEXT", [text + " UTC" for text in STAMPS], "text"),
    ("TEXT", ["Y", "N"] * 10, "text"),
    ("TEXT", ["09:30"] * 20, "text"),
    ("TEXT", [*DOCUMENTS, "null"], "text"),
    ("TEXT", [" " + text for text in DOCUMENTS], "text"),
    ("STRING", [*DOCUMENTS, "null"], "text"),
]


@pytest.mark.parametrize("declared", ["XML", "ENUM", "\"ENUM('date', 'number')\"", "INET", "CIDR", "MACADDR", "HSTORE"])
def test_an_empty_column_of_an_unknown_type_is_text(declared: str) -> None:
    assert type_sql(proposed(declared, []).type) == type_sql(proposed(declared, [None]).type) == "text"
    assert type_sql(proposed(declared, ["<a/>"]).type) == "text"
    assert type_sql(proposed(declared, [7]).type) == "integer"


def test_the_evidence_says_that_an_unknown_type_had_no_data() -> None:
    assert proposed("XML", []).evidence == "XML, 0 rows, no data to tell by → text"
    assert proposed("INET", [None]).evidence == "INET, 1 row, all NULL, no data to tell by → text"
    assert proposed("INET", [1]).evidence == "INET, 1 row, all integers from 1 to 1 → integer"


@pytest.mark.parametrize(
    "declared", ["NUMERIC", "DECIMAL", "MONEY", "DEC", "NUMBER", "BIT", "YEAR", "CURRENCY", "SERIAL4"]
)
def test_an_empty_column_of_a_numeric_word_stays_numeric(declared: str) -> None:
    assert proposed(declared, []).type.kind is PgKind.NUMERIC


@pytest.mark.parametrize(("declared", "values", "type"), SPELLED)
def test_a_declared_type_gives_looser_spellings_a_meaning(declared: str, values: Sequence[object], type: str) -> None:
    assert type_sql(proposed(declared, values).type) == type


def test_the_evidence_names_the_spelling_or_why_the_column_stays_text() -> None:
    found = [
        proposed("DATETIME", MINUTES),
        proposed("DATETIME", [STAMPS[0] + " UTC"]),
        proposed("BOOLEAN", ["Y", "N"]),
        proposed("BOOLEAN", ["Y", "yes"]),
        proposed("DATETIME", [STAMPS[0], STAMPS[1] + "Z"]),
        proposed("TIME", ["03:25", "01:03:25"]),
        proposed("TIME", ["01:03:25", "01:03:25.5"], use=Use(unique=True)),
    ]
    assert [proposal.evidence for proposal in found] == [
        f"DATETIME, 30 rows, all texts: dates with hours and minutes, a space between → {NAIVE}",
        f"DATETIME, 1 row, all texts: dates and times in UTC → {NAIVE}",
        "BOOLEAN, 2 rows, all texts: N or Y → boolean",
        "BOOLEAN, 2 rows, all texts of up to 3 characters: more than one word for true or false → text",
        "DATETIME, 2 rows, all texts of up to 27 characters: "
        "dates and times, some with an offset and some without → text",
        "TIME, 2 rows, all texts of up to 8 characters: times of day, some without seconds → text",
        "TIME, 2 rows, all texts of up to 10 characters → text",
    ]


def test_moments_with_and_without_an_offset_wait_for_a_yes() -> None:
    mixed = [STAMPS[0], STAMPS[1] + "Z"]
    (zone,) = proposed("DATETIME", mixed).questions
    assert zone[:2] == ("timezone", "UTC")
    assert proposed("DATETIME", mixed, ColumnRule(timezone="UTC")).type.kind is PgKind.TIMESTAMPTZ
    assert proposed("DATETIME", mixed, use=Use(unique=True)).questions == ()
    assert proposed("TEXT", mixed).questions == ()


def test_unique_columns_take_only_spellings_with_one_text_a_value() -> None:
    unique = Use(unique=True, indexed=True)
    assert proposed("DATETIME", MINUTES, use=unique).type.kind is PgKind.TIMESTAMP
    assert proposed("TIME", ["09:30", "23:59"], use=unique).type.kind is PgKind.TIME
    for declared, values in [
        ("DATETIME", [MINUTES[0], MINUTES[1].replace(" ", "T")]),
        ("DATETIME", [MINUTES[0], MINUTES[0] + ":00"]),
        ("DATETIME", [MINUTES[0] + "Z", MINUTES[0] + "z"]),
        ("DATETIME", [MINUTES[0] + " UTC"]),
        ("BOOLEAN", ["Y", "yes"]),
        ("JSON", ["null", " null"]),
    ]:
        assert proposed(declared, values, use=unique).type.kind is PgKind.TEXT


@pytest.mark.parametrize(("declared", "values", "type"), CASES)
def test_types(declared: str, values: Sequence[object], type: str) -> None:
    assert type_sql(proposed(declared, values).type) == type


def test_evidence() -> None:
    found = proposed("TEXT", [*STAMPS, None])
    expected = "TEXT, 40 rows, all texts: ISO date and time, a space between, 1 NULL → timestamp without time zone"
    assert found.evidence == expected
    assert proposed("INT", [1, "x"]).evidence == "INT, 2 rows, 1 integers and 1 texts → text"
    assert proposed("", []).evidence == "no declared type, 0 rows → text"


def test_questions() -> None:
    (epoch,) = proposed("DATETIME", [1727078780123, 0]).questions
    assert epoch[:2] == ("epoch", "ms")
    assert "2024-09-23 08:06:20" in epoch[2]
    assert proposed("DATETIME", [5, 6]).questions == ()
    (empty,) = proposed("INTEGER", [1, ""]).questions
    assert empty == ("on_empty", "null", "1 empty strings; as NULL the column would be integer")
    assert proposed("TEXT", ["a", ""]).questions == ()
    (nul,) = proposed("TEXT", ["x"] * 200 + ["a\x00b"]).questions
    assert nul[:2] == ("on_nul", "strip")
    (blob,) = proposed("TEXT", [b"x", "y"]).questions
    assert blob[:2] == ("blob_as_text", "true")


def test_answers_change_the_type() -> None:
    assert proposed("DATETIME", [1727078780], ColumnRule(epoch="s")).type.kind is PgKind.TIMESTAMP
    assert proposed("INTEGER", [1, ""], ColumnRule(on_empty="null")).type.kind is PgKind.INTEGER
    assert proposed("TEXT", ["a\x00b"], ColumnRule(on_nul="strip")).type.kind is PgKind.TEXT
    assert proposed("TEXT", [b"x", "y"], ColumnRule(blob_as_text=True)).type.kind is PgKind.TEXT


def test_notes() -> None:
    assert "rounded" in proposed("INTEGER", [float(2**63)]).notes[0]
    assert "turned to numbers" in proposed("UUID", ["12345678901234567890123456789012"]).notes[1]
    assert "quarantined" in proposed("TEXT", ["x"] * 200 + ["a\x00b"]).notes[0]


def test_unique_columns_keep_different_texts_apart() -> None:
    mixed = [stamp.replace(" ", "T") if n % 2 else stamp for n, stamp in enumerate(STAMPS)]
    assert proposed("DATETIME", mixed).type.kind is PgKind.TIMESTAMP
    assert proposed("DATETIME", mixed, use=Use(unique=True)).type.kind is PgKind.TEXT
    assert proposed("TEXT", STAMPS, use=Use(unique=True)).type.kind is PgKind.TIMESTAMP
    assert proposed("UUID", [UUIDS[0], UUIDS[1].upper()], use=Use(unique=True)).type.kind is PgKind.TEXT
    assert proposed("TEXT", DOCUMENTS, use=Use(unique=True, indexed=True)).type.kind is PgKind.TEXT


def test_a_rowid_is_bigint() -> None:
    assert proposed("INTEGER", [1], use=Use(rowid=True, unique=True)).type.kind is PgKind.BIGINT


DECLARED = [
    "", "TEXT", "INTEGER", "BIGINT", "REAL", "NUMERIC", "DECIMAL(10,2)", "BLOB", "BOOLEAN", "DATETIME", "DATE", "TIME",
    "UUID", "JSON", "TIMESTAMPTZ", "STRING", "VARCHAR(5)",
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 2, 2**31, 2**53 + 1, "", "true", "t", "1", "1.5", "a\x00b", "[]", '{"a":1,"a":2}']),
    st.floats(allow_nan=False),
    texts,
    st.sampled_from([*STAMPS[:3], *DAYS[:3], *UUIDS[:2], "12:00:00", "2024-01-01 00:00:00+02:00", "0000-00-00"]),
    st.sampled_from(
        [*MINUTES[:2], "12:00", "Y", "off", "null", " {}", "2024-01-01 00:00 UTC", "2024-01-01T00:00+0200"]
    ),
    st.binary(max_size=17),
)
columns = st.one_of(
    st.lists(values, max_size=12),
    values.flatmap(lambda value: st.just([value] * 12)),
    st.lists(st.sampled_from(STAMPS + DAYS), min_size=10, max_size=12),
    st.lists(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1), max_size=12),
)


@settings(deadline=None, max_examples=400)
@given(declared=st.sampled_from(DECLARED), given_values=columns, unique=st.booleans())
def test_a_proposed_type_holds_every_value_if_any_does(declared: str, given_values: list[object], unique: bool) -> None:
    proposal, profile, stored = measured(declared, given_values, use=Use(unique=unique, indexed=unique))
    refused = [value for value in stored if isinstance(convert(value, proposal.type, NO_RULE), Rejected)]
    if not misfits(profile, proposal.type, NO_RULE):
        assert refused == []
        return
    # Only where neither text nor bytea holds every value is a type taken that does not.
    assert len(refused) <= misfits(profile, proposal.type, NO_RULE)
    numbers = profile.integers + profile.reals
    text = PgType(PgKind.TEXT)
    assert misfits(profile, text, NO_RULE)
    assert numbers or profile.texts, (stored, proposal)


@settings(deadline=None, max_examples=200)
@given(declared=st.sampled_from(DECLARED), given_values=columns, kind=st.sampled_from(sorted(PgKind)))
def test_misfits_of_none_means_none(declared: str, given_values: list[object], kind: PgKind) -> None:
    _, profile, stored = measured(declared, given_values)
    # Digits are counted in decimal columns only.
    constrained = kind is PgKind.NUMERIC and declared.startswith(("DECIMAL", "NUMERIC"))
    type = PgType(kind, precision=10, scale=2) if constrained else PgType(kind)
    if kind in KNOWN and not misfits(profile, type, NO_RULE):
        assert [value for value in stored if isinstance(convert(value, type, NO_RULE), Rejected)] == []


KNOWN = {
    PgKind.INTEGER, PgKind.BIGINT, PgKind.DOUBLE, PgKind.NUMERIC, PgKind.BOOLEAN, PgKind.DATE, PgKind.TIMESTAMP,
    PgKind.TIMESTAMPTZ, PgKind.TIME, PgKind.UUID, PgKind.JSON, PgKind.JSONB, PgKind.TEXT, PgKind.BYTEA,
}  # fmt: skip
