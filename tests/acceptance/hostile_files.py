"""Moves a file that is made on the spot, and compares every cell by another reading of the rules."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy.engine import URL

from pgferry.plan.model import SchemaPlan
from tests.acceptance.corpus_compare import TableOutcome, compare
from tests.acceptance.library_move import plan_and_move

Server = asyncpg.Connection
Rows = Iterable[Sequence[Any]]
Move = Callable[..., Awaitable[tuple[dict[str, TableOutcome], SchemaPlan]]]


def made(path: Path, script: str, rows: dict[str, Rows] | None = None, encoding: str = "UTF-8") -> Path:
    """Make a file by a script and the rows of its tables."""
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA encoding = '{encoding}'")
        file.executescript(script)
        for table, values in (rows or {}).items():
            for row in values:
                file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        file.commit()
    return path


@pytest.fixture
def move(tmp_path: Path, database_url: URL) -> Move:
    """Plan and move a file that is made here; every row is accounted for and no cell is changed, or the test fails."""

    async def run(
        script: str, rows: dict[str, Rows] | None = None, encoding: str = "UTF-8", chunk_rows: int = 5000
    ) -> tuple[dict[str, TableOutcome], SchemaPlan]:
        source = made(tmp_path / "made.db", script, rows, encoding)
        moved = await plan_and_move(source, database_url, tmp_path / "home", chunk_rows=chunk_rows)
        found = await compare(source, database_url)
        assert [text for table in found.values() for text in table.wrong] == []
        assert all(table.closed for table in found.values())
        assert moved.report.verified
        told = {table.table: (table.source_rows, table.loaded, table.quarantined) for table in moved.report.tables}
        assert told == {table.table: (table.rows, table.loaded, table.quarantined) for table in found.values()}
        return found, moved.plan

    return run


def kept(found: dict[str, TableOutcome]) -> dict[str, tuple[str, ...]]:
    """Return the reasons of what is in quarantine, by table."""
    return {name: table.reasons for name, table in found.items() if table.reasons}


def types(plan: SchemaPlan, table: str) -> dict[str, str]:
    """Return the planned types of a table's columns."""
    return {column.source.name: column.type.kind.value for column in plan.table(table).columns}
