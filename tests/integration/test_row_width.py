"""Rows that are too wide for a page: told before, kept aside by name, and never one that the server would take."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow as pa
import pytest
from sqlalchemy.engine import URL

from pgferry.convert.mixed import convert_values
from pgferry.convert.row_width import PAGE_ROOM, widths
from pgferry.model import TablePair
from pgferry.pairing import pair_tables
from pgferry.postgres.catalog import read_tables
from pgferry.postgres.connection import Connection
from pgferry.postgres.load import copy_rows
from pgferry.settings import Rules
from pgferry.sqlite.catalog import read_catalog
from tests.acceptance.corpus_compare import compare
from tests.acceptance.library_move import plan_and_move

KINDS = {
    "smallint": "INTEGER", "integer": "INTEGER", "bigint": "INTEGER", "double precision": "REAL", "boolean": "INTEGER",
    "text": "TEXT", "numeric": "TEXT", "numeric(12,2)": "NUMERIC", "date": "TEXT", "timestamp": "TEXT", "uuid": "TEXT",
    "bytea": "BLOB", "interval": "TEXT", "char(40)": "TEXT", "varchar(50)": "TEXT", "json": "TEXT", "jsonb": "TEXT",
    "int[]": "TEXT",
}  # fmt: skip

VARYING = {"jsonb", "json", "int[]", "bytea", "text", "char(40)", "varchar(50)", "numeric", "numeric(12,2)"}


def value(kind: str, chance: random.Random) -> Any:
    """Return a value of SQLite that the type takes."""
    text = "".join(chance.choices("abcdefghé ", k=chance.choice([0, 3, 19, 20, 21, 24, 25, 31, 32, 33, 40])))
    document = chance.choice(["{}", "1", '"x"', '{"a": [1, 2, 3.25, "four"]}', "[" + "7," * 90 + "7]"])
    return {
        **dict.fromkeys(["smallint", "integer", "bigint"], chance.randint(-9, 9)),
        **dict.fromkeys(["text", "varchar(50)", "char(40)"], text),
        **dict.fromkeys(["json", "jsonb"], document),
        "double precision": chance.random(),
        "boolean": chance.randint(0, 1),
        "numeric": chance.choice(["0", "1.5", "-12345678.9012", "1e-20", "9" * 38 + "." + "1" * 30, "1e40"]),
        "numeric(12,2)": chance.randint(-(10**9), 10**9) / 100,
        "bytea": chance.choice([chance.randbytes(chance.randint(0, 60)), b"a" * chance.randint(0, 600)]),
        "date": "2024-02-29",
        "timestamp": "2024-02-29 12:00:00.25",
        "uuid": "0a0b0c0d-0000-4000-8000-00000000000f",
        "interval": "1 day",
        "int[]": chance.choice(["[]", "[1, 2]", "[" + "5," * 40 + "5]"]),
    }[kind]


async def paired(connection: Connection, path: Path, kinds: list[str]) -> TablePair:
    names = [f"c{n}" for n in range(len(kinds))]
    with closing(sqlite3.connect(path)) as file:
        file.execute(
            f"CREATE TABLE t ({', '.join(f'{name} {KINDS[k]}' for name, k in zip(names, kinds, strict=True))})"
        )
        await connection.execute("DROP TABLE IF EXISTS t")
        # The target has its columns in another order, and one that nothing fills.
        columns = [f"{name} {kind}" for name, kind in zip(names, kinds, strict=True)]
        await connection.execute(f"CREATE TABLE t ({', '.join(['other text', *reversed(columns)])})")
        (pair,) = pair_tables(read_catalog(file), await read_tables(connection), Rules()).pairs
    return pair


async def taken(connection: Connection, pair: TablePair, batch: pa.RecordBatch) -> str:
    """Return what the server says to one row; nothing when it takes it. The row does not stay."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await copy_rows(connection, pair, [batch], 1)
    except asyncpg.ProgramLimitExceededError as error:
        return str(error)
    finally:
        await transaction.rollback()
    return ""


@pytest.mark.parametrize("seed", range(4))
async def test_no_row_is_kept_aside_that_the_server_takes(connection: Connection, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    # Of one kind, of a few, of all: each kind is near the limit in some table.
    pool = chance.sample(sorted(KINDS), chance.choice([1, 2, 4])) if seed else sorted(KINDS)
    kinds = [chance.choice(pool) for _ in range(1590)]
    pair = await paired(connection, tmp_path / "t.db", kinds)
    tries = [(5000, 0.1), *((chance.randint(300, 1590), chance.choice([0, 0, 0.3])) for _ in range(12))]
    rows = [
        [value(kind, chance) if n < filled and chance.random() >= nulls else None for n, kind in enumerate(kinds)]
        for filled, nulls in tries
    ]
    columns = [
        convert_values(values, c.target.type, c.rule)[0]
        for c, values in zip(pair.columns, zip(*rows, strict=True), strict=True)
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=[c.target.name for c in pair.columns])
    found = widths(pair, columns)
    judged = [False] * len(rows) if found is None else (found.places >= 0).tolist()
    exact = not VARYING & set(pool)
    for number, wide in enumerate(judged):
        said = await taken(connection, pair, batch.slice(number, 1))
        if wide:
            assert said.startswith("row is too big"), (pool, tries[number])
        if said and exact:
            assert wide, (pool, tries[number], said)
            assert found is not None
            assert f"size {found.bytes[number]}, maximum size {PAGE_ROOM}" in said


async def test_rows_that_fit_on_no_page_are_kept_aside(database_url: URL, tmp_path: Path) -> None:
    source = tmp_path / "wide.db"
    with closing(sqlite3.connect(source)) as file:
        file.execute(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(f'c{n} REAL' for n in range(1200))})")
        for row in range(40):
            values = [row + n / 8 if row % 4 or n < 900 else None for n in range(1200)]
            file.execute(f"INSERT INTO wide VALUES (?{', ?' * 1200})", [row, *values])
        file.commit()
    moved = await plan_and_move(source, database_url, tmp_path / "home", chunk_rows=16)
    (table,) = moved.report.tables
    assert (table.source_rows, table.loaded, table.quarantined) == (40, 10, 30)
    assert moved.report.verified
    compared = (await compare(source, database_url))["wide"]
    assert compared.wrong == ()
    assert all("c1016: the row takes 9,632 bytes or more" in reason for reason in compared.reasons), compared.reasons
    # It is said before a row moves, too: in the plan, and by the move.
    ((kind, rows),) = [(item.kind, item.name) for item in moved.plan.not_carried]
    assert (kind, rows) == ("rows", "30 rows of wide, the widest id=1 with 9,632 bytes or more")
    assert [note for note in moved.report.notes if "will be quarantined" in note] == [
        f"{rows}, will be quarantined: a row must fit on a page of PostgreSQL, which has room for 8,160 bytes"
    ]
