"""What the preflight finds in the rows themselves: values too long, rows too wide, keys that collide."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pgferry.operate import size_checks, source_checks, target_checks
from pgferry.operate.check import Check, Verdict
from pgferry.operate.target_checks import Paired
from pgferry.postgres.connection import Connection
from pgferry.settings import Rules
from pgferry.sqlite.sizes import utf8_octets

RULES = Rules()
NO_TABLES = Paired()


def made(
    path: Path, script: str, rows: dict[str, Iterable[Sequence[Any]]] | None = None, encoding: str = "UTF-8"
) -> Path:
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA encoding = '{encoding}'")
        file.executescript(script)
        for table, values in (rows or {}).items():
            for row in values:
                file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        file.commit()
    return path


# ---------------------------------------------------------------- long values

TABLES = """
CREATE TABLE t (id INTEGER PRIMARY KEY, txt TEXT, raw BLOB, doc TEXT);
CREATE TABLE "odd one" (k TEXT PRIMARY KEY, v) WITHOUT ROWID;
"""
VALUES: dict[str, list[list[Any]]] = {
    "t": [[1, "x", b"", "{}"], [2, "é" * 600, b"\x00" * 900, "[]"], [3, None, b"y" * 1100, '"' + "d" * 700 + '"']],
    '"odd one"': [["a", 1], ["b", "\x00" * 1000 + "z"]],
}


def long_values(path: Path, monkeypatch: pytest.MonkeyPatch, paired: Paired = NO_TABLES, **limits: int) -> Check:
    for name, limit in limits.items():
        monkeypatch.setattr(size_checks, name, limit)
    return size_checks.check_long_values(path, source_checks.read_facts(path), paired, RULES)


def test_a_small_file_holds_no_long_value_and_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "t.db", TABLES, VALUES)
    monkeypatch.setattr(size_checks, "reading", None)
    found = long_values(path, monkeypatch)
    assert (found.verdict, "none can be: the file holds 0.0 MB" in found.measured) == (Verdict.PASS, True)


def test_long_values_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "t.db", TABLES, VALUES)
    assert long_values(path, monkeypatch, LARGE_BYTES=2000).verdict is Verdict.PASS
    found = long_values(path, monkeypatch, LARGE_BYTES=1001)
    assert (found.verdict, found.measured) == (
        Verdict.WARN,
        "t.txt of id=2 (1,200 bytes), t.raw of id=3 (1,100 bytes), odd one.v of k='b' (1,001 bytes)",
    )
    assert "MB" in found.advice


def test_values_and_rows_that_no_server_takes_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "t.db", TABLES, VALUES)
    found = long_values(path, monkeypatch, LARGE_BYTES=1001, MOST_BYTES=1150)
    assert (found.verdict, found.measured) == (
        Verdict.FAIL,
        "PostgreSQL holds 1 GB in a value and in a row: t.txt of id=2 (1,200 bytes)",
    )
    found = long_values(path, monkeypatch, LARGE_BYTES=1001, MOST_BYTES=1500)
    assert found.measured == "PostgreSQL holds 1 GB in a value and in a row: a row of t of id=2 (2,102 bytes)"


async def test_jsonb_holds_less(connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "t.db", TABLES, VALUES)
    await connection.execute("CREATE TABLE t (id bigint, txt text, raw bytea, doc jsonb)")
    await connection.execute('CREATE TABLE "odd one" (k text, v text)')
    paired = await target_checks.pair(connection, path, RULES)
    found = long_values(path, monkeypatch, paired, LARGE_BYTES=500, MOST_JSONB=600)
    assert (found.verdict, found.measured) == (
        Verdict.WARN,
        "jsonb holds 256 MB in a string, an array or an object: t.doc of id=3 (702 bytes)",
    )


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_texts_grow_on_their_way_out_of_utf_16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    texts = ["a" * 1400, "日" * 900, "😀" * 600, "é" * 1200]
    path = made(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", {"t": list(enumerate(texts))}, encoding
    )
    found = long_values(path, monkeypatch, LARGE_BYTES=2500, MOST_BYTES=2600)
    assert found.measured.endswith("t.v of id=1 (2,700 bytes)")
    assert long_values(path, monkeypatch, LARGE_BYTES=2701, MOST_BYTES=9000).verdict is Verdict.PASS
    for text in (*texts, "", "\x00\ud7ff\ue000\uffff"):
        assert utf8_octets(text.encode(encoding), encoding.lower()) == len(text.encode())


# ---------------------------------------------------------------- wide rows


async def test_rows_that_fit_on_no_page_are_named(connection: Connection, tmp_path: Path) -> None:
    columns = [f"c{n}" for n in range(1100)]
    script = f"CREATE TABLE wide (k TEXT, {', '.join(f'{name} REAL' for name in columns)}); CREATE TABLE t (a)"
    rows = [[f"row {n}", *([0.5] * (1000 + 20 * n)), *([None] * (100 - 20 * n))] for n in range(4)]
    path = made(tmp_path / "wide.db", script, {"wide": rows})

    found = size_checks.check_wide_rows(path, Paired(), RULES)
    expected = "3 rows of wide, the widest rowid=4 with 8,510 bytes or more"
    assert (found.verdict, expected in found.measured) == (Verdict.WARN, True), found
    await connection.execute(f"CREATE TABLE wide (k text, {', '.join(f'{name} real' for name in columns)})")
    await connection.execute("CREATE TABLE t (a text)")
    paired = await target_checks.pair(connection, path, RULES)
    assert size_checks.check_wide_rows(path, paired, RULES).verdict is Verdict.PASS


def test_more_columns_than_a_table_has_fail(tmp_path: Path) -> None:
    path = made(tmp_path / "wide.db", f"CREATE TABLE wide ({', '.join(f'c{n}' for n in range(1601))})")
    found = size_checks.check_wide_rows(path, Paired(), RULES)
    assert (found.verdict, "1,600 columns" in found.measured) == (Verdict.FAIL, True)
    without = Rules.model_validate({"tables": {"wide": {"columns": {"c7": {"exclude": True}}}}})
    assert size_checks.check_wide_rows(path, Paired(), without).verdict is Verdict.PASS
