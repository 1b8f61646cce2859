"""Rows that a rule of the user's own schema refuses: kept aside by name, or, where two rows collide, told."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.finishing import NotAccepted, judge_report
from pgferry.live.switch import compare_touched
from pgferry.postgres.ledger import find_run, record_chunk
from pgferry.postgres.quarantine import reasons
from pgferry.replay import conclude_replay, prepare_replay, replay_table
from pgferry.settings import Rules
from tests.acceptance.independent import Ways, differences, tables_of
from tests.acceptance.moving import Mover, alembic_project, ask, environment, migrate
from tests.live import LiveMove

Server = asyncpg.Connection


def people(path: Path) -> Path:
    """Make a file of 100 people, two of whom differ in the case of their name only."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        file.executemany("INSERT INTO people VALUES (?, ?, ?)", [(n, f"name {n}", n) for n in range(1, 99)])
        file.executemany("INSERT INTO people VALUES (?, ?, ?)", [(99, "Anna", -5), (100, "anna", 7)])
        file.commit()
    return path


@dataclass(frozen=True)
class Shape:
    """A table of `rows` rows, of which a rule of the target refuses some, and the address by which SQLite has them."""

    source: str
    target: str
    refused: str
    """The condition of the rows that the target refuses, in SQLite."""
    column: str
    address: str
    reason: str
    ease: str
    """The statements after which the target takes them."""

    def make(self, path: Path, rows: int) -> Path:
        with closing(sqlite3.connect(path)) as file:
            file.executescript(self.source.format(n=f"WITH n (i) AS ({NUMBERS.format(rows=rows)})"))
        return path

    def expected(self, path: Path) -> dict[str, bytes]:
        """Return what the quarantine should hold: the address as JSON, and the value's own bytes."""
        query = f"SELECT json_array({self.address}), CAST({self.column} AS BLOB) FROM t WHERE {self.refused}"
        with closing(sqlite3.connect(path)) as file:
            return {json.dumps(json.loads(key)): value for key, value in file.execute(query)}


NUMBERS = "SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}"
IN_QUARANTINE = """
SELECT key, value, column_name, storage_class, reason FROM pgferry.quarantine
 WHERE source_table = 't' AND replayed_at IS NULL ORDER BY id
"""
DOMAINS = """
CREATE DOMAIN positive AS integer CHECK (value > 0);
CREATE DOMAIN code AS varchar(8) CONSTRAINT small CHECK (value = lower(value));
CREATE DOMAIN part AS code;
"""

SHAPES = {
    "a check, the key is the rowid": Shape(
        "CREATE TABLE t (name TEXT, id INTEGER PRIMARY KEY, age INTEGER);"
        "{n} INSERT INTO t SELECT 'n' || i, i * 3, CASE i % 7 WHEN 0 THEN -i ELSE i END FROM n",
        "CREATE TABLE t (name text, id integer PRIMARY KEY, age integer CHECK (age > 0))",
        "age < 0",
        "age",
        "id",
        'the target refuses the row: new row for relation "t" violates check constraint "t_age_check": Failing row',
        "ALTER TABLE t DROP CONSTRAINT t_age_check",
    ),
    "one of two columns of a domain, the key is text": Shape(
        "CREATE TABLE t (id TEXT PRIMARY KEY, low INTEGER, high INTEGER);"
        "{n} INSERT INTO t SELECT 'ä' || (i * 7919 % 100003), i, CASE i % 7 WHEN 0 THEN -i ELSE i END FROM n",
        "CREATE TABLE t (id text PRIMARY KEY, low positive, high positive)",
        "high < 0",
        "high",
        "rowid",
        "the target refuses the row: value for domain positive violates check constraint",
        "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
    ),
    "a domain over a domain over varchar, WITHOUT ROWID": Shape(
        "CREATE TABLE t (a TEXT, b INTEGER, c TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID;"
        "{n} INSERT INTO t SELECT 'n' || i, i % 5, CASE i % 7 WHEN 0 THEN 'CODE' ELSE 'code' END FROM n",
        "CREATE TABLE t (a text, b integer, c part, PRIMARY KEY (b, a))",
        "c = 'CODE'",
        "c",
        "b, a",
        'the target refuses the row: value for domain part violates check constraint "small"',
        "ALTER DOMAIN code DROP CONSTRAINT small",
    ),
    "an array of a domain, no key, rows alike": Shape(
        "CREATE TABLE t (name TEXT, tags TEXT);"
        "{n} INSERT INTO t SELECT 'n' || (i % 3), CASE i % 7 WHEN 0 THEN '[1, -1]' ELSE '[1, 2]' END FROM n",
        "CREATE TABLE t (name text, tags positive[])",
        "tags = '[1, -1]'",
        "tags",
        "rowid",
        "the target refuses the row: value for domain positive violates check constraint",
        "ALTER DOMAIN positive DROP CONSTRAINT positive_check",
    ),
    "no partition takes the row, no key": Shape(
        "CREATE TABLE t (name TEXT, at INTEGER);"
        "{n} INSERT INTO t SELECT 'n' || i, CASE i % 7 WHEN 0 THEN 1000000 + i ELSE i END FROM n",
        "CREATE TABLE t (name text, at integer) PARTITION BY RANGE (at);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000000)",
        "at > 1000000",
        "name",
        "rowid",
        'the target refuses the row: no partition of relation "t" found for row',
        "CREATE TABLE t2 PARTITION OF t DEFAULT",
    ),
    "a check that fails itself, an identity and a generated column": Shape(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, age INTEGER);"
        "{n} INSERT INTO t SELECT i, CASE i % 7 WHEN 0 THEN 0 ELSE i END FROM n",
        "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, age integer,"
        " twice integer GENERATED ALWAYS AS (age * 2) STORED, CONSTRAINT shared CHECK (1 / age >= 0))",
        "age = 0",
        "id",
        "id",
        "the target refuses the row: division by zero",
        "ALTER TABLE t DROP CONSTRAINT shared",
    ),
}


LIVE = {
    "a check, the key is the rowid": ("age = -9", "age = 77"),
    "one of two columns of a domain, the key is text": ("high = -9", "high = 77"),
    "a domain over a domain over varchar, WITHOUT ROWID": ("c = 'CODE'", "c = 'code'"),
    "an array of a domain, no key, rows alike": ("tags = '[1, -1]'", "tags = '[1]'"),
}
"""What an application writes: first what the target refuses, then what it takes."""


@pytest.mark.parametrize("name", SHAPES)
async def test_refused_rows_are_kept_aside_by_name_and_loaded_once_when_the_rule_is_eased(
    name: str, tmp_path: Path, database_url: URL, connection: Server
) -> None:
    shape = SHAPES[name]
    source = shape.make(tmp_path / "app.db", 100)
    expected = shape.expected(source)
    await connection.execute(DOMAINS + shape.target)
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    report = await mover.run()

    assert report.verified
    assert not report.complete
    assert [(table.source_rows, table.loaded, table.quarantined) for table in report.tables] == [(100, 86, 14)]
    kept = await connection.fetch(IN_QUARANTINE)
    assert {row["key"]: row["value"] for row in kept} == expected
    assert len(kept) == len(expected) == 14
    assert {row["column_name"] for row in kept} == {shape.column}
    assert all(row["reason"].startswith(shape.reason) for row in kept)
    alike = await reasons(connection, report.run_id)
    assert [(item.rows, shape.reason in item.example) for item in alike] == [(14, True)], alike
    with closing(sqlite3.connect(source)) as file:
        assert file.execute(f"SELECT count(*) FROM t WHERE {shape.refused}").fetchone() == (14,)
    assert await differences(without(source, tmp_path / "rest.db", shape.refused), database_url) == []
    with pytest.raises(NotAccepted, match=r"rows of t are in quarantine\. .*quarantine list"):
        judge_report(report)

    await connection.execute(shape.ease)
    assert await replayed(connection, source) == (14, 0)
    assert await replayed(connection, source) == (0, 0)
    assert await differences(source, database_url) == []
    assert await connection.fetchval("SELECT count(*) FROM t") == 100


async def test_they_stay_in_quarantine_when_a_replay_finds_the_rule_in_place(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    shape = SHAPES["a check, the key is the rowid"]
    source = shape.make(tmp_path / "app.db", 100)
    await connection.execute(shape.target)
    await Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30).run()
    before = await connection.fetch(IN_QUARANTINE)
    assert await replayed(connection, source) == (0, 14)
    assert await connection.fetch(IN_QUARANTINE) == before


def without(source: Path, rest: Path, refused: str) -> Path:
    """Return a copy of the file without the refused rows."""
    shutil.copyfile(source, rest)
    with closing(sqlite3.connect(rest)) as file:
        file.execute(f"DELETE FROM t WHERE {refused}")
        file.commit()
    return rest


async def replayed(connection: Server, source: Path) -> tuple[int, int]:
    """Replay the quarantine; return how many rows were loaded, and how many stay."""
    run = await find_run(connection, str(source))
    assert run is not None
    work = await prepare_replay(connection, run, Rules(), "")
    done = [await replay_table(connection, work, table) for table in work.reads]
    await conclude_replay(connection, work)
    return sum(table.loaded for table in done), sum(table.kept for table in done)


@pytest.mark.parametrize(
    ("refused", "rows", "chunk_rows"), [("id > 60", 100, 30), ("id > 0", 100, 30), ("id % 2 = 0", 20_000, 20_000)]
)
async def test_a_whole_chunk_a_whole_table_and_half_of_a_large_chunk(
    refused: str, rows: int, chunk_rows: int, tmp_path: Path, database_url: URL, connection: Server
) -> None:
    source = tmp_path / "app.db"
    with closing(sqlite3.connect(source)) as file:
        file.executescript(
            f"""CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT);
                WITH n (i) AS ({NUMBERS.format(rows=rows)}) INSERT INTO t SELECT i, 'n' || i FROM n;"""
        )
    await connection.execute(f"CREATE TABLE t (id integer PRIMARY KEY, name text, CHECK (NOT ({refused})))")
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=chunk_rows)
    report = await mover.run()
    assert report.verified
    with closing(sqlite3.connect(source)) as file:
        aside = {f"[{key}]" for (key,) in file.execute(f"SELECT id FROM t WHERE {refused}")}
    assert {row["key"] for row in await connection.fetch(IN_QUARANTINE)} == aside
    assert await connection.fetchval("SELECT count(*) FROM pgferry.quarantine") == len(aside)
    assert await differences(without(source, tmp_path / "rest.db", refused), database_url) == []


@pytest.mark.parametrize("name", ["a check, the key is the rowid", "an array of a domain, no key, rows alike"])
async def test_a_try_that_ends_before_its_commit_leaves_nothing_and_a_damaged_file_is_exported_again(
    name: str, tmp_path: Path, database_url: URL, connection: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = SHAPES[name]
    source = shape.make(tmp_path / "app.db", 100)
    await connection.execute(DOMAINS + shape.target)
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)

    loads = 0

    async def fails(*arguments: object) -> None:
        nonlocal loads
        loads += 1
        await record_chunk(*arguments)  # type: ignore[arg-type]
        if loads == 3:
            raise ConnectionResetError

    monkeypatch.setattr("pgferry.postgres.load.record_chunk", fails)
    with pytest.raises(ConnectionResetError):
        await mover.load()
    assert await connection.fetchval("SELECT count(*) FROM t") == 60 - 8
    assert [row["key"] for row in await connection.fetch(IN_QUARANTINE)] == list(shape.expected(source))[:8]
    assert await connection.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'pgferry\\_%'") == 0

    monkeypatch.undo()
    for file in (tmp_path / "home").rglob("000002.parquet"):
        file.write_bytes(b"damaged")
    report = await mover.run()
    assert report.verified
    assert [row["key"] for row in await connection.fetch(IN_QUARANTINE)] == list(shape.expected(source))


@pytest.mark.parametrize(
    "name", ["one of two columns of a domain, the key is text", "no partition takes the row, no key"]
)
async def test_a_real_difference_is_told_without_the_refused_rows(
    name: str, tmp_path: Path, database_url: URL, connection: Server
) -> None:
    shape = SHAPES[name]
    source = shape.make(tmp_path / "app.db", 100)
    await connection.execute(DOMAINS + shape.target)
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    move = await mover.load()
    changed = "low = 1000" if "low" in shape.source else "at = 1000"
    await connection.execute(f"UPDATE t SET {changed} WHERE {changed.partition(' ')[0]} = 5")
    shutil.rmtree(tmp_path / "home" / "staging", ignore_errors=True)
    (verdict,) = (await mover.check(move)).values()
    assert verdict.difference_count == (1 if "low" in shape.source else 2)


def test_the_command_says_so_by_its_report_and_exit_code(
    tmp_path: Path, database_url: URL, prefect_server: str
) -> None:
    shape = SHAPES["a check, the key is the rowid"]
    source = shape.make(tmp_path / "app.db", 5_000)
    env = environment(
        database_url,
        tmp_path / "home",
        PREFECT_API_URL=prefect_server,
        PGFERRY_CHUNK_ROWS="1000",
        PGFERRY_ALEMBIC_CONFIG=str(alembic_project(tmp_path, shape.target)),
    )
    done = migrate("--source", source, "--json", env=env, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 3, done.stderr
    assert (report["verified"], report["complete"]) == (True, False)
    (table,) = report["tables"]
    assert (table["loaded"], table["quarantined"]) == (4_286, 714)
    assert "quarantine list" in done.stderr
    kept = ask(database_url, IN_QUARANTINE)
    assert {row["key"]: row["value"] for row in kept} == shape.expected(source)


@pytest.mark.parametrize(("name", "columns"), LIVE.items())
async def test_while_the_move_is_live_they_are_known_and_a_later_write_carries_them(
    name: str,
    columns: tuple[str, str],
    tmp_path: Path,
    database_url: URL,
    connection: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However many there are: they are not among the differences, of which only so many are looked at.
    monkeypatch.setattr("pgferry.live.findings.KEPT", 5)
    monkeypatch.setattr("pgferry.live.compare.PICKED", 5)
    shape, (spoilt, mended) = SHAPES[name], columns
    source = shape.make(tmp_path / "app.db", 100)
    await connection.execute(DOMAINS + shape.target)
    move = LiveMove(database_url, source, tmp_path / "home", chunk_rows=30)
    await move.dual_write()
    validation = await move.validate()
    assert validation.passed, validation
    assert [(table.quarantined, table.difference_count) for table in validation.tables] == [(14, 0)]

    one = f"SELECT {shape.address} FROM t WHERE {shape.refused} LIMIT 1"
    write(source, f"UPDATE t SET {mended} WHERE ({shape.address}) IN ({one})")
    await move.sync()
    await equal_but_refused(shape, source, connection, database_url)
    assert len(await connection.fetch(IN_QUARANTINE)) == 13

    # Refused when they are written; and others besides, in their place.
    write(
        source,
        f"UPDATE t SET {spoilt} WHERE ({shape.address}) IN (SELECT {shape.address} FROM t LIMIT 20)",
        f"DELETE FROM t WHERE ({shape.address}) IN (SELECT {shape.address} FROM t WHERE {shape.refused} LIMIT 3)",
    )
    await move.sync()
    await equal_but_refused(shape, source, connection, database_url)
    validation = await move.validate()
    assert validation.passed, validation
    async with move.session() as server:
        with closing(sqlite3.connect(source)) as file:
            assert await compare_touched(server, await move.live(server), file) == 0
    write(source, f"UPDATE t SET {spoilt} WHERE {shape.refused}")
    await move.sync()
    async with move.session() as server:
        with closing(sqlite3.connect(source)) as file:
            assert await compare_touched(server, await move.live(server), file) > 20

    await connection.execute(shape.ease)
    write(source, f"UPDATE t SET {spoilt} WHERE {shape.refused}")
    await move.sync()
    assert await connection.fetch(IN_QUARANTINE) == []
    assert await differences(source, database_url, live_ways(source)) == []
    assert (await move.validate()).passed


async def test_a_table_that_is_copied_anew_keeps_them_aside(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    shape = SHAPES["a check, the key is the rowid"]
    source = shape.make(tmp_path / "app.db", 100)
    await connection.execute(shape.target)
    move = LiveMove(database_url, source, tmp_path / "home", chunk_rows=30)
    await move.dual_write()
    write(source, "ALTER TABLE t ADD COLUMN more TEXT", "UPDATE t SET age = -1, more = 'x' WHERE id = 3")
    await connection.execute("ALTER TABLE t ADD COLUMN more text")
    await move.resume()
    await equal_but_refused(shape, source, connection, database_url)
    assert (await move.validate()).passed


async def equal_but_refused(shape: Shape, source: Path, connection: Server, url: URL) -> None:
    """Compare both sides: the target has all rows but those that it refuses, and the quarantine has these."""
    kept = await connection.fetch(IN_QUARANTINE)
    assert {row["key"]: row["value"] for row in kept} == shape.expected(source)
    assert len({row["key"] for row in kept}) == len(kept)
    rest = without(source, source.with_name("rest.db"), shape.refused)
    assert await differences(rest, url, live_ways(source)) == []


def live_ways(source: Path) -> Ways:
    """Leave out what a live move has in the file."""
    with closing(sqlite3.connect(source)) as file:
        return Ways(left_out=tuple(table for table in tables_of(file) if table.startswith("_pgferry")))


def write(path: Path, *statements: str) -> None:
    """Write as the application does."""
    with closing(sqlite3.connect(path)) as file:
        for statement in statements:
            file.execute(statement)
        file.commit()


async def test_a_trigger_that_raises_stops_the_chunk_and_is_named(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    source = people(tmp_path / "app.db")
    await connection.execute(
        """CREATE TABLE people (id integer PRIMARY KEY, name text, age integer);
           CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql
           AS $$ BEGIN IF new.age < 0 THEN RAISE 'not that old'; END IF; RETURN new; END $$;
           CREATE TRIGGER never BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION never()"""
    )
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    with pytest.raises(Permanent, match=r"Table 'people', chunk 3: the target refuses the row: not that old") as caught:
        await mover.run()
    assert "--restart" in caught.value.action
    assert await connection.fetchval("SELECT count(*) FROM people") == 90

    await connection.execute("DROP TRIGGER never ON people")
    assert (await mover.run()).complete
    assert await differences(source, database_url) == []


@pytest.mark.parametrize(
    ("unique", "named"),
    [
        ("CREATE UNIQUE INDEX by_name ON people (lower(name))", r"index by_name of .*\(Key \(lower\(name\)\)=\(anna\)"),
        ("CREATE UNIQUE INDEX by_half ON people ((age / 2)) WHERE age > 5", r"by_half .*Key \(\(age / 2\)\)=\(\d+\)"),
    ],
)
async def test_colliding_keys_are_named_when_a_unique_index_is_built(
    tmp_path: Path, database_url: URL, connection: Server, unique: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgferry.building.IN_PLACE_ROWS", 0)
    source = people(tmp_path / "app.db")
    await connection.execute("CREATE TABLE people (id integer PRIMARY KEY, name text, age integer)")
    await connection.execute(unique)
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    with pytest.raises(Permanent, match=named) as caught:
        await mover.run()
    assert "Correct these rows in the source" in caught.value.action
    assert "--restart" in caught.value.action
    assert await connection.fetchval("SELECT count(*) FROM people") == 100
    waits = "SELECT error FROM pgferry.deferred WHERE rebuilt_at IS NULL AND error IS NOT NULL"
    assert "is duplicated" in await connection.fetchval(waits)


async def test_colliding_keys_of_a_small_table_are_named_when_it_is_loaded(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    """It keeps its indexes meanwhile."""
    source = people(tmp_path / "app.db")
    await connection.execute("CREATE TABLE people (id integer PRIMARY KEY, name text, age integer)")
    await connection.execute("CREATE UNIQUE INDEX by_name ON people (lower(name))")
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    with pytest.raises(
        Permanent, match=r"Table 'people', chunk \d+: .*by_name.*Key \(lower\(name\)\)=\(anna\)"
    ) as caught:
        await mover.run()
    assert "--restart" in caught.value.action
