"""A key that was read finds its row again, whatever it holds and whichever encoding the file has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pgferry.model import Chunk
from pgferry.sqlite.catalog import read_catalog
from pgferry.sqlite.chunks import count_rows, plan_chunks, range_condition, sample_table
from pgferry.sqlite.connect import open_read_only

HALVES = {"UTF-8": ("ff41", "c328"), "UTF-16le": ("3dd8", "4100"), "UTF-16be": ("d83d", "0041")}


def made(path: Path, encoding: str, script: str) -> Path:
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA encoding = '{encoding}'")
        file.executescript(script)
    return path


@pytest.mark.parametrize("encoding", HALVES)
@pytest.mark.parametrize("declared", ["TEXT", "INTEGER", ""])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_chunks_with_undecodable_bounds_hold_their_rows(
    tmp_path: Path, encoding: str, declared: str, rows: int
) -> None:
    keys = [f"CAST(x'{text}' AS TEXT)" for text in HALVES[encoding]] + ["'a'", "'z'", "5", "x'ff'", "2.5"]
    values = ", ".join(f"({key})" for key in keys)
    script = f"CREATE TABLE t (k {declared} PRIMARY KEY) WITHOUT ROWID; INSERT INTO t VALUES {values}"
    with closing(open_read_only(made(tmp_path / "a.db", encoding, script))) as file:
        table = read_catalog(file).table("t")
        chunks = plan_chunks(file, table, sample_table(file, table), rows=rows, size=10**9)
        found = [read(file, chunk) for chunk in chunks]
        assert [len(part) for part in found] == [chunk.rows for chunk in chunks]
        everything = file.execute("SELECT k FROM t ORDER BY k").fetchall()
    assert [row for part in found for row in part] == everything
    assert len(chunks) == -(-len(keys) // rows)


def read(file: sqlite3.Connection, chunk: Chunk) -> list[tuple[object, ...]]:
    where, values = range_condition(read_catalog(file).table("t"), chunk)
    return file.execute(f"SELECT k FROM t WHERE {where} ORDER BY k", values).fetchall()


def test_a_key_with_nulls_and_no_rowid_to_name_is_one_chunk(tmp_path: Path) -> None:
    script = "CREATE TABLE t (k TEXT PRIMARY KEY, rowid, _rowid_, oid);"
    script += "".join(f"INSERT INTO t VALUES ({value}, 1, 2, 3);" for value in ("NULL", "NULL", "'a'", "'b'", "'c'"))
    with closing(open_read_only(made(tmp_path / "a.db", "UTF-8", script))) as file:
        table = read_catalog(file).table("t")
        assert plan_chunks(file, table, sample_table(file, table), rows=2, size=10**9) == (Chunk("t", 0, 5),)
        assert count_rows(file, table) == 5
