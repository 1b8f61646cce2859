"""Rows that a rule of the user's own schema refuses: what a person is told, and that the way out is one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.errors import Permanent
from tests.acceptance.independent import differences
from tests.acceptance.moving import Mover

Server = asyncpg.Connection


def people(path: Path) -> Path:
    """Make a file of 100 people, two of whom differ in the case of their name only."""
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, age INTEGER)")
        file.executemany("INSERT INTO people VALUES (?, ?, ?)", [(n, f"name {n}", n) for n in range(1, 99)])
        file.executemany("INSERT INTO people VALUES (?, ?, ?)", [(99, "Anna", -5), (100, "anna", 7)])
        file.commit()
    return path


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("age integer CHECK (age > 0)", r'violates check constraint "people_age_check": Failing row .*99, Anna, -5'),
        ("age positive", r'value for domain positive violates check constraint "positive_check"'),
    ],
)
async def test_a_refused_row_is_named_and_the_move_goes_on_when_the_rule_is_eased(
    tmp_path: Path, database_url: URL, connection: Server, rule: str, named: str
) -> None:
    source = people(tmp_path / "app.db")
    await connection.execute("CREATE DOMAIN positive AS integer CHECK (value > 0)")
    await connection.execute(f"CREATE TABLE people (id integer PRIMARY KEY, name text, {rule})")
    mover = Mover(connection, database_url, source, tmp_path / "home", chunk_rows=30)
    with pytest.raises(Permanent, match=rf"Table 'people', chunk 3: the target refuses the row: .*{named}") as caught:
        await mover.run()
    assert "--restart" in caught.value.action
    assert await connection.fetchval("SELECT count(*) FROM people") == 90

    await connection.execute("ALTER TABLE people DROP CONSTRAINT IF EXISTS people_age_check")
    await connection.execute("ALTER DOMAIN positive DROP CONSTRAINT positive_check")
    report = await mover.run()
    assert report.complete
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
