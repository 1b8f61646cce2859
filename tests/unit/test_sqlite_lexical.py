"""A column's form is learnt from its values, so well that all of them go back as they were."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from pgferry.convert.back import LexicalForm, default_form, to_sqlite, writer
from pgferry.convert.fields import encode_field
from pgferry.convert.lexical_form import MINIMAL, TRIMMED, MomentForm
from pgferry.convert.outcome import Rejected
from pgferry.convert.rules import convert
from pgferry.model import ColumnPair, ColumnRule, PgKind, PgType, SqliteValue, StorageClass, TargetColumn
from pgferry.quoting import quote
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.connect import open_read_only
from pgferry.sqlite.lexical import learn

RULE = ColumnRule()
BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), timezone(timedelta(hours=5.5))
Make = Callable[[random.Random], Any]

Fill = Callable[..., sqlite3.Connection]


@pytest.fixture
def fill(tmp_path: Path) -> Iterator[Fill]:
    """Write values into the column `c` of a table, and open the file as pgferry does."""
    opened: list[sqlite3.Connection] = []

    def write(
        values: Sequence[SqliteValue], declared: str = "", tail: str = "", head: str = "id INTEGER PRIMARY KEY"
    ) -> sqlite3.Connection:
        path = tmp_path / f"{len(opened)}.db"
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            file.execute(f"CREATE TABLE t ({head}, c {declared}) {tail}")
            file.execute("BEGIN")
            file.executemany("INSERT INTO t VALUES (?, ?)", enumerate(values))
            file.execute("COMMIT")
        opened.append(open_read_only(path))
        return opened[-1]

    yield write
    for connection in opened:
        connection.close()


def pair_of(file: sqlite3.Connection, type: PgType, rule: ColumnRule = RULE, column: str = "c") -> Any:
    table = read_catalog(file).table("t")
    return table, ColumnPair(table.column(column), TargetColumn("c", type), rule)


def learnt(file: sqlite3.Connection, type: PgType, rule: ColumnRule = RULE) -> LexicalForm:
    return learn(file, *pair_of(file, type, rule))


def there_and_back(file: sqlite3.Connection, type: PgType, rule: ColumnRule = RULE) -> list[tuple[object, object]]:
    """Return the values that come back other than they are, with what they became."""
    write = writer(type, learnt(file, type, rule), rule)
    wrong: list[tuple[object, object]] = []
    for (value,) in file.execute("SELECT c FROM t"):
        answer = convert(value, type, rule)
        assert not isinstance(answer, Rejected), answer
        back = write(None if answer is None else encode_field(answer, type))
        if repr(back) != repr(value):
            wrong.append((value, back))
    return wrong


# ---------------------------------------------------------------- columns as applications write them


def moment(chance: random.Random) -> datetime:
    return datetime(1990, 1, 1) + timedelta(microseconds=chance.randrange(2 * 10**15))


def aware(chance: random.Random) -> datetime:
    # Away from the changes of the clocks, whose hours come twice.
    return moment(chance).replace(month=chance.choice((1, 7))).replace(tzinfo=UTC)


def sometimes_whole(at: datetime, chance: random.Random) -> datetime:
    return at.replace(microsecond=chance.choice((0, 120_000, at.microsecond)))


def rarely(value: Any, otherwise: Any, chance: random.Random) -> Any:
    return value if chance.random() < 0.1 else otherwise


def document(chance: random.Random) -> dict[str, Any]:
    node = {"name": chance.choice(("Bär", "x\n", '"', "a")), "id": chance.randrange(10**12), "price": chance.random()}
    return node | {"tags": [None, True, {"z": 1, "a": chance.randrange(9)}]} if chance.random() < 0.5 else node


def iso(at: datetime) -> str:
    return at.isoformat()


def trimmed(at: datetime) -> str:
    text = at.isoformat(timespec="microseconds")
    return text.rstrip("0").rstrip(".")


def julian_day(chance: random.Random) -> float:
    return (2 * 10**14 + chance.randrange(10**13)) / 86_400_000


def with_zone(at: datetime) -> str:
    return at.astimezone(BERLIN).isoformat(" ")


NAIVE, INSTANT, DAY, CLOCK = (PgType(kind) for kind in (PgKind.TIMESTAMP, PgKind.TIMESTAMPTZ, PgKind.DATE, PgKind.TIME))
JSONB, MONEY, SPAN = PgType(PgKind.JSONB), PgType(PgKind.NUMERIC, precision=12, scale=2), PgType(PgKind.INTERVAL)


def a(kind: PgKind, **details: Any) -> PgType:
    return PgType(kind, **details)


def listed(kind: PgKind) -> PgType:
    return PgType(PgKind.ARRAY, element=PgType(kind))


COLUMNS: dict[str, tuple[str, PgType, ColumnRule, Make]] = {
    "SQLAlchemy's DateTime": ("DATETIME", NAIVE, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M:%S.%f}"),
    "sqlite3's own adapter": ("TIMESTAMP", NAIVE, RULE, lambda c: sometimes_whole(moment(c), c).isoformat(" ")),
    "isoformat": ("TEXT", NAIVE, RULE, lambda c: iso(sometimes_whole(moment(c), c))),
    "datetime('now')": ("", NAIVE, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M:%S}"),
    "minutes": ("TEXT", NAIVE, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M}"),
    "JavaScript": ("TEXT", INSTANT, RULE, lambda c: moment(c).isoformat(timespec="milliseconds") + "Z"),
    "Go": ("TEXT", INSTANT, RULE, lambda c: trimmed(sometimes_whole(moment(c), c)) + "Z"),
    "nanoseconds": ("TEXT", INSTANT, RULE, lambda c: moment(c).isoformat(timespec="microseconds") + "000+00:00"),
    "aware isoformat": ("TEXT", INSTANT, RULE, lambda c: iso(aware(c))),
    "a fixed offset": ("TEXT", INSTANT, RULE, lambda c: iso(aware(c).astimezone(KOLKATA))),
    "a zone's offset": ("TEXT", INSTANT, ColumnRule(timezone="Europe/Berlin"), lambda c: with_zone(aware(c))),
    "a zone's wall clock": ("TEXT", INSTANT, ColumnRule(timezone="Europe/Berlin"), lambda c: with_zone(aware(c))[:-6]),
    "a zone for timestamp": ("TEXT", NAIVE, ColumnRule(timezone="Europe/Berlin"), lambda c: iso(aware(c))),
    "seconds": ("INTEGER", NAIVE, ColumnRule(epoch="s"), lambda c: c.randrange(2 * 10**9)),
    "seconds as float": ("REAL", INSTANT, ColumnRule(epoch="s"), lambda c: c.randrange(2 * 10**15) / 10**6),
    "milliseconds": ("BIGINT", INSTANT, ColumnRule(epoch="ms"), lambda c: c.randrange(2 * 10**12)),
    "seconds as text": ("TEXT", INSTANT, ColumnRule(epoch="s"), lambda c: str(c.randrange(2 * 10**9))),
    "Julian days": ("REAL", NAIVE, ColumnRule(epoch="julian"), julian_day),
    "dates": ("DATE", DAY, RULE, lambda c: moment(c).date().isoformat()),
    "dates at midnight": ("DATETIME", DAY, RULE, lambda c: f"{moment(c):%Y-%m-%d} 00:00:00"),
    "times": ("TIME", CLOCK, RULE, lambda c: f"{moment(c):%H:%M:%S.%f}"),
    "times, short": ("TIME", CLOCK, RULE, lambda c: f"{moment(c):%H:%M}"),
    "times, isoformat": ("TIME", CLOCK, RULE, lambda c: sometimes_whole(moment(c), c).time().isoformat()),
    "flags": ("BOOLEAN", a(PgKind.BOOLEAN), RULE, lambda c: c.choice((0, 1))),
    "dates with minutes in UTC": ("DATETIME", NAIVE, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M} UTC"),
    "seconds +0000": ("DATETIME", NAIVE, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M:%S}+0000"),
    "flags, Y or N": ("BOOLEAN", a(PgKind.BOOLEAN), RULE, lambda c: c.choice("YN")),
    "documents or null": ("JSON", JSONB, RULE, lambda c: rarely("null", json.dumps(document(c)), c)),
    "flags as words": ("TEXT", a(PgKind.BOOLEAN), RULE, lambda c: c.choice(("No", "Yes"))),
    "flags, all true": ("", a(PgKind.BOOLEAN), RULE, lambda c: "T"),
    "flags as digits": ("TEXT", a(PgKind.BOOLEAN), RULE, lambda c: c.choice("01")),
    "flags as floats": ("REAL", a(PgKind.BOOLEAN), RULE, lambda c: float(c.choice((0, 1)))),
    "integers": ("INT", a(PgKind.BIGINT), RULE, lambda c: c.randint(-(2**63), 2**63 - 1)),
    "integers as text": ("TEXT", a(PgKind.INTEGER), RULE, lambda c: str(c.randrange(10**9))),
    "integers as floats": ("REAL", a(PgKind.INTEGER), RULE, lambda c: float(c.randrange(10**9))),
    "doubles": ("DOUBLE", a(PgKind.DOUBLE), RULE, lambda c: c.choice((c.random(), 1e300, 7.0, float("inf")))),
    "doubles, no affinity": ("", a(PgKind.DOUBLE), RULE, lambda c: c.choice((c.random(), 1e300, -0.0, 7.0))),
    "doubles or integers": ("", a(PgKind.DOUBLE), RULE, lambda c: c.choice((c.random(), 7, 8))),
    "doubles as text": ("TEXT", a(PgKind.DOUBLE), RULE, lambda c: repr(c.choice((c.random(), 1e300, 7.0)))),
    "JavaScript's numbers": ("TEXT", a(PgKind.DOUBLE), RULE, lambda c: f"{c.randrange(10**6) / 8:.15g}"),
    "singles": ("FLOAT", a(PgKind.REAL), RULE, lambda c: c.randrange(10**6) / 100),
    "singles, widened": ("FLOAT", a(PgKind.REAL), RULE, lambda c: float(np.float32(c.random()))),
    "prices": ("NUMERIC(12, 2)", MONEY, RULE, lambda c: c.randrange(10**9) / 100),
    "prices, no affinity": ("", MONEY, RULE, lambda c: c.randrange(10**9) / 100),
    "cents": ("TEXT", MONEY, RULE, lambda c: f"{c.randrange(10**5)}.{c.randrange(100):02d}"),
    "cents, short": ("TEXT", MONEY, RULE, lambda c: f"{c.randrange(10**7) / 100:g}"),
    "digits": ("TEXT", a(PgKind.NUMERIC), RULE, lambda c: str(Decimal(c.randrange(10**20)).scaleb(-c.randrange(9)))),
    "whole numerics": ("NUMERIC", a(PgKind.NUMERIC), RULE, lambda c: c.randrange(2**62)),
    "texts": ("VARCHAR(40)", a(PgKind.VARCHAR, length=40), RULE, lambda c: c.choice(("", "007", " x ", "ä", "1e5"))),
    "numbers for text": ("", a(PgKind.TEXT), RULE, lambda c: c.choice((5, 6, "x"))),
    "chars": ("CHAR(8)", a(PgKind.CHAR, length=8), RULE, lambda c: c.choice(("ab", "", "abcdefgh"))),
    "chars, filled": ("CHAR(8)", a(PgKind.CHAR, length=8), RULE, lambda c: c.choice(("ab".ljust(8), "abcdefgh"))),
    "blobs": ("BLOB", a(PgKind.BYTEA), RULE, lambda c: c.randbytes(c.randrange(9))),
    "blobs as text": ("TEXT", a(PgKind.BYTEA), RULE, lambda c: rarely(b"\xff", "ä\x00", c)),
    "numbers as bytes": ("", a(PgKind.BYTEA), ColumnRule(number_as_bytes=True), lambda c: c.choice((5, 17))),
    "UTF-8 in blobs": ("", a(PgKind.TEXT), ColumnRule(blob_as_text=True), lambda c: c.choice(("ä", "5")).encode()),
    "SQLAlchemy's Uuid": ("CHAR(32)", a(PgKind.UUID), RULE, lambda c: c.randbytes(16).hex()),
    "UUIDs": ("TEXT", a(PgKind.UUID), RULE, lambda c: str(UUID(bytes=c.randbytes(16)))),
    "UUIDs in capitals": ("UUID", a(PgKind.UUID), RULE, lambda c: str(UUID(bytes=c.randbytes(16))).upper()),
    "UUIDs as bytes": ("BLOB", a(PgKind.UUID), RULE, lambda c: c.randbytes(16)),
    "json": ("JSON", a(PgKind.JSON), RULE, lambda c: json.dumps(document(c), indent=c.choice((None, 2)))),
    "json.dumps": ("JSON", JSONB, RULE, lambda c: json.dumps(document(c))),
    "pydantic": ("TEXT", JSONB, RULE, lambda c: json.dumps(document(c), separators=(",", ":"), ensure_ascii=False)),
    "sorted keys": ("TEXT", JSONB, RULE, lambda c: json.dumps(document(c), sort_keys=True)),
    "small fractions": ("TEXT", JSONB, RULE, lambda c: json.dumps([c.random() / 10**8])),
    "json scalars": ("JSON", JSONB, RULE, lambda c: c.choice((5, 1.5, '"x"', "null", "[]"))),
    "labels": ("VARCHAR(9)", a(PgKind.ENUM, labels=("a", "7")), RULE, lambda c: c.choice(("a", "7"))),
    "labels of digits": ("INTEGER", a(PgKind.ENUM, labels=("1", "2")), RULE, lambda c: c.choice((1, 2))),
    "SQLAlchemy's Interval": ("DATETIME", SPAN, RULE, lambda c: f"{moment(c):%Y-%m-%d %H:%M:%S.%f}"),
    "timedelta": ("TEXT", SPAN, RULE, lambda c: str(timedelta(seconds=c.randint(-(10**6), 10**6)))),
    "Django's durations": ("bigint", SPAN, ColumnRule(epoch="us"), lambda c: c.randint(-(10**12), 10**12)),
    "hours": ("TEXT", SPAN, RULE, lambda c: f"{c.randrange(100):02d}:30:00"),
    "ISO durations": ("TEXT", SPAN, RULE, lambda c: c.choice(("P1Y2M3DT4H5M6.5S", "PT0S", "P7D", "-P3D"[1:], "PT-3M"))),
    "PostgreSQL's intervals": ("TEXT", SPAN, RULE, lambda c: c.choice(("1 year 2 mons", "-1 days +02:03:00.5"))),
    "lists of integers": ("TEXT", listed(PgKind.INTEGER), RULE, lambda c: json.dumps([1, None, c.randrange(9)])),
    "compact lists": ("TEXT", listed(PgKind.TEXT), RULE, lambda c: json.dumps(["ä", "7"], separators=(",", ":"))),
    "lists of moments": ("TEXT", listed(PgKind.TIMESTAMP), RULE, lambda c: json.dumps([iso(moment(c)), None])),
    "lists of truths": ("TEXT", listed(PgKind.BOOLEAN), RULE, lambda c: c.choice(("[true, false]", "[]"))),
    "lists of 0 and 1": ("TEXT", listed(PgKind.BOOLEAN), RULE, lambda c: c.choice(("[1, 0]", "[null]"))),
    "lists of decimals": ("TEXT", listed(PgKind.NUMERIC), RULE, lambda c: c.choice(("[1.50, 2]", '[0.1]'))),
    "lists of digits": ("TEXT", listed(PgKind.NUMERIC), RULE, lambda c: c.choice(('["1.50", "2"]', '["0.10"]'))),
    "lists of doubles": ("TEXT", listed(PgKind.DOUBLE), RULE, lambda c: json.dumps([c.random(), 7.0, 1e300])),
    "lists of UUIDs": ("TEXT", listed(PgKind.UUID), RULE, lambda c: json.dumps([c.randbytes(16).hex()])),
    "lists of documents": ("TEXT", listed(PgKind.JSONB), RULE, lambda c: json.dumps([{"a": [1, "x"]}, 5])),
}  # fmt: skip


@pytest.mark.parametrize("name", COLUMNS)
def test_every_value_of_a_column_comes_back_as_it_was(name: str, fill: Fill) -> None:
    declared, type, rule, make = COLUMNS[name]
    chance = random.Random(name)
    file = fill([make(chance) for _ in range(400)], declared)
    assert there_and_back(file, type, rule) == []


@pytest.mark.parametrize("name", COLUMNS)
def test_the_form_of_a_column_survives_json(name: str, fill: Fill) -> None:
    declared, type, rule, make = COLUMNS[name]
    form = learnt(fill([make(random.Random(name))], declared), type, rule)
    assert LexicalForm.from_json(json.loads(json.dumps(form.to_json()))) == form
    assert form.column == "t.c"


# ---------------------------------------------------------------- the choice


def test_the_most_frequent_form_is_the_columns(fill: Fill) -> None:
    seldom = [f"2024-01-{day:02d}T00:00:00Z" for day in range(1, 10)]
    usual = [f"2024-01-{day:02d} 00:00:00.000000" for day in range(1, 29)]
    assert learnt(fill(seldom + usual, "DATETIME"), NAIVE).moment == MomentForm()
    assert learnt(fill(seldom * 4 + usual, "DATETIME"), NAIVE).moment == MomentForm("T", digits=0, suffix="Z")


def test_what_one_value_leaves_open_the_others_decide(fill: Fill) -> None:
    at = "2024-01-01 00:00:00"
    assert learnt(fill([at, f"{at}.5"]), NAIVE).moment.digits == TRIMMED
    assert learnt(fill([at, f"{at}.500000"]), NAIVE).moment.digits == MINIMAL
    assert learnt(fill([f"{at}.500000"]), NAIVE).moment.digits == 6
    assert learnt(fill([at]), NAIVE).moment.digits == 0
    assert learnt(fill([at.replace(" ", "T") + ".123456"]), NAIVE).moment.digits == MINIMAL


def test_an_empty_column_has_the_form_of_sqlalchemy(fill: Fill) -> None:
    assert learnt(fill([None, None], "DATETIME"), NAIVE) == default_form(
        NAIVE,
        affinity=read_catalog(fill([], "DATETIME")).table("t").column("c").affinity,
        column="t.c",
        declared="DATETIME",
    )
    assert learnt(fill([], "BOOLEAN"), PgType(PgKind.BOOLEAN)).storage is StorageClass.INTEGER
    assert learnt(fill([], "CHAR(36)"), PgType(PgKind.UUID)).style == "dashes"
    assert learnt(fill([], "BLOB"), PgType(PgKind.UUID)).storage is StorageClass.BLOB
    assert learnt(fill([], "INTEGER"), NAIVE, ColumnRule(epoch="s")).storage is StorageClass.INTEGER
    assert learnt(fill([], "REAL"), NAIVE, ColumnRule(epoch="julian")).storage is StorageClass.REAL
    assert learnt(fill([], "TEXT"), NAIVE, ColumnRule(epoch="s")).storage is StorageClass.TEXT
    assert learnt(fill([], "TEXT"), MONEY).storage is StorageClass.TEXT


def test_values_that_were_kept_aside_do_not_count(fill: Fill) -> None:
    file = fill(["rubbish"] * 20 + ["2024-01-01T00:00:00"], "DATETIME")
    assert learnt(file, NAIVE).moment.between == "T"


def test_old_and_new_and_middle_values_count(fill: Fill) -> None:
    many = ["2024-01-01 00:00:00"] * 2000 + ["2024-01-01T00:00:00"] * 3000 + [None] * 500
    assert learnt(fill(many, "DATETIME"), NAIVE).moment.between == "T"
    only_one = [None] * 2000 + ["2024-01-01T00:00:00"] + [None] * 2000
    assert learnt(fill(only_one, "DATETIME"), NAIVE).moment.between == "T"


def test_long_values_count_by_their_class(fill: Fill) -> None:
    form = learnt(fill(["x" * 20_000, b"y" * 20_000, "z" * 20_000], "BLOB"), PgType(PgKind.BYTEA))
    assert form.storage is StorageClass.TEXT


def test_text_that_does_not_decode_is_passed_over(fill: Fill, tmp_path: Path) -> None:
    path = tmp_path / "undecodable.db"
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE t (c TEXT)")
        file.execute("INSERT INTO t VALUES (CAST(x'ff' AS TEXT)), ('a')")
        file.commit()
    with closing(open_read_only(path)) as file:
        assert learnt(file, PgType(PgKind.TEXT)).storage is StorageClass.TEXT
        assert learnt(file, PgType(PgKind.BYTEA)).storage is StorageClass.TEXT


# ---------------------------------------------------------------- NULL


def test_a_null_comes_back_as_the_application_writes_it(fill: Fill) -> None:
    unset = ColumnRule(on_empty="null", on_zero_date="null")
    assert learnt(fill(["", "", "2024-01-01", None], "DATE"), DAY, unset).null == ""
    assert learnt(fill(["", "2024-01-01", None, None], "DATE"), DAY, unset).null is None
    assert learnt(fill(["0000-00-00", "2024-01-01"], "DATE"), DAY, unset).null == "0000-00-00"
    assert learnt(fill([0, 5], "INTEGER"), NAIVE, ColumnRule(epoch="s", on_zero_date="null")).null == 0
    assert learnt(fill(["2024-01-01"], "DATE NOT NULL"), DAY, unset).null == ""
    assert learnt(fill(["2024-01-01"], "DATE NOT NULL"), DAY).null is None
    assert learnt(fill(["", ""], "TEXT NOT NULL"), PgType(PgKind.TEXT), unset).null is None
    assert there_and_back(fill(["", "2024-01-01"], "DATE"), DAY, unset) == []


# ---------------------------------------------------------------- tables of every kind


def test_a_strict_column_takes_its_one_class(fill: Fill) -> None:
    for declared, storage in (("INT", "integer"), ("REAL", "real"), ("TEXT", "text"), ("BLOB", "blob")):
        assert learnt(fill([], declared, "STRICT"), PgType(PgKind.DOUBLE)).only == storage
    form = learnt(fill([5, 1.5, "x"], "ANY", "STRICT"), PgType(PgKind.TEXT))
    assert form.only is None
    assert there_and_back(fill([1.5, 2.0], "REAL", "STRICT"), PgType(PgKind.DOUBLE)) == []
    assert there_and_back(fill([True, False], "INT", "STRICT"), PgType(PgKind.BOOLEAN)) == []


def test_a_rowid_is_an_integer_and_nothing_else(fill: Fill) -> None:
    file = fill(["x"])
    form = learn(file, *pair_of(file, PgType(PgKind.BIGINT), column="id"))
    assert form.only is StorageClass.INTEGER
    assert to_sqlite(encode_field(7, PgType(PgKind.BIGINT)), PgType(PgKind.BIGINT), form, RULE) == 7
    table, pair = pair_of(fill(["x"], head="k TEXT"), PgType(PgKind.BIGINT))
    hidden = ColumnPair(type(pair.source)("rowid", "INTEGER", pair.source.affinity), pair.target)
    assert learn(file, table, hidden).only is StorageClass.INTEGER


def test_a_table_without_rowid_is_read_too(fill: Fill) -> None:
    file = fill(["2024-01-01T00:00:00"] * 900, "TEXT", "WITHOUT ROWID", "k INTEGER PRIMARY KEY")
    assert learnt(file, NAIVE).moment.between == "T"


def test_names_need_quoting(tmp_path: Path) -> None:
    path, name, column = tmp_path / "quoted.db", 'ta"ble', 'se"lect'
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"CREATE TABLE {quote(name)} (rowid TEXT, {quote(column)} TEXT)")
        file.execute(f"INSERT INTO {quote(name)} VALUES ('x', '2024-01-01T00:00:00')")
        file.commit()
    with closing(open_read_only(path)) as file:
        table = read_catalog(file).table(name)
        form = learn(file, table, ColumnPair(table.column(column), TargetColumn("c", NAIVE)))
    assert form.moment.between == "T"
