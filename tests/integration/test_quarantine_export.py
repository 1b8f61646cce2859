"""Quarantined rows as a person sees them, and as files with their original bytes."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import pyarrow.parquet as pq
import pytest

from pgferry import quarantine as shown
from pgferry.errors import Permanent, UsageError
from pgferry.model import Key, QuarantinedRow, StorageClass
from pgferry.postgres import quarantine as kept
from pgferry.postgres.ledger import Run, begin_run, install, record_quarantine
from pgferry.quarantine import choose_run, export_quarantine, overview, shown_value

TEXT, BLOB, REAL, INTEGER, NULL = (
    StorageClass.TEXT,
    StorageClass.BLOB,
    StorageClass.REAL,
    StorageClass.INTEGER,
    StorageClass.NULL,
)


def row(key: Key, storage: StorageClass, value: bytes, reason: str = "'x' is no uuid", table: str = "t"):
    return QuarantinedRow(table, key, "v", storage, value, reason)


ROWS = [
    row((1,), TEXT, "text é".encode(), "'text é' is no uuid"),
    row((2,), BLOB, b"\x00\xff", "a BLOB of 2 bytes where uuid is expected (16 bytes)"),
    row((3,), TEXT, b"A\xff", "text of 2 bytes that is not valid UTF-8: 41ff"),
    row((4,), REAL, b"0.1", "0.1 is a number: a UUID of digits only was damaged by the column's NUMERIC affinity"),
    row((5,), INTEGER, b"2", "2 is a number: a UUID of digits only was damaged by the column's NUMERIC affinity"),
    row((6,), NULL, b"", "NULL in a column that is NOT NULL in the target"),
    row((b"\xff", "é", None, -0.0), TEXT, b"a\x00", "'a\x00' is no uuid"),
    row((8,), TEXT, b"it's", '"it\'s" is no uuid'),
]
VALUES = [item.value for item in ROWS]


@pytest.fixture
async def run(connection: asyncpg.Connection) -> Run:
    await install(connection)
    return await begin_run(connection, "/data/app.db", "rules")


async def keep(connection: asyncpg.Connection, run: Run, *rows: QuarantinedRow) -> None:
    async with connection.transaction():
        await record_quarantine(connection, run.id, rows)


# ---------------------------------------------------------------- shown


async def test_reasons_that_differ_in_their_values_are_counted_together(connection, run):
    await keep(connection, run, *ROWS, row((9,), TEXT, b"z", "'z' is no uuid"), row((1,), TEXT, b"", table="a"))
    counted = [
        (item.table, item.storage_class, item.reason, item.rows) for item in await kept.reasons(connection, run.id)
    ]
    number = "… is a number: a UUID of digits only was damaged by the column's NUMERIC affinity"
    assert counted[:2] == [("a", TEXT, "… is no uuid", 1), ("t", TEXT, "… is no uuid", 4)]
    assert set(counted[2:]) == {
        ("t", BLOB, "a BLOB of … bytes where uuid is expected (16 bytes)", 1),
        ("t", TEXT, "text of … bytes that is not valid UTF-8: …", 1),
        ("t", REAL, number, 1),
        ("t", INTEGER, number, 1),
        ("t", NULL, "NULL in a column that is NOT NULL in the target", 1),
    }
    (only,) = await kept.reasons(connection, run.id, ["a"])
    assert (only.example, only.rows) == ("'x' is no uuid", 1)


@pytest.mark.parametrize(
    ("reason", "pattern"),
    [
        ('5 is a number, in a date column; say its unit with epoch = "s" or "ms"', '… is a number, in a date column; '
         'say its unit with epoch = "s" or "ms"'),
        ("a NUL character at position 3 of 'a'; on_nul = \"strip\" takes it out",
         'a NUL character at position … of …; on_nul = "strip" takes it out'),
        ("element 3: 'x' is no integer", "element …: … is no integer"),
        ("12.50 has more digits after the point than numeric(5,1) holds",
         "… has more digits after the point than numeric(5,1) holds"),
        ("text of 12 characters in varchar(10)", "text of … characters in varchar(10)"),
        ("'" + "x" * 40 + "'… is no date", "… is no date"),
        ('the target refuses the row: duplicate key in "t_key": Key (a, b)=(1, x) already exists',
         'the target refuses the row: duplicate key in "t_key": Key (a, b)=(…) already exists'),
        ("'1e5' does not fit integer (at most 2147483647)", "… does not fit integer (at most 2147483647)"),
    ],
)  # fmt: skip
async def test_what_a_reason_quotes_of_a_row_is_left_out_of_its_pattern(connection, run, reason, pattern):
    await keep(connection, run, row((1,), TEXT, b"", reason))
    (counted,) = await kept.reasons(connection, run.id)
    assert (counted.reason, counted.example) == (pattern, reason)


async def test_an_overview_says_all_counts_and_shows_the_first_rows(connection, run):
    await keep(connection, run, *ROWS)
    seen = json.loads(json.dumps((await overview(connection, run, limit=2)).to_json()))
    assert (seen["run"], seen["source"], seen["rows"]) == (run.id, "/data/app.db", 8)
    assert sum(item["rows"] for item in seen["summary"]) == 8
    assert seen["entries"] == [
        {
            "table": "t",
            "key": [1],
            "column": "v",
            "storage_class": "text",
            "value": "'text é'",
            "bytes": 7,
            "reason": "'text é' is no uuid",
        },
        {
            "table": "t",
            "key": [2],
            "column": "v",
            "storage_class": "blob",
            "value": "x'00ff'",
            "bytes": 2,
            "reason": "a BLOB of 2 bytes where uuid is expected (16 bytes)",
        },
    ]
    assert (await overview(connection, run, ["other"])).rows == 0


@pytest.mark.parametrize(
    ("storage", "value", "expected"),
    [
        (TEXT, "é".encode() * 500, "'" + "é" * 60 + "'…"),
        (TEXT, b"a" + "é".encode() * 500, "'a" + "é" * 59 + "'…"),
        (TEXT, "é".encode() * 60, "'" + "é" * 60 + "'"),
        (TEXT, b"\xff" * 3, "x'ffffff'"),
        (TEXT, b"", "''"),
        (TEXT, b"a\x00", r"'a\x00'"),
        (BLOB, bytes(5000), "x'" + "0" * 60 + "'…"),
        (BLOB, bytes(30), "x'" + "0" * 60 + "'"),
        (REAL, b"-1.5e-300", "-1.5e-300"),
        (INTEGER, b"9223372036854775807", "9223372036854775807"),
        (NULL, b"", "NULL"),
    ],
)
async def test_a_value_is_shown_by_its_class_and_shortened(connection, run, storage, value, expected):
    await keep(connection, run, row((1,), storage, value))
    (entry,) = await kept.entries(connection, run.id)
    assert shown_value(entry) == expected
    assert entry.size == len(value)


async def test_a_run_is_found_by_its_source_or_alone(connection):
    with pytest.raises(UsageError, match="Nothing was moved into this database"):
        await choose_run(connection, None)
    await install(connection)
    with pytest.raises(UsageError, match="Nothing was moved into this database"):
        await choose_run(connection, Path("/data/app.db"))
    first = await begin_run(connection, "/data/app.db", "rules")
    assert await choose_run(connection, None) == first
    assert await choose_run(connection, Path("/data/app.db")) == first
    with pytest.raises(UsageError, match=r"other\.db was not moved into this database\. Give --source .*app\.db"):
        await choose_run(connection, Path("/data/other.db"))
    await begin_run(connection, "/data/second.db", "rules")
    with pytest.raises(UsageError, match=r"Which source's .* /data/second\.db, /data/app\.db"):
        await choose_run(connection, None)


# ---------------------------------------------------------------- exported


async def test_a_parquet_export_has_the_original_bytes(connection, run, tmp_path):
    await keep(connection, run, *ROWS)
    exported = await export_quarantine(connection, run, tmp_path / "new folder" / "q.parquet")
    rows = pq.read_table(exported.path).to_pylist()
    assert [item["value"] for item in rows] == VALUES
    assert [item["storage_class"] for item in rows] == [str(item.storage_class) for item in ROWS]
    assert json.loads(rows[6]["key"]) == [{"blob": "ff"}, "é", None, {"real": "-0.0"}]
    assert {(item["run"], item["table"], item["column"], item["replayed_at"]) for item in rows} == {
        (run.id, "t", "v", None)
    }
    assert (exported.rows, exported.bytes) == (8, exported.path.stat().st_size)
    assert exported.path.stat().st_mode & 0o777 == 0o600


async def test_a_json_lines_export_has_them_too(connection, run, tmp_path):
    await keep(connection, run, *ROWS)
    exported = await export_quarantine(connection, run, tmp_path / "q.jsonl", file_format="jsonl")
    rows = [json.loads(line) for line in exported.path.read_text("utf-8").splitlines()]
    values = ["text é", {"blob": "00ff"}, {"text": "41ff"}, "0.1", "2", None, "a\x00", "it's"]
    assert [item["value"] for item in rows] == values
    assert rows[6]["key"] == [{"blob": "ff"}, "é", None, {"real": "-0.0"}]
    assert (exported.rows, exported.bytes) == (8, exported.path.stat().st_size)
    assert exported.path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
async def test_large_quarantines_are_read_in_portions(connection, run, tmp_path, monkeypatch, file_format):
    monkeypatch.setattr(kept, "PAGE_ROWS", 7)
    monkeypatch.setattr(kept, "PORTION_BYTES", 2000)
    rows = [row((number,), BLOB, bytes([number]) * (1500 if number % 10 == 0 else 10)) for number in range(100)]
    await keep(connection, run, *rows)
    sizes = [len(portion) async for portion in kept.portions(connection, run.id)]
    assert (sum(sizes), max(sizes)) == (100, 7)
    assert min(sizes) < 7
    exported = await export_quarantine(connection, run, tmp_path / "q", file_format=file_format)
    assert exported.rows == 100
    if file_format == "parquet":
        assert pq.read_table(exported.path)["value"].to_pylist() == [item.value for item in rows]
    else:
        lines = exported.path.read_text().splitlines()
        assert [bytes.fromhex(json.loads(line)["value"]["blob"]) for line in lines] == [item.value for item in rows]


async def test_replayed_rows_are_left_out_unless_they_are_asked_for(connection, run, tmp_path):
    await keep(connection, run, *ROWS, row((1,), TEXT, b"", table="a"))
    await connection.execute("UPDATE pgferry.quarantine SET replayed_at = '2024-01-02 03:04:05Z' WHERE key = '[1]'")
    left = await export_quarantine(connection, run, tmp_path / "a")
    everything = await export_quarantine(connection, run, tmp_path / "b", replayed=True)
    of_one = await export_quarantine(connection, run, tmp_path / "c", tables=["a"], replayed=True, file_format="jsonl")
    assert (left.rows, everything.rows, of_one.rows) == (7, 9, 1)
    assert pq.read_table(everything.path)["replayed_at"].null_count == 7
    assert json.loads(of_one.path.read_text())["replayed_at"] == "2024-01-02T03:04:05+00:00"
    assert (await overview(connection, run)).rows == 7


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
async def test_an_empty_quarantine_makes_an_empty_file(connection, run, tmp_path, file_format):
    exported = await export_quarantine(connection, run, tmp_path / "q", file_format=file_format)
    assert exported.rows == 0
    if file_format == "parquet":
        assert pq.read_table(exported.path).schema == shown.SCHEMA
    else:
        assert exported.path.read_bytes() == b""


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
async def test_a_file_that_cannot_be_written_is_told(connection, run, tmp_path, file_format):
    await keep(connection, run, *ROWS)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Permanent, match=r"cannot be written to .*file/q: .*Choose another --output"):
        await export_quarantine(connection, run, tmp_path / "file" / "q", file_format=file_format)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=r"folder is a folder\. Name a file in it"):
        await export_quarantine(connection, run, tmp_path / "folder", file_format=file_format)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
