"""The application's own SELECTs on both databases: equal answers are equal, and every kind of difference is told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from pgferry.errors import Transient, UsageError
from pgferry.live.queries import Query, QueryComparison, compare_queries, markdown, read_queries, to_json, translated
from pgferry.live.query_text import TargetColumns, folder_of
from pgferry.postgres.connection import Connection, connect, connection, engine
from pgferry.postgres.schema import upgrade
from pgferry.quoting import quote
from pgferry.sample.generate import generate
from pgferry.sample.models import Base
from pgferry.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = folder_of(ROOT / "queries", Path("osrs_tool_hub.db"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample application's SQLite file."""
    path = tmp_path_factory.mktemp("queries") / "sample.db"
    generate(path, 3000)
    return path


@pytest.fixture(scope="module")
async def moved(sample: Path, server_url: URL) -> AsyncIterator[URL]:
    """A database that holds the same, carried over by SQLAlchemy."""
    name = f"pgferry_test_{uuid4().hex[:12]}"
    url = server_url.set(database=name)
    async with connection(server_url) as admin:
        await admin.execute(f"CREATE DATABASE {quote(name)} TEMPLATE template0 ENCODING 'UTF8'")
        await upgrade(url, ROOT / "alembic.ini")
        await carry(sample, url)
        yield url
        await admin.execute(f"DROP DATABASE {quote(name)} WITH (FORCE)")


async def carry(path: Path, url: URL) -> None:
    source, target = sa.create_engine(f"sqlite:///{path}"), engine(url, load_settings())
    with source.connect() as reader:
        async with target.begin() as writer:
            for table in Base.metadata.sorted_tables:
                rows = [dict(row) for row in reader.execute(sa.select(table)).mappings()]
                await writer.execute(table.insert(), rows)
    source.dispose()
    await target.dispose()


@pytest.fixture
async def held(moved: URL) -> AsyncIterator[Connection]:
    """A connection in a transaction of one moment; what a test plants in it is gone afterwards."""
    opened = await connect(moved)
    await opened.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    yield opened
    await opened.execute("ROLLBACK")
    await opened.close()


async def compare(
    held: Connection, sample: Path, sql: str, own: str | None = None, **values: object
) -> QueryComparison:
    query = Query("a query", "a.sql", sql, own, values)  # type: ignore[arg-type]
    (comparison,) = await compare_queries(held, sample, [query], repeats=1)
    return comparison


# ---------------------------------------------------------------- the sample's queries


async def test_the_samples_queries_answer_the_same(held: Connection, sample: Path) -> None:
    queries = read_queries(SAMPLES)
    comparisons = await compare_queries(held, sample, queries)
    assert len(comparisons) == len(queries) >= 10
    assert [(item.name, item.differences, item.postgres_error) for item in comparisons if not item.equal] == []
    # Nothing that answers nothing would show anything.
    empty = [item.file for item in comparisons if not item.sqlite_rows]
    assert empty == []
    assert all(item.sqlite_ms > 0 and item.postgres_ms > 0 for item in comparisons)
    assert f"{len(queries)} of {len(queries)} queries answer the same" in markdown(comparisons)


async def test_the_samples_queries_find_one_changed_cell(held: Connection, sample: Path) -> None:
    await held.execute("UPDATE trades SET note = 'changed' WHERE id = (SELECT max(id) FROM trades WHERE item_id = 2)")
    found = [item for item in await compare_queries(held, sample, read_queries(SAMPLES)) if not item.equal]
    assert [item.file for item in found] == ["latest_trades.sql"]
    (difference,) = found[0].differences
    assert difference.place == "row 1"
    assert difference.postgres.endswith(", changed")
    assert not difference.sqlite.endswith(", changed")


# ---------------------------------------------------------------- values


async def test_values_are_compared_by_their_meaning(held: Connection, tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    rows = {
        "boolean": ("1", "true"),
        "bigint": ("9223372036854775807", "9223372036854775807"),
        "numeric(12,2)": ("12.5", "12.50"),
        "numeric": ("'0.10'", "0.1"),
        "double precision": ("0.1", "0.1"),
        "timestamp": ("'2024-02-29 12:00:00.000000'", "'2024-02-29 12:00'"),
        "timestamptz": ("'2024-02-29T14:00:00+02:00'", "'2024-02-29 12:00+00'"),
        "date": ("'2024-02-29'", "'2024-02-29'"),
        "time": ("'07:30:00.000000'", "'07:30'"),
        "uuid": ("'0000000000000000000000000000000a'", "'00000000-0000-0000-0000-00000000000a'"),
        "json": ('\'{"a": 1.0, "b": [null]}\'', '\'{"b":[null],"a":1.0}\''),
        "jsonb": ('\'{"a": 1.0, "b": [null]}\'', '\'{"b":[null],"a":1}\''),
        "bytea": ("x'00ff'", "'\\x00ff'"),
        "text": ("'é🐉'", "'é🐉'"),
        "char(5)": ("'ab'", "'ab'"),
        "interval": ("'1970-01-02 00:00:01'", "'1 day 1 second'"),
        "text[]": ("'[\"a\", null]'", "'{a,null}'"),
    }
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(f"CREATE TABLE v ({', '.join(f'c{place}' for place in range(len(rows)))})")
        file.execute(f"INSERT INTO v VALUES ({', '.join(mine for mine, _ in rows.values())})")
        file.execute(f"INSERT INTO v VALUES ({', '.join('NULL' for _ in rows)})")
    columns = ", ".join(f"c{place} {type_}" for place, type_ in enumerate(rows))
    await held.execute(f"CREATE TABLE v ({columns})")
    await held.execute(f"INSERT INTO v VALUES ({', '.join(theirs for _, theirs in rows.values())})")
    await held.execute(f"INSERT INTO v VALUES ({', '.join('NULL' for _ in rows)})")
    found = await compare(held, path, "SELECT * FROM v")
    assert found.equal, found.differences


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("1", "false"),
        ("2", "true"),
        ("1", "2"),
        ("9007199254740993", "9007199254740992"),
        ("'2024-02-29 12:00:00.000001'", "timestamp '2024-02-29 12:00'"),
        ("'2024-02-29 12:00:00'", "date '2024-02-29'"),
        ("'0.1'", "0.11"),
        ("''", "NULL"),
        ("'a'", "'A'"),
        ("'a '", "'a'"),
        ("x'00'", "'\\x01'::bytea"),
        ("'{\"a\": 1}'", '\'{"a": "1"}\'::jsonb'),
        ("'no json'", "'{}'::jsonb"),
        ("0.1", "0.10000000000000002::float8"),
        ("'00000000000000000000000000000001'", "'00000000-0000-0000-0000-00000000000a'::uuid"),
    ],
)
async def test_values_that_differ_are_told(held: Connection, sample: Path, mine: str, theirs: str) -> None:
    # A stored column is exact; only what is computed may be off by a little.
    await held.execute(f"CREATE TEMP TABLE one AS SELECT {theirs} AS c")
    with closing(sqlite3.connect(sample.with_name(f"{uuid4().hex}.db"))) as file, file:
        file.execute(f"CREATE TABLE one AS SELECT {mine} AS c")
        path = Path(file.execute("SELECT file FROM pragma_database_list").fetchone()[0])
    found = await compare(held, path, "SELECT c FROM one")
    assert found.difference_count == 1
    assert found.sqlite_rows == found.postgres_rows == 1
    assert [difference.place for difference in found.differences] == [
        "row 1 of SQLite only",
        "row 1 of PostgreSQL only",
    ]


async def test_computed_numbers_may_be_off_by_a_billionth_and_it_is_said(held: Connection, sample: Path) -> None:
    sql, own = "SELECT sum(margin) FROM trades", "SELECT sum(margin) * (1 + {}) FROM trades"
    near = await compare(held, sample, sql, own.format("1e-11"))
    assert near.equal
    assert near.notes == ("computed numbers of 1 rows are equal only within a relative 1e-09",)
    assert not (await compare(held, sample, sql, own.format("1e-7"))).equal


# ---------------------------------------------------------------- order


ONE_TO_FOUR = "WITH t (a, b) AS (VALUES (1, 'x'), (1, 'y'), (2, 'x'), (2, 'z')) SELECT a, b FROM t"


async def test_rows_that_sort_equally_may_come_in_any_order(held: Connection, sample: Path) -> None:
    found = await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY a", f"{ONE_TO_FOUR} ORDER BY a, b DESC")
    assert found.equal


async def test_another_order_than_the_query_asks_for_is_a_difference(held: Connection, sample: Path) -> None:
    found = await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY 1, b", f"{ONE_TO_FOUR} ORDER BY 1, b DESC")
    assert found.difference_count == 4
    assert found.differences[0].place == "row 1"
    assert (found.differences[0].sqlite, found.differences[0].postgres) == ("1, x", "1, y")
    assert "the same rows in another order" in found.notes


async def test_without_an_order_rows_are_a_multiset(held: Connection, sample: Path) -> None:
    assert (await compare(held, sample, ONE_TO_FOUR, f"{ONE_TO_FOUR} ORDER BY b DESC")).equal
    doubled = await compare(held, sample, ONE_TO_FOUR, f"{ONE_TO_FOUR} UNION ALL SELECT 1, 'x'")
    assert doubled.difference_count == 1
    assert doubled.differences[0].postgres == "1, x"


async def test_an_order_by_what_is_not_shown_is_not_compared_and_it_is_said(held: Connection, sample: Path) -> None:
    sql = "SELECT b FROM (VALUES (1, 'x'), (2, 'y')) AS t (a, b)"
    mine = "WITH t (a, b) AS (VALUES (1, 'x'), (2, 'y')) SELECT b FROM t ORDER BY a"
    found = await compare(held, sample, mine, f"{sql} ORDER BY a DESC")
    assert found.equal
    assert found.notes == ("it sorts by what it does not show, so the order was not compared",)


async def test_a_limit_may_cut_among_ties_but_not_elsewhere(held: Connection, sample: Path) -> None:
    tie = await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY a LIMIT 3", f"{ONE_TO_FOUR} ORDER BY a, b DESC LIMIT 3")
    assert tie.equal
    assert tie.notes == ("1 rows tie where LIMIT or OFFSET cut: either choice is right",)
    wrong = await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY a LIMIT 2", f"{ONE_TO_FOUR} ORDER BY a DESC LIMIT 2")
    assert wrong.difference_count == 2
    only = await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY a LIMIT 1", "SELECT 1 AS a, 'changed' AS b")
    assert only.difference_count == 1
    twice = "SELECT * FROM (VALUES (1, 'x'), (1, 'x')) AS t (a, b)"
    assert (await compare(held, sample, f"{ONE_TO_FOUR} ORDER BY a LIMIT 2", twice)).difference_count == 1
    first = await compare(held, sample, f"{ONE_TO_FOUR} LIMIT 2", f"{ONE_TO_FOUR} ORDER BY b DESC LIMIT 2")
    assert first.equal
    assert first.notes


async def test_the_first_five_rows_that_differ_are_shown(held: Connection, sample: Path) -> None:
    found = await compare(
        held, sample, "SELECT id FROM items ORDER BY id", "SELECT id + 1 AS id FROM items ORDER BY id"
    )
    assert found.difference_count == found.sqlite_rows > 50
    assert len(found.differences) == 5
    assert (found.differences[0].place, found.differences[0].sqlite, found.differences[0].postgres) == (
        "row 1",
        "2",
        "3",
    )


async def test_another_number_of_columns_is_a_difference(held: Connection, sample: Path) -> None:
    found = await compare(held, sample, "SELECT 1 AS a, 2 AS b", "SELECT 1 AS a")
    assert (found.differences[0].sqlite, found.differences[0].postgres) == ("a, b", "a")


# ---------------------------------------------------------------- errors, times


async def test_an_error_of_a_side_is_told_and_the_others_run_on(held: Connection, sample: Path) -> None:
    queries = [
        Query("good", "1.sql", "SELECT count(*) FROM items"),
        Query("only SQLite", "2.sql", "SELECT name GLOB 'A*' FROM items"),
        Query("only PostgreSQL", "3.sql", "SELECT pg_catalog_size(1) FROM items", "SELECT 1"),
        Query("bad value", "4.sql", "SELECT id FROM trades WHERE timestamp > :since", None, {"since": "yesterday"}),
        Query("good", "5.sql", "SELECT count(*) FROM trades"),
    ]
    found = await compare_queries(held, sample, queries, repeats=1)
    assert [item.equal for item in found] == [True, False, False, False, True]
    assert "syntax error" in found[1].postgres_error
    assert found[2].sqlite_error == "no such function: pg_catalog_size"
    assert "the parameter :since is timestamp here, and 'yesterday'" in found[3].postgres_error
    text = markdown(found)
    assert "2 of 5 queries answer the same" in text
    assert "FAILED on PostgreSQL" in text
    assert "no such function: pg_catalog_size" in text
    assert json.loads(json.dumps(to_json(found)))[1]["postgres_error"] == found[1].postgres_error
    assert await held.fetchval("SELECT 1") == 1


async def test_a_lost_connection_is_no_difference(moved: URL, sample: Path) -> None:
    lost = await connect(moved)
    await lost.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    own = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(Transient, match="lost while a query ran"):
        await compare_queries(lost, sample, [Query("q", "q.sql", "SELECT 1", own)])


async def test_a_query_that_is_slower_is_flagged(held: Connection, sample: Path) -> None:
    slow = await compare(held, sample, "SELECT 1 AS a", "SELECT 1 AS a FROM pg_sleep(0.03)")
    assert slow.equal
    assert slow.slower
    assert "equal, slower" in markdown([slow])
    assert "1 slower" in markdown([slow])
    assert not replace(slow, sqlite_ms=40.0, postgres_ms=59.0).slower
    assert not replace(slow, sqlite_ms=1.0, postgres_ms=5.9).slower
    assert replace(slow, sqlite_ms=10.0, postgres_ms=15.1).slower


# ---------------------------------------------------------------- files


def test_a_file_gives_name_values_and_statement(tmp_path: Path) -> None:
    text = """-- name: One of each
-- :a = 'it''s'
-- :b = -5
-- :c = 1.5
-- :d = TRUE
-- :e = null
-- :f = x'00ff'
SELECT :a, :b, :c, :d, :e, :f, ':no' -- :neither = here
"""
    (tmp_path / "one.sql").write_text(text)
    (tmp_path / "two.sql").write_text("VALUES (1)")
    (tmp_path / "two.postgres.sql").write_text("SELECT 1::bigint")
    one, two = read_queries(tmp_path)
    assert one.name == "One of each"
    assert one.values == {"a": "it's", "b": -5, "c": 1.5, "d": True, "e": None, "f": b"\x00\xff"}
    assert (two.name, two.own) == ("two", "SELECT 1::bigint")
    assert read_queries(tmp_path / "missing") == ()
    assert folder_of(ROOT / "queries", Path("/srv/app.db")) == ROOT / "queries"
    assert read_queries(ROOT / "queries") == (), "those of the sample are asked of no other application"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("DELETE FROM items", "bad.sql does not begin with SELECT"),
        ("PRAGMA user_version", "bad.sql does not begin with SELECT"),
        ("-- SELECT\nDROP TABLE items", "bad.sql does not begin with SELECT"),
        ("EXPLAIN SELECT 1", "bad.sql does not begin with SELECT"),
        ("", "bad.sql does not begin with SELECT"),
        ("SELECT 1; SELECT 2", "bad.sql holds 2 statements"),
        ("SELECT 1; DELETE FROM items", "bad.sql holds 2 statements"),
        ("WITH gone AS (DELETE FROM items RETURNING id) SELECT * FROM gone", "bad.sql does more than read"),
        ("WITH x AS (SELECT 1) INSERT INTO items SELECT * FROM x", "bad.sql does more than read"),
        ("SELECT 1 INTO copied", "bad.sql does more than read"),
        ("SELECT (", "bad.sql cannot be understood"),
        ("SELECT ?", "bad.sql has a parameter without a name"),
        ("SELECT @a", "bad.sql has a parameter without a name"),
        ("SELECT :a", "bad.sql: no value for the parameter :a"),
        ("-- :a = 1\nSELECT 1", "bad.sql: there is no parameter :a"),
        ("-- :a = some words\nSELECT :a", "bad.sql: some words is no literal"),
    ],
)
def test_what_is_no_select_is_refused_by_name(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "bad.sql").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_queries(tmp_path)
    assert caught.value.message.startswith(sentence)


def test_the_postgresql_text_is_held_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 1")
    (tmp_path / "q.postgres.sql").write_text("TRUNCATE items")
    with pytest.raises(UsageError, match=r"q\.postgres\.sql does not begin with SELECT"):
        read_queries(tmp_path)


@pytest.mark.parametrize(
    ("sqlite", "postgres"),
    [
        ("SELECT a FROM t WHERE a = :b AND c > :a AND d = :b", "SELECT a FROM t WHERE a = $2 AND c > $1 AND d = $2"),
        ("SELECT a FROM t WHERE flag = 1 AND 0 <> flag", "SELECT a FROM t WHERE flag = TRUE AND FALSE <> flag"),
        ("SELECT sum(flag), sum(a > 1) FROM t", "SELECT SUM(CAST(flag AS INT)), SUM(CAST(a > 1 AS INT)) FROM t"),
        ("SELECT a FROM t WHERE a LIKE 'x%'", "SELECT a FROM t WHERE a ILIKE 'x%'"),
        ("SELECT a FROM t WHERE a NOT LIKE :p", "SELECT a FROM t WHERE a NOT ILIKE $1 ESCAPE ''"),
        ("SELECT a FROM t ORDER BY id DESC, a", "SELECT a FROM t ORDER BY id DESC, a NULLS FIRST"),
        ("SELECT a FROM t ORDER BY a COLLATE NOCASE", "SELECT a FROM t ORDER BY LOWER(a) NULLS FIRST"),
        ("SELECT ifnull(a, 'x') FROM t LIMIT 2, 3", "SELECT COALESCE(a, 'x') FROM t LIMIT 3 OFFSET 2"),
        ("SELECT round(a, 2) FROM t", "SELECT ROUND(CAST(a AS DECIMAL), 2) FROM t"),
        ("SELECT json_extract(a, '$.b[0]') FROM t", 'SELECT (a #>> \'{"b","0"}\') FROM t'),
        ("SELECT cast(a AS integer) FROM t", "SELECT CAST(a AS BIGINT) FROM t"),
        ("SELECT group_concat(a) FROM t", "SELECT STRING_AGG(CAST(a AS TEXT), ',') FROM t"),
        ("SELECT datetime(a) FROM t", "SELECT DATE_TRUNC('SECOND', CAST(a AS TIMESTAMP)) FROM t"),
        ("SELECT total(a) FROM t", "SELECT COALESCE(CAST(SUM(a) AS DOUBLE PRECISION), 0) FROM t"),
    ],
)
def test_sqlites_looseness_is_translated(sqlite: str, postgres: str) -> None:
    assert translated(sqlite, TargetColumns(frozenset({"flag"}), frozenset({"id"}))) == postgres
