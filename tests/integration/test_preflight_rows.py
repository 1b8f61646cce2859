"""What the preflight finds in the rows themselves: values too long, rows too wide, keys that collide."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import URL

from pgferry.collisions import find_collisions
from pgferry.errors import Permanent
from pgferry.operate import key_checks, size_checks, source_checks, target_checks
from pgferry.operate.check import Check, Verdict
from pgferry.operate.target_checks import Paired
from pgferry.postgres.catalog import read_unique_keys
from pgferry.postgres.connection import Connection
from pgferry.postgres.runs import open_run
from pgferry.settings import Rules
from pgferry.sqlite.connect import reading
from pgferry.sqlite.sizes import utf8_octets
from tests.acceptance.hostile_files import made
from tests.acceptance.moving import Mover

RULES = Rules()
NO_TABLES = Paired()


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


# ---------------------------------------------------------------- unique keys

Rows = list[list[Any]]

COLLISIONS: dict[str, tuple[str, str, Rows, str]] = {
    "a key that only the target has": (
        "a TEXT",
        "a text UNIQUE",
        [["x"], ["y"], ["x"], [None], [None]],
        "2 rows of t under t_a_key: id=1 (a='x') and id=3 (a='x')",
    ),
    "of several columns": (
        "a TEXT, b INTEGER, UNIQUE (a, b)",
        "a text, b integer, UNIQUE (b)",
        [["x", 1], ["y", 1], ["y", 2]],
        "2 rows of t under t_b_key: id=1 (b=1) and id=2 (b=1)",
    ),
    "the case of letters": (
        "a TEXT UNIQUE",
        "a varchar(9); CREATE UNIQUE INDEX low ON t (lower(a))",
        [["Ann"], ["ann"], ["Änn"], ["änn"]],
        "2 rows of t under low: id=1 (a='Ann') and id=2 (a='ann')",
    ),
    "classes": (
        "a UNIQUE",
        "a integer UNIQUE",
        [[1], ["1"], [2], ["3"]],
        "2 rows of t under t_a_key: id=1 (a=1) and id=2 (a='1')",
    ),
    "numbers in text": (
        "a UNIQUE",
        "a text UNIQUE",
        [[1], ["1"], [1.5], ["2"]],
        "2 rows of t under t_a_key: id=1 (a=1) and id=2 (a='1')",
    ),
    "booleans": (
        "a TEXT UNIQUE",
        "a boolean UNIQUE",
        [["yes"], ["no"], ["true"], ["what"]],
        "2 rows of t under t_a_key: id=1 (a='yes') and id=3 (a='true')",
    ),
    "moments": (
        "a TEXT UNIQUE",
        "a timestamp UNIQUE",
        [["2024-01-02 03:04:05"], ["2024-01-02T03:04:05.000"], ["2024-01-03"]],
        "2 rows of t under t_a_key: id=1 (a='2024-01-02 03:04:05') and id=2 (a='2024-01-02T03:04:05.000')",
    ),
    "numerics": (
        "a TEXT UNIQUE",
        "a numeric UNIQUE",
        [["1"], ["1.00"], ["1e1"]],
        "2 rows of t under t_a_key: id=1 (a='1') and id=2 (a='1.00')",
    ),
    "blanks at the end": (
        "a TEXT UNIQUE",
        "a char(5) UNIQUE",
        [["x"], ["x "], [" x"]],
        "2 rows of t under t_a_key: id=1 (a='x') and id=2 (a='x ')",
    ),
    "uuids": (
        "a TEXT UNIQUE",
        "a uuid UNIQUE",
        [["0A0B0C0D-0000-4000-8000-00000000000F"], ["0a0b0c0d00004000800000000000000f"]],
        "2 rows of t under t_a_key: id=1 (a='0A0B0C0D-0000-4000-8000-00000000000F')"
        " and id=2 (a='0a0b0c0d00004000800000000000000f')",
    ),
}

APART: dict[str, tuple[str, str, Rows]] = {
    "the source has the key": ("a TEXT UNIQUE, b INTEGER", "a text UNIQUE, b integer", [["x", 1], ["X", 1], [None, 1]]),
    "of fewer columns": ("a TEXT UNIQUE, b INTEGER", "a text, b integer, UNIQUE (a, b)", [["x", 1], ["y", 1]]),
    "by a coarser collation": ("a TEXT COLLATE NOCASE UNIQUE", "a text UNIQUE", [["x"], ["y"]]),
    "folded on both sides": ("a TEXT COLLATE NOCASE UNIQUE", "a text; CREATE UNIQUE INDEX l ON t (lower(a))", [["x"]]),
    "without the source's key": (
        "a REAL, b BLOB",
        "a double precision UNIQUE, b bytea UNIQUE",
        [[0.5, b"a"], [1, b"b"]],
    ),
    "equal only where both are quarantined": ("a TEXT, b", "a text UNIQUE, b text", [["x\x00", 1], ["x\x00", 1]]),
    "the other of the two is quarantined": ("a TEXT, b", "a text UNIQUE, b integer", [["x", 1], ["x", "no"]]),
    "classes that stay apart": ("a UNIQUE", "a bytea UNIQUE", [[b"1"], ["1x"], [b"1x2"]]),
}


async def prepared(connection: Connection, tmp_path: Path, columns: str, target: str, rows: Rows) -> Path:
    first, *others = target.split(";")
    await connection.execute(f"CREATE TABLE t (id bigint PRIMARY KEY, {first})")
    for statement in others:
        await connection.execute(statement)
    numbered = [[n, *row] for n, row in enumerate(rows, 1)]
    return made(tmp_path / "keys.db", f"CREATE TABLE t (id INTEGER PRIMARY KEY, {columns})", {"t": numbered})


async def unique_keys(connection: Connection, path: Path) -> Check:
    return await key_checks.check_unique_keys(connection, path, await target_checks.pair(connection, path, RULES))


@pytest.mark.parametrize("case", COLLISIONS)
async def test_rows_that_collide_are_named(
    connection: Connection, database_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    columns, target, rows, expected = COLLISIONS[case]
    path = await prepared(connection, tmp_path, columns, target, rows)
    found = await unique_keys(connection, path)
    assert (found.verdict is not Verdict.PASS, found.measured) == (True, expected)
    # And so it is: the server takes no second one.
    monkeypatch.setattr("pgferry.move.find_collisions", lambda *given, **named: ())
    with pytest.raises(Permanent, match=r"already exists|is duplicated"):
        await Mover(connection, database_url, path, tmp_path / "home").run()


@pytest.mark.parametrize("case", APART)
async def test_rows_that_stay_apart_are_not(
    connection: Connection, database_url: URL, tmp_path: Path, case: str
) -> None:
    columns, target, rows = APART[case]
    path = await prepared(connection, tmp_path, columns, target, rows)
    found = await unique_keys(connection, path)
    assert (found.verdict, "under 2 keys" in found.measured or "under 3 keys" in found.measured) == (Verdict.PASS, True)
    assert (await Mover(connection, database_url, path, tmp_path / "home").run()).verified


async def test_a_source_s_own_key_is_proof_and_nothing_is_read(connection: Connection, tmp_path: Path) -> None:
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT); CREATE UNIQUE INDEX u ON t (b, a)"
    path = made(tmp_path / "t.db", script, {"t": [[1, "x", "y"]]})
    await connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, a text, b text, UNIQUE (a, b))")
    paired = await target_checks.pair(connection, path, RULES)
    keys = await read_unique_keys(connection, paired.oids)
    said: list[str] = []
    with reading(path) as source:
        source.set_trace_callback(said.append)
        assert list(find_collisions(source, paired.pairs, keys, thorough=False)) == []
    assert said == []


async def test_keys_that_are_not_looked_at_are_named(connection: Connection, tmp_path: Path) -> None:
    path = made(tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)", {"t": [[1, "x"], [2, "x"]]})
    await connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, a text, n uuid UNIQUE DEFAULT gen_random_uuid())")
    await connection.execute("CREATE UNIQUE INDEX part ON t (a) WHERE id > 1")
    await connection.execute("CREATE UNIQUE INDEX half ON t ((id / 2), a)")
    found = await unique_keys(connection, path)
    assert (found.verdict, found.measured) == (
        Verdict.PASS,
        "no rows collide under 1 keys of the target; found only when they are built: collisions under half of t (it is"
        " of the expression (id / 2)), part of t (it is of some rows only), t_n_key of t (its column n is filled by the"
        " target)",
    )


async def test_null_may_equal_null(connection: Connection, tmp_path: Path) -> None:
    if connection.get_server_version().major < 15:
        pytest.skip("NULLS NOT DISTINCT is PostgreSQL 15's")
    path = made(
        tmp_path / "t.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER UNIQUE)", {"t": [[1, None], [2, None]]}
    )
    await connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, a integer UNIQUE NULLS NOT DISTINCT)")
    found = await unique_keys(connection, path)
    assert (found.verdict, found.measured) == (
        Verdict.FAIL, "2 rows of t under t_a_key: id=1 (a=None) and id=2 (a=None)"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("a text UNIQUE", "2 rows of t under t_a_key: id=1 (a='x') and id=3 (a='x')"),
        ("a text; CREATE UNIQUE INDEX l ON t (lower(a))", ""),
    ],
)
async def test_a_move_stops_before_a_row_is_written(
    connection: Connection, database_url: URL, tmp_path: Path, key: str, told: str
) -> None:
    path = await prepared(connection, tmp_path, "a TEXT", key, [["x"], ["X"], ["x" if told else "y"]])
    mover = Mover(connection, database_url, path, tmp_path / "home")
    if told:
        with pytest.raises(Permanent, match=re.escape(told)) as caught:
            await mover.load()
        assert "--restart" in caught.value.action
        assert await connection.fetchval("SELECT count(*) FROM t") == 0
        assert await connection.fetchval("SELECT count(*) FROM pgferry.chunk") == 0
        with closing(sqlite3.connect(path)) as file:
            file.execute("DELETE FROM t WHERE id = 3")
            file.commit()
        await open_run(connection, path, RULES, restart=True)
        assert (await mover.run()).complete
    else:
        # Which letters are one is the locale's to say: a note, and the server decides.
        with pytest.raises(Permanent, match=r"Key \(lower\(a\)\)"):
            await mover.load()
