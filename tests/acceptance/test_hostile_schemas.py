"""Keys, indexes and expressions that SQLite bears and PostgreSQL would refuse only when the rows are there."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.plan.model import SchemaPlan
from tests.acceptance.corpus_compare import compare
from tests.acceptance.library_move import plan_and_move

Server = asyncpg.Connection
Move = Callable[..., Awaitable[SchemaPlan]]


@pytest.fixture
def move(tmp_path: Path, database_url: URL) -> Move:
    """Plan and move a file that a script makes; every row arrives unchanged, or the test fails."""

    async def run(script: str, *rows: tuple[str, tuple[object, ...]], encoding: str = "UTF-8") -> SchemaPlan:
        source = tmp_path / "made.db"
        with closing(sqlite3.connect(source)) as file:
            file.execute(f"PRAGMA encoding = '{encoding}'")
            file.executescript(script)
            for statement, values in rows:
                file.execute(statement, values)
            file.commit()
        moved = await plan_and_move(source, database_url, tmp_path / "home")
        found = await compare(source, database_url)
        assert [text for table in found.values() for text in table.wrong] == []
        assert all(table.closed and not table.quarantined for table in found.values())
        assert moved.report.verified
        return moved.plan

    return run


def reasons(plan: SchemaPlan) -> dict[tuple[str, str], str]:
    """Return why something is not carried, by kind and name."""
    return {(item.kind, item.name or item.sql): item.reason for item in plan.not_carried}


# ---------------------------------------------------------------- arithmetic


async def test_integer_arithmetic_that_overflows_is_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE g (id INTEGER PRIMARY KEY, a INTEGER, v AS (a * 2), small INTEGER AS (id * 2));
           CREATE TABLE c (id INTEGER PRIMARY KEY, a INTEGER, CHECK (a + 1 > 0), CHECK (id + 1 > 0),
                           CHECK (a - 1 + 1 > 0), CHECK (-(a * -1) > 0), CHECK (abs(a) + abs(a) > 0));
           CREATE INDEX sums ON c (a + 1); CREATE INDEX firsts ON c (id) WHERE a * 2 > 5;
           CREATE INDEX fine ON c (id + 1);
           INSERT INTO g (id, a) VALUES (1, 9223372036854775807), (2, 5);
           INSERT INTO c VALUES (1, 9223372036854775807), (2, 5);"""
    )
    left = reasons(plan)
    assert {key for key, reason in left.items() if "out of the range of bigint" in reason} == {
        ("generated", "v"), ("check", "a + 1 > 0"), ("check", "abs(a) + abs(a) > 0"), ("index", "sums"),
        ("index", "firsts"),
    }  # fmt: skip
    assert {column.name for column in plan.table("g").columns if column.generated} == {"small"}
    assert [index.name for index in plan.table("c").indexes] == ["fine"]
    assert len(plan.table("c").checks) == 3


async def test_real_arithmetic_that_overflows_or_vanishes_is_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE c (id INTEGER PRIMARY KEY, huge REAL CHECK (huge * huge >= 0),
                           tiny REAL CHECK (tiny * tiny >= 0),
                           endless REAL CHECK (endless + 1 > 0), price REAL CHECK (price * 1.2 >= 0),
                           share REAL CHECK (price * (1 - share) >= 0 AND price < 1e999), total REAL AS (price * id));
           INSERT INTO c VALUES (1, 1e300, 1e-200, 1e999, 9.99, 0.25), (2, 1, 1, 1, 0, 0);"""
    )
    assert {name: reason.split(", ")[-1] for (kind, name), reason in reasons(plan).items() if kind == "check"} == {
        "huge * huge >= 0": "out of the range of double precision: an error in PostgreSQL",
        "tiny * tiny >= 0": "which is an error in PostgreSQL",
        "endless + 1 > 0": "out of the range of double precision: an error in PostgreSQL",
        "price * (1 - share) >= 0 AND price < 1e999": "which is an error in PostgreSQL",
    }
    assert [check.source for check in plan.table("c").checks] == ["price * 1.2 >= 0"]
    assert plan.table("c").column("total").generated


async def test_expressions_over_both_integers_and_reals_are_left_out(move: Move) -> None:
    plan = await move(
        """CREATE TABLE c (id INTEGER PRIMARY KEY, n NUMERIC, v AS (n * n), t AS (typeof(n)), r REAL AS (id * 2),
                           CHECK (n > 0));
           INSERT INTO c (id, n) VALUES (1, 94906267), (2, 0.5), (3, 9007199254740991);"""
    )
    generated = {column.name for column in plan.table("c").columns if column.generated}
    assert generated == {"r"}
    assert set(reasons(plan)) == {("generated", "v"), ("generated", "t")}
    assert len(plan.table("c").checks) == 1
