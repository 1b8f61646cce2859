"""Columns whose declared type gives their spelling a meaning move to that type, cell for cell, and come back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg
from sqlalchemy.engine import URL

from pgferry.plan.infer import type_sql
from pgferry.plan.model import SchemaPlan
from tests.acceptance.independent import differences
from tests.acceptance.library_move import plan_and_move

Server = asyncpg.Connection

SCRIPT = """
CREATE TABLE reading (
    station INTEGER NOT NULL,
    taken DATETIME NOT NULL,
    synced TIMESTAMP,
    stamped DATETIME,
    mixed DATETIME,
    unclear DATETIME,
    opens TIME DEFAULT '09:30',
    valid BOOLEAN NOT NULL DEFAULT 'Y' CHECK (valid IN ('Y', 'N')),
    shown BOOLEAN,
    extra JSON,
    bare TEXT,
    PRIMARY KEY (station, taken)
);
CREATE INDEX of_valid ON reading (taken) WHERE valid = 'Y';
CREATE VIEW invalid AS SELECT station FROM reading WHERE valid = 'N';
CREATE TABLE parent (at DATETIME PRIMARY KEY);
CREATE TABLE child (id INTEGER PRIMARY KEY, at TEXT REFERENCES parent (at));
INSERT INTO parent VALUES ('2024-01-01 09:00'), ('2024-01-01 09:30');
INSERT INTO child VALUES (1, '2024-01-01 09:00'), (2, NULL);
CREATE TABLE empty (id INTEGER PRIMARY KEY, page XML, kind ENUM, host INET, price MONEY);
INSERT INTO empty (id) VALUES (1);
"""
TYPES = {
    "taken": "timestamp without time zone",
    "synced": "timestamp without time zone",
    "stamped": "timestamp without time zone",
    "mixed": "timestamp without time zone",
    "unclear": "text",
    "opens": "time without time zone",
    "valid": "boolean",
    "shown": "boolean",
    "extra": "jsonb",
    "bare": "text",
}


def made(path: Path) -> Path:
    """Make a file of 300 readings, each column in its own spelling."""
    with closing(sqlite3.connect(path)) as file:
        file.executescript(SCRIPT)
        file.executemany(f"INSERT INTO reading VALUES ({', '.join('?' * 11)})", map(reading, range(300)))
        file.commit()
    return path


def reading(n: int) -> tuple[object, ...]:
    """Return one row."""
    minute = f"2024-02-{n % 28 + 1:02} {n % 24:02}:{n % 60:02}"
    return (
        n,
        minute,
        f"{minute}:07 UTC",
        f"{minute}:07.250+0000",
        (minute, f"{minute}:07", f"{minute}:07.25", minute[:10])[n % 4],
        (minute, f"{minute}:07Z")[n % 2],
        minute[11:],
        "YN"[n % 2],
        ("yes", "no", None)[n % 3],
        ('{"n": 1}', "null", "  [1, 2]", None)[n % 4],
        minute,
    )


async def test_a_declared_type_is_what_the_column_becomes(
    tmp_path: Path, database_url: URL, connection: Server
) -> None:
    source = made(tmp_path / "made.db")
    moved = await plan_and_move(source, database_url, tmp_path / "home", chunk_rows=100)
    assert moved.report.verified
    assert sum(table.quarantined for table in moved.report.tables) == 0
    assert await differences(source, database_url) == []
    assert types_of(moved.plan, "reading") == {"station": "integer", **TYPES}
    assert types_of(moved.plan, "empty") == {
        "id": "bigint", "page": "text", "kind": "text", "host": "text", "price": "numeric",
    }  # fmt: skip
    assert [item.kind for item in moved.plan.not_carried] == []
    assert [(q.column, q.setting) for q in moved.plan.questions] == [("unclear", "timezone")]
    assert await connection.fetchval("SELECT count(*) FROM invalid") == 150
    row = await connection.fetchrow("INSERT INTO reading (station, taken) VALUES (-1, now()) RETURNING opens, valid")
    assert row is not None
    assert (row["opens"].isoformat(), row["valid"]) == ("09:30:00", True)


async def test_a_bare_text_takes_no_looser_spelling_from_the_key_that_it_refers_to(
    tmp_path: Path, database_url: URL
) -> None:
    moved = await plan_and_move(made(tmp_path / "made.db"), database_url, tmp_path / "home")
    assert types_of(moved.plan, "child")["at"] == types_of(moved.plan, "parent")["at"] == "text"
    assert len(moved.plan.table("child").foreign_keys) == 1


def types_of(plan: SchemaPlan, table: str) -> dict[str, str]:
    """Return the planned type of each column."""
    return {column.name: type_sql(column.type) for column in plan.table(table).columns}
