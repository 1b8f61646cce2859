"""What is told before a row moves."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import asyncpg

from pgferry.model import Snapshot
from pgferry.move import prepare
from pgferry.postgres.ledger import begin_run, install
from pgferry.settings import Rules, load_settings
from pgferry.sqlite.snapshot import take


async def _prepared(connection: asyncpg.Connection, snapshot: Snapshot, rules: Rules, home: Path):  # type: ignore[no-untyped-def]
    await install(connection)
    run = await begin_run(connection, snapshot.source, "rules")
    return run, await prepare(connection, run.id, snapshot, load_settings(home=home), rules, "")


async def test_unknown_labels_are_named_before_anything_moves(connection: asyncpg.Connection, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    with sqlite3.connect(file) as source:
        source.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, kind TEXT COLLATE NOCASE)")
        rows = [("BUY",), ("buy",), ("SELL",), ("swap",), ("swap",), (None,)]
        source.executemany("INSERT INTO trades (kind) VALUES (?)", rows)
    source.close()
    await connection.execute("CREATE TYPE kind AS ENUM ('BUY', 'SELL')")
    await connection.execute("CREATE TABLE trades (id bigint PRIMARY KEY, kind kind)")

    _, move = await _prepared(connection, take(file, tmp_path), Rules(), tmp_path)

    assert len(move.notes) == 1
    assert "trades.kind" in move.notes[0]
    assert "'swap' in 2 rows, 'buy' in 1 rows" in move.notes[0]
    assert await connection.fetchval("SELECT count(*) FROM trades") == 0


async def test_the_ledger_keeps_the_names_that_differ(connection: asyncpg.Connection, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    with sqlite3.connect(file) as source:
        source.execute('CREATE TABLE "Items" (id INTEGER PRIMARY KEY, "xmin" TEXT, Name TEXT)')
    source.close()
    await connection.execute('CREATE TABLE items (id bigint PRIMARY KEY, "xmin_" text, "Name" text)')
    rules = Rules.model_validate({"tables": {"Items": {"rename": "items", "columns": {"xmin": {"rename": "xmin_"}}}}})

    run, _ = await _prepared(connection, take(file, tmp_path), rules, tmp_path)

    kept = await connection.fetch(
        "SELECT source_table, source_column, source_name, target_name FROM pgferry.rename WHERE run_id = $1 ORDER BY 2",
        run.id,
    )
    assert [tuple(row) for row in kept] == [("Items", "xmin", "xmin", "xmin_"), ("Items", None, "Items", "items")]
