"""The workload does what it says: the tests of the live move stand on it."""

from __future__ import annotations

import shutil
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import URL

from tests.acceptance import workload_sqlite
from tests.acceptance.workload import Workload, equal
from tests.acceptance.workload_postgres import Database
from tests.acceptance.workload_schema import POSTGRES, TABLES, Chance, create_sqlite, insert, misshapen, stored


def workload(folder: Path, **given: Any) -> Workload:
    """Make a workload on `folder`/app.db."""
    name(folder, f"sqlite+aiosqlite:///{folder / 'app.db'}")
    return Workload(folder / "load", folder / ".env", seed=3, writers=2, **given)


def name(folder: Path, url: str) -> None:
    """Write the application's .env."""
    (folder / ".env").write_text(f"# of the application\nDATABASE_URL={url}\n")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The application's file, to be copied."""
    path = tmp_path_factory.mktemp("filled") / "app.db"
    create_sqlite(path)
    return path


@pytest.fixture
def file(tmp_path: Path, filled: Path) -> Iterator[sqlite3.Connection]:
    """The application's file, open as the application opens it."""
    shutil.copy(filled, tmp_path / "app.db")
    with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


@pytest.mark.parametrize("wal", [True, False], ids=["WAL", "rollback journal"])
def test_what_is_acknowledged_is_there_and_what_is_rolled_back_is_not(tmp_path: Path, wal: bool) -> None:
    create_sqlite(tmp_path / "app.db", wal=wal)
    with workload(tmp_path, rate=600) as load:
        load.start()
        load.run_until(400)
        load.pause()
        assert load.errors == []
        assert load.lost(tmp_path / "app.db") == []
        assert misshapen(tmp_path / "app.db") == []
        tokens = load.acknowledged()
        assert len(tokens) >= 400
        assert load.rolled_back()
        assert len(load.operations()) > 30
        time.sleep(0.1)
        assert load.acknowledged() == tokens
        load.resume()
        load.run_until(50)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal" if wal else "delete",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("operation", workload_sqlite.OPERATIONS)
def test_every_operation_writes(file: sqlite3.Connection, operation: str) -> None:
    chance, before = Chance(f"{operation} 1"), file.total_changes
    for _ in range(25):
        file.execute("BEGIN")
        try:
            workload_sqlite.work(file, operation, chance)
            file.execute("COMMIT")
        except workload_sqlite.RolledBack:
            if file.in_transaction:
                file.execute("ROLLBACK")
        except sqlite3.IntegrityError as error:
            file.execute("ROLLBACK")
            assert str(error).startswith("UNIQUE constraint failed")
    assert file.total_changes > before + 10


@pytest.mark.parametrize("index", ["id", "handle", "region", "nick", "email", "slot"])
def test_replace_displaces_a_row_through_each_unique_index(file: sqlite3.Connection, index: str) -> None:
    displaced = 0
    for number in range(40):
        before = set(file.execute("SELECT id, uid FROM accounts"))
        workload_sqlite.work(file, f"replace_by_{index}", Chance(f"{index} {number}"))
        displaced += len(before - set(file.execute("SELECT id, uid FROM accounts")))
    assert displaced > 10


def test_values_have_the_forms_of_sqlalchemy(tmp_path: Path) -> None:
    values = {
        "at": datetime(2024, 2, 29, 12),
        "day": date(2024, 2, 29),
        "hour": clock(7, 30),
        "price": Decimal("12.50"),
        "on": True,
        "uid": UUID(int=7),
        "data": {"é": [1.5, None]},
        "real": 0.1,
    }
    types = (sa.DateTime, sa.Date, sa.Time, sa.Numeric(12, 2), sa.Boolean, sa.Uuid, sa.JSON, sa.Float)
    table = sa.Table("t", sa.MetaData(), *(sa.Column(n, t) for n, t in zip(values, types, strict=True)))
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'forms.db'}")
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [values])
    engine.dispose()
    with closing(sqlite3.connect(tmp_path / "forms.db")) as connection:
        (row,) = connection.execute("SELECT * FROM t").fetchall()
    assert row == tuple(stored(value) for value in values.values())


def test_a_restart_takes_the_database_that_the_env_file_names(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "app.db")
    create_sqlite(tmp_path / "other.db")
    with workload(tmp_path) as load:
        load.start()
        load.run_until(20)
        name(tmp_path, f"sqlite:///{tmp_path / 'other.db'}")
        load.restart()
        first = count(tmp_path / "app.db")
        load.run_until(20)
        load.pause()
        assert first > 0
        assert count(tmp_path / "app.db") == first
        assert count(tmp_path / "other.db") >= 20
        assert urllib.request.urlopen(load.health_url).status == 200
        name(tmp_path, f"sqlite:///{tmp_path / 'missing.db'}")
        (tmp_path / "load" / "restart").touch()
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(load.health_url)


def test_a_fence_is_counted_and_nothing_behind_it_is_acknowledged(tmp_path: Path, file: sqlite3.Connection) -> None:
    with workload(tmp_path) as load:
        load.start()
        load.run_until(20)
        file.execute(
            "CREATE TRIGGER fence BEFORE INSERT ON acknowledged BEGIN SELECT raise(ABORT, 'pgferry: moving'); END"
        )
        fenced = file.execute("SELECT count(*) FROM acknowledged").fetchone()
        deadline = time.monotonic() + 20
        while min(state.fenced for state in load.states()) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert file.execute("SELECT count(*) FROM acknowledged").fetchone() == fenced
        file.execute("DROP TRIGGER fence")
        load.run_until(20)
        load.pause()
        assert len(load.freezes) == 2
        assert all(0 < seconds < 20 for seconds in load.freezes)
        assert load.errors == []
        assert load.lost(tmp_path / "app.db") == []


def test_what_is_lost_or_out_of_nowhere_is_found(tmp_path: Path, file: sqlite3.Connection) -> None:
    with workload(tmp_path) as load:
        load.start()
        load.run_until(20)
    token = min(load.acknowledged())
    (tmp_path / "load" / "rolled-back-0").write_text("undone\n")
    file.execute("DELETE FROM acknowledged WHERE token = ?", (token,))
    file.execute("INSERT INTO acknowledged VALUES ('undone', 0, 0, NULL), ('strange', 0, 0, NULL)")
    assert load.lost(tmp_path / "app.db") == [
        f"acknowledged, but not there: {token}",
        "rolled back, but there: undone",
        "never acknowledged, but there: strange",
    ]


def test_unexpected_errors_are_told(tmp_path: Path, file: sqlite3.Connection) -> None:
    with workload(tmp_path) as load:
        load.start()
        file.execute("DROP TABLE seats")
        deadline = time.monotonic() + 20
        while not load.errors:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert "no such table: main.seats" in load.errors[0] or "no such table: seats" in load.errors[0]


def test_a_writer_that_is_killed_leaves_no_lie(tmp_path: Path) -> None:
    create_sqlite(tmp_path / "app.db")
    with workload(tmp_path) as load:
        load.start()
        load.run_until(20)
        load.kill_writer(0)
        load.run_until(20)
        load.pause()
        lines = load.lost(tmp_path / "app.db")
    # The one transaction whose commit returned to nobody.
    assert len(lines) <= 1
    assert all(line.startswith("never acknowledged") for line in lines)


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        found: int = connection.execute("SELECT count(*) FROM acknowledged").fetchone()[0]
        return found


# ---------------------------------------------------------------- PostgreSQL


@pytest.fixture
async def application(database_url: URL) -> Any:
    """The application's schema on PostgreSQL, empty."""
    connection = await asyncpg.connect(database_url.set(drivername="postgresql").render_as_string(hide_password=False))
    for statement in POSTGRES:
        await connection.execute(statement)
    yield connection
    await connection.close()


async def fill_both(path: Path, application: Any) -> None:
    """Give both sides the same accounts, products and events."""
    create_sqlite(path, accounts=0, triggers=False)
    with closing(sqlite3.connect(path)) as file, file:
        for table in TABLES:
            file.execute(f"DELETE FROM {table}")
        chance = Chance(1)
        for number in range(60):
            account = {**chance.account(), "id": number, "handle": f"h{number}", "nick": f"n{number}", "number": number}
            account |= {"email": None, "slot": None}
            product = {**chance.product(), "sku": f"s{number}", "position": number}
            for table, values in (("accounts", account), ("products", product), ("events", chance.event())):
                insert(file, table, values)
                await Database(application).insert(table, values)


async def test_equal_sides_are_equal_and_planted_differences_are_told(
    tmp_path: Path, application: Any, database_url: URL
) -> None:
    path = tmp_path / "app.db"
    await fill_both(path, application)
    await application.execute("CREATE SCHEMA pgferry CREATE TABLE runs (id int); CREATE TABLE _pgferry_x (i int)")
    await application.execute("ALTER TABLE events ADD COLUMN _pgferry_rowid bigint")
    assert equal(path, database_url) == []

    await application.execute("UPDATE accounts SET balance = 0.25 WHERE id = 3")
    await application.execute("DELETE FROM accounts WHERE id = 4")
    await application.execute(
        "UPDATE products SET title = CASE sku WHEN 's1' THEN 'two' ELSE 'one' END WHERE sku IN ('s1', 's2')"
    )
    await application.execute("INSERT INTO products (sku, title, stock, shelf, position) VALUES ('new', '', 0, 'Z', 1)")
    await application.execute("DELETE FROM events WHERE ctid = (SELECT min(ctid) FROM events)")
    found = equal(path, database_url)
    starts = (
        "accounts (id) = (3,): balance is ",
        "accounts (id) = (4,): only in SQLite",
        "events: 1 times only in SQLite: ",
        "products (sku) = ('new',): only in PostgreSQL",
        "products (sku) = ('s1',): title is ",
        "products (sku) = ('s2',): title is ",
    )
    assert len(found) == len(starts)
    assert all(line.startswith(start) for line, start in zip(found, starts, strict=True))


def test_a_value_in_another_form_than_the_applications_is_found(tmp_path: Path, file: sqlite3.Connection) -> None:
    file.execute("UPDATE accounts SET created_at = '2024-01-01T00:00:00', preferences = ? WHERE id = 1", ('{"a":1}',))
    assert misshapen(tmp_path / "app.db") == [
        "accounts.preferences: '{\"a\":1}'",
        "accounts.created_at: '2024-01-01T00:00:00'",
    ]


@pytest.mark.usefixtures("application")
def test_the_application_works_on_postgresql(tmp_path: Path, database_url: URL) -> None:
    with workload(tmp_path, rate=600) as load:
        name(tmp_path, database_url.render_as_string(hide_password=False))
        load.start()
        load.run_until(400)
        load.pause()
        assert {state.backend for state in load.states()} == {"postgresql"}
        assert load.errors == []
        assert load.lost_in(database_url) == []
        assert len(load.operations()) > 18
