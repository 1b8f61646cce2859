"""Wide rows of small values stay whole in a proposed schema; PostgreSQL would scatter each over its TOAST table."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest

from pgferry.plan import sql
from pgferry.plan.model import TablePlan
from pgferry.plan.plan import make_plan
from pgferry.plan.report import render_report
from pgferry.plan.revision import render_revision
from pgferry.plan.trial import tried
from pgferry.quoting import quote

COLUMNS = 100
TOASTED = """
SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = $1::regclass
"""


def planned(path: Path, values: list[str]) -> TablePlan:
    names = [f'"column {number}"' for number in range(len(values))]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f'CREATE TABLE "wide rows" (id INTEGER PRIMARY KEY, {", ".join(names)})')
        rows = [(number, *(f"{value} {number}" for value in values)) for number in range(20)]
        connection.executemany(f'INSERT INTO "wide rows" VALUES ({", ".join("?" * (len(values) + 1))})', rows)
        connection.commit()
    return make_plan(path).tables[0]


@pytest.mark.parametrize(
    ("values", "whole"),
    [(["x" * 40] * COLUMNS, True), (["x" * 10] * COLUMNS, False), (["x" * 40] * COLUMNS + ["x" * 1_000], False)],
    ids=["wide", "narrow", "one large value"],
)
def test_only_wide_rows_of_small_values_stay_whole(tmp_path: Path, values: list[str], whole: bool) -> None:
    plan = planned(tmp_path / "source.db", values)
    assert plan.stays_whole is whole
    statement = sql.stay_whole(plan)
    assert (statement in render_revision(make_plan(tmp_path / "source.db")).text) is whole
    assert (statement.partition(" SET ")[2] in render_report(make_plan(tmp_path / "source.db"))) is whole


async def test_nothing_of_them_is_moved_out(tmp_path: Path, connection: asyncpg.Connection) -> None:
    plan = planned(tmp_path / "source.db", ["x" * 40] * COLUMNS)
    for statement in (None, sql.stay_whole(plan)):
        await connection.execute(f"DROP TABLE IF EXISTS {quote(plan.name)}")
        await connection.execute(sql.bare_table(plan))
        if statement is not None:
            await connection.execute(statement)
        # Of letters that no compression makes shorter.
        texts = ", ".join(f"md5((n * {number})::text)" for number in range(COLUMNS))
        await connection.execute(f"INSERT INTO {quote(plan.name)} SELECT n, {texts} FROM generate_series(1, 20) AS n")
        moved_out = await connection.fetchval(TOASTED, quote(plan.name))
        assert (moved_out == 0) is (statement is not None)


async def test_a_server_that_refuses_it_gets_the_table_without(
    tmp_path: Path, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(tmp_path / "source.db", ["x" * 40] * COLUMNS)
    plan = make_plan(tmp_path / "source.db")
    (table,) = (await tried(plan, connection)).tables
    assert table == plan.tables[0]
    monkeypatch.setattr(sql, "PAGE_ROOM", 32_736)  # of pages of 32 KB
    (table,) = (await tried(plan, connection)).tables
    assert not table.stays_whole
    assert table.columns == plan.tables[0].columns
