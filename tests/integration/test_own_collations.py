"""Tables by a collation that only the application has: read everywhere, kept level only where they can be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from pgferry.live.begin import refuse_unwritable
from pgferry.operate.check import Verdict
from pgferry.operate.preflight import failed, run_checks
from pgferry.postgres.connection import Connection
from pgferry.settings import Rules, load_settings
from tests.live import LiveMove

TABLES = """
CREATE TABLE plain (id INTEGER PRIMARY KEY, name TEXT COLLATE "my own");
CREATE TABLE keyed (k TEXT COLLATE ICU PRIMARY KEY, v TEXT) WITHOUT ROWID;
CREATE TABLE unique_ (id INTEGER PRIMARY KEY, n TEXT COLLATE icu UNIQUE);
CREATE TABLE named (id INTEGER PRIMARY KEY, n TEXT); CREATE INDEX by_n ON named (n COLLATE ICU);
INSERT INTO plain VALUES (1, 'a'), (2, 'B'), (3, 'b');
INSERT INTO keyed VALUES ('a', 'x'), ('b', 'y'), ('aa', 'z');
INSERT INTO unique_ VALUES (1, 'a'), (2, 'b'), (3, 'aa');
INSERT INTO named SELECT * FROM unique_;
"""
TARGETS = """
CREATE TABLE plain (id bigint PRIMARY KEY, name text); CREATE TABLE keyed (k text PRIMARY KEY, v text);
CREATE TABLE unique_ (id bigint PRIMARY KEY, n text UNIQUE); CREATE TABLE named (id bigint PRIMARY KEY, n text);
"""
WITHOUT = Rules.model_validate({"tables": {name: {"exclude": True} for name in ("keyed", "unique_", "named")}})


@contextmanager
def application(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection as the application makes it: with an order of its own."""
    with closing(sqlite3.connect(path)) as file:
        for name in ("ICU", "my own"):
            file.create_collation(name, lambda a, b: ((len(a), a) > (len(b), b)) - ((len(a), a) < (len(b), b)))
        yield file
        file.commit()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with application(tmp_path / "app.db") as file:
        file.execute("PRAGMA journal_mode = wal")
        file.executescript(TABLES)
    return tmp_path / "app.db"


def objects(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        return [name for (name,) in file.execute("SELECT name FROM sqlite_schema ORDER BY name")]


async def test_the_preflight_reads_every_table(connection: Connection, source: Path, tmp_path: Path) -> None:
    settings = load_settings(
        home=tmp_path / "home", application_env=tmp_path / "app.env", alembic_config=tmp_path / "none.ini"
    )
    before = {check.name: check for check in await run_checks(connection, settings, Rules(), source)}
    await connection.execute(TARGETS)
    checks = await run_checks(connection, settings, Rules(), source)
    assert failed(checks) == ()
    found = {check.name: check for check in checks}
    assert found["tables"].measured == "4 tables, every column has its partner"
    assert found["collations"].verdict is Verdict.WARN
    assert found["collations"].measured.endswith(": keyed, unique_, named")
    # The keys of the source are read through, and none of them is taken for another.
    assert found["unique keys"].measured == "no rows collide under 5 keys of the target"
    for estimate in (before, found):
        assert "a sample of 12 rows" in estimate["size in PostgreSQL"].measured


@pytest.mark.parametrize("table", ["keyed", "unique_", "named"])
async def test_a_live_move_of_a_table_that_nobody_else_can_write_to_is_refused(
    connection: Connection, database_url: URL, source: Path, tmp_path: Path, table: str
) -> None:
    rules = Rules.model_validate(
        {"tables": {t: {"exclude": True} for t in ("keyed", "unique_", "named") if t != table}}
    )
    said = (
        rf"^{table} cannot be kept level: a key or index is in the order of a collation that only the application has"
    )
    before = objects(source)
    with pytest.raises(Permanent, match=said) as caught:
        refuse_unwritable(source, rules)
    assert "`python -m flows migrate`" in caught.value.action
    assert objects(source) == before
    refuse_unwritable(source, WITHOUT)
    # The look ahead is passed over by who goes on with a move: then it is refused before a row is loaded.
    await connection.execute(TARGETS)
    with pytest.raises(Permanent, match=said):
        await LiveMove(database_url, source, tmp_path / "home", rules).dual_write()
    assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


async def test_a_column_of_such_a_collation_lives_through_a_live_move(
    connection: Connection, database_url: URL, source: Path, tmp_path: Path
) -> None:
    await connection.execute(TARGETS)
    move = LiveMove(database_url, source, tmp_path / "home", WITHOUT)
    await move.dual_write()
    with application(source) as file:
        file.execute("UPDATE plain SET name = 'c' WHERE name = 'a'")
        file.execute("INSERT INTO plain VALUES (4, 'bb')")
        file.execute("DELETE FROM plain WHERE name = 'B'")
        file.execute("INSERT INTO keyed VALUES ('new', 'is left out')")
    await move.sync()
    assert (await move.validate()).equal
    await move.switch()
    async with move.session() as server:
        await server.execute("UPDATE plain SET name = 'back' WHERE id = 4; DELETE FROM plain WHERE id = 3")
    assert await move.sync_back() == 2
    with application(source) as file:
        assert file.execute("SELECT * FROM plain ORDER BY id").fetchall() == [(1, "c"), (4, "back")]
    assert [tuple(row) for row in await connection.fetch("SELECT * FROM plain ORDER BY id")] == [(1, "c"), (4, "back")]
