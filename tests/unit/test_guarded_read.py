"""Where the Arrow reader stops at a value of another class, no row is lost, doubled or changed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgferry.convert.rules import Rejected, convert
from pgferry.export import ChunkRows
from pgferry.model import Chunk, PgKind, PgType, SqliteValue, TablePair, TargetColumn, TargetTable
from pgferry.pairing import pair_tables
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import TableSample
from pgferry.sqlite.connect import reading
from pgferry.sqlite.guard import plan_read

Row = tuple[SqliteValue, ...]
TYPES = (PgType(PgKind.INTEGER), PgType(PgKind.BIGINT), PgType(PgKind.TEXT), PgType(PgKind.BOOLEAN))
USUAL = ({"integer": 9}, {"integer": 9}, {"text": 9}, {"integer": 9})
BATCH = 16
"""Rows of an Arrow batch: the reader guesses the types by its first one, and stops in later ones."""


def paired(path: Path, rows: list[Row], script: str = "") -> TablePair:
    """Make a file with these rows, and pair its table with one that takes the types above."""
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, i, b, s, f)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
        connection.executescript(script)
        connection.commit()
    columns = (TargetColumn("id", PgType(PgKind.BIGINT), not_null=True),)
    columns += tuple(TargetColumn(name, type) for name, type in zip("ibsf", TYPES, strict=True))
    with reading(path) as source:
        (pair,) = pair_tables(read_catalog(source), [TargetTable("public", "t", 1, columns, ("id",))], Rules()).pairs
    return pair


def moved(path: Path, pair: TablePair, chunk: Chunk) -> tuple[list[Row], list[int], bool]:
    """Return the rows that the export gives, the rowids of those that it keeps aside, and whether it kept the order."""
    read = plan_read(pair, TableSample(100, 100, 40.0, 100, ({"integer": 9}, *USUAL)))
    read = replace(read, batch_rows=BATCH)
    rows = ChunkRows(path, read, chunk)
    found = [tuple(row.values()) for batch in rows for row in batch.to_pylist()]
    return found, sorted(int(str(row.key[0])) for row in rows.rejected), rows.in_order


def expected(pair: TablePair, rows: list[Row]) -> tuple[list[Row], list[int]]:
    """Return the same by the scalar rules alone."""
    good: list[Row] = []
    bad: list[int] = []
    for row in rows:
        answers = [convert(value, each.target.type, each.rule) for value, each in zip(row, pair.columns, strict=True)]
        if any(isinstance(answer, Rejected) for answer in answers):
            bad.append(int(str(row[0])))
        else:
            good.append(tuple(answers))
    return good, bad


def check(path: Path, rows: list[Row], chunk: Chunk, script: str = "") -> bool:
    """Compare the two, and say whether the rows kept their order."""
    pair = paired(path, rows, script)
    low, high = (key[0] if key else None for key in (chunk.low, chunk.high))
    mine = [row for row in rows if (low is None or row[0] >= low) and (high is None or row[0] <= high)]
    good, bad, in_order = moved(path, pair, replace(chunk, rows=len(mine)))
    wanted, unwanted = expected(pair, mine)
    assert sorted(good) == sorted(wanted)
    assert bad == unwanted
    assert not in_order or good == wanted
    return in_order


def usual(count: int, gap: int = 1) -> list[Row]:
    return [(gap * n, n, 2**40 + n, f"text {n}", n % 2) for n in range(count)]


@pytest.mark.parametrize("place", [0, 1, BATCH - 2, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH, 98, 99])
@pytest.mark.parametrize("value", [2.5, 2.0, "12", "x", b"x", 2**31, 1e300])
def test_one_odd_value_anywhere(tmp_path: Path, place: int, value: SqliteValue) -> None:
    rows = usual(100)
    rows[place] = (rows[place][0], value, *rows[place][2:])
    check(tmp_path / "odd.db", rows, Chunk("t", 0, 100))


def test_what_comes_by_the_reader_keeps_its_order(tmp_path: Path) -> None:
    rows = usual(100)
    assert check(tmp_path / "a.db", rows, Chunk("t", 0, 100))
    rows[50] = (50, None, None, None, None)
    assert check(tmp_path / "b.db", rows, Chunk("t", 0, 100))
    rows[60] = (60, 2**31, 1, "too large for the target, and so kept aside", 0)
    assert check(tmp_path / "c.db", rows, Chunk("t", 0, 100))
    rows[70] = (70, 7.0, 1, "a seven all the same, but not by the reader", 0)
    assert not check(tmp_path / "d.db", rows, Chunk("t", 0, 100))


@pytest.mark.parametrize("script", ["", "CREATE INDEX all_columns ON t (i DESC, b, s, f)"])
def test_what_the_guard_keeps_out_as_a_whole_keeps_its_order(tmp_path: Path, script: str) -> None:
    wide = [(n, n % 7, n, "y" * 70_000, n % 2) for n in range(40)]
    assert check(tmp_path / "wide.db", wide, Chunk("t", 0, 40), script)
    wide[20] = (20, 2**31, 1, "y" * 70_000, 0)
    assert check(tmp_path / "one-aside.db", wide, Chunk("t", 0, 40), script)
    assert not check(tmp_path / "one-plain.db", [*wide, *usual(50)[40:]], Chunk("t", 0, 50), script)


def test_the_largest_rowids(tmp_path: Path) -> None:
    rows = [*usual(40), (2**63 - 2, "1", 1, "s", 1), (2**63 - 1, 1, 1, "s", 1)]
    check(tmp_path / "max.db", rows, Chunk("t", 0, 0))
    check(tmp_path / "max.db", [*usual(40), (2**63 - 1, "1", 1, "s", 1)], Chunk("t", 0, 0))


ODD = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.sampled_from([2**31 - 1, 2**31, -(2**31) - 1, 2**62, 1.0, 0.5, 1e300, "", "7", "x", b"x", b"", "y" * 70_000]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    odd=st.dictionaries(st.tuples(st.integers(0, 89), st.integers(1, 4)), ODD, max_size=12),
    low=st.one_of(st.none(), st.integers(-5, 150)),
    high=st.one_of(st.none(), st.integers(151, 300)),
)
def test_any_mixture(
    tmp_path: Path, odd: dict[tuple[int, int], SqliteValue], low: int | None, high: int | None
) -> None:
    rows = [list(row) for row in usual(90, gap=3)]
    for (row, column), value in odd.items():
        rows[row][column] = value
    chunk = Chunk("t", 0, 0, None if low is None else (low,), None if high is None else (high,))
    check(tmp_path / "mixture.db", [tuple(row) for row in rows], chunk)
