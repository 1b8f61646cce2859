"""Values that nobody has and everybody may have: each moves whole, or its row is kept aside by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.hostile_files import Move, kept, move, types

__all__ = ["move"]


# ---------------------------------------------------------------- values


async def test_numbers_at_their_edges(move: Move) -> None:
    inf = float("inf")
    reals = [inf, -inf, -0.0, 0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1, 1635161608.59, 1e15]
    integers = [2**53 + 1, -(2**53) - 1, 2**62, -(2**62), 2**63 - 1, -(2**63), 0, 1]
    found, plan = await move(
        """CREATE TABLE r (id INTEGER PRIMARY KEY, x REAL, n NUMERIC, any_); CREATE TABLE i (id INTEGER PRIMARY KEY,
           i INTEGER, n NUMERIC, r REAL, any_);""",
        {
            "r": [(n, x, x, x) for n, x in enumerate(reals)],
            "i": [(n, x, x, x, x) for n, x in enumerate(integers)],
        },
        chunk_rows=3,
    )
    assert kept(found) == {}
    assert types(plan, "i") == {
        "id": "bigint", "i": "bigint", "n": "numeric", "r": "double precision", "any_": "bigint"
    }  # fmt: skip


async def test_integers_and_reals_that_no_double_holds_together(move: Move) -> None:
    found, plan = await move(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x NUMERIC, y)",
        {"t": [(1, 2**53 + 1, 2**53 + 1), (2, 0.1, float("inf")), (3, -(2**62), 1e300)]},
    )
    assert kept(found) == {}
    assert types(plan, "t") == {"id": "bigint", "x": "numeric", "y": "text"}


async def test_nul_characters(move: Move) -> None:
    found, plan = await move(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, few TEXT, many TEXT, j TEXT)",
        {"t": [(n, "a\x00b" if n == 7 else f"text {n}", "\x00" * (n % 5), '["\\u0000"]') for n in range(200)]},
        chunk_rows=50,
    )
    assert types(plan, "t") == {"id": "bigint", "few": "text", "many": "bytea", "j": "json"}
    (reason,) = kept(found)["t"]
    assert reason.startswith("few: a NUL character at position 2 of 'a\\x00b'; on_nul")


async def test_text_that_is_no_utf8(move: Move) -> None:
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, few TEXT, many TEXT);"
    script += "".join(f"INSERT INTO t VALUES ({n}, '{n}', CAST(x'C3{n:02x}' AS TEXT));" for n in range(150))
    script += "UPDATE t SET few = CAST(x'FF' AS TEXT) WHERE id = 9;"
    found, plan = await move(script, chunk_rows=40)
    assert types(plan, "t")["many"] == "bytea"
    assert kept(found) == {"t": ("few: text of 1 bytes that is not valid UTF-8: ff",)}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_utf16_files(move: Move, encoding: str) -> None:
    texts = ["", "plain", "naïve", "日本語", "😀", "a" * 70_000, "\ufffe", "2024-01-02"]
    found, plan = await move(
        """CREATE TABLE "tëxt" (k TEXT PRIMARY KEY, v TEXT, d TEXT, b BLOB) WITHOUT ROWID;
           CREATE TABLE nul (id INTEGER PRIMARY KEY, t TEXT);""",
        {
            '"tëxt"': [(f"ключ {n}", text, "2024-01-02 03:04:05", text.encode()) for n, text in enumerate(texts * 4)],
            "nul": [(n, "x\x00y" if n == 150 else "ok") for n in range(300)],
        },
        encoding,
        chunk_rows=5,
    )
    assert types(plan, "tëxt") == {"k": "text", "v": "text", "d": "timestamp without time zone", "b": "bytea"}
    assert [*kept(found)] == ["nul"]


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
async def test_utf16_with_half_a_surrogate_pair(move: Move, encoding: str) -> None:
    half = "d83d" if encoding.endswith("be") else "3dd8"
    script = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT);"
    script += "".join(f"INSERT INTO t VALUES ({n}, 'ok {n}');" for n in range(150))
    script += f"INSERT INTO t VALUES (500, CAST(x'{half}' AS TEXT)), (501, CAST(x'41' AS TEXT));"
    found, _ = await move(script, encoding=encoding)
    assert found["t"].rows == 152


async def test_every_class_in_every_column(move: Move) -> None:
    values: list[Any] = [None, 0, 1, -1, 1.5, 1e300, "", "a", "1", "1.50", "true", b"", b"\x00", b"\xff\xfe", "é"]
    declared = ("INTEGER", "REAL", "TEXT", "BLOB", "NUMERIC", "", "BOOLEAN", "DATETIME", "UUID", "JSON", "VARCHAR(3)")
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(declared))
    rows = [[values[(row + place) % len(values)] for place in range(len(declared))] for row in range(60)]
    found, _ = await move(f"CREATE TABLE t ({columns})", {"t": rows}, chunk_rows=7)
    assert found["t"].rows == 60


async def test_numbers_texts_and_blobs_in_one_column(move: Move, tmp_path: Path) -> None:
    values = [1, "1", b"1", -2.5, 1e300, 2**63 - 1, "", b"", None, "é", float("inf")]
    found, plan = await move(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v, u UNIQUE)",
        {"t": [(n, value, value if value not in (b"1", "1") else None) for n, value in enumerate(values)]},
        chunk_rows=4,
    )
    assert kept(found) == {}
    assert types(plan, "t") == {"id": "bigint", "v": "bytea", "u": "bytea"}
    assert any("bytes of their digits" in text for text in plan.table("t").column("v").notes)
    (rules,) = tmp_path.glob("home/plan/pgferry.toml")
    assert rules.read_text().count("\nnumber_as_bytes = true") == 2


async def test_a_row_wider_than_a_batch(move: Move) -> None:
    found, _ = await move(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB)",
        {"t": [(n, "x" * (n % 3) * 100_000, b"y" * (n % 5) * 100_000) for n in range(40)]},
    )
    assert kept(found) == {}
