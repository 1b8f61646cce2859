"""The staging area: files that are whole, checked, and found again."""

from __future__ import annotations

import hashlib
import io
import os
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from pgferry.checked_file import BLOCK, CheckedFile, marks_of
from pgferry.errors import Permanent
from pgferry.model import Chunk, ExportedChunk
from pgferry.staging import AlteredFile, Staging, folder_name

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
CHUNK = Chunk('Ta"b/le ü', 3, 2, low=(1, "x\x00"), high=(b"\xff", 2.5))


LARGE = random.Random(5).randbytes(BLOCK).hex()
"""A text that makes a file too large to be kept in memory."""


def _write(staging: Staging, text: str = "y") -> ExportedChunk:
    with staging.parquet_writer(staging.chunk_path(CHUNK), SCHEMA, []) as sink:
        sink.write(pa.record_batch([pa.array([1, None]), pa.array(["x", text])], schema=SCHEMA))
    written = sink.written
    return ExportedChunk(CHUNK, written.path, sink.rows, written.bytes, written.sha256)


def test_what_was_written_is_read_back_and_found_by_its_note(tmp_path: Path) -> None:
    staging = Staging(str(tmp_path))
    exported = _write(staging)
    staging.note(exported, "mark")

    assert [batch.to_pylist() for batch in staging.read_batches(exported.path)] == [
        [{"a": 1, "b": "x"}, {"a": None, "b": "y"}]
    ]
    assert staging.find(CHUNK, "mark") == exported
    assert staging.find(CHUNK, "other") is None
    assert staging.find(replace(CHUNK, high=(9, 9)), "mark") is None
    assert Path(exported.path).stat().st_mode & 0o077 == 0
    assert Path(exported.path).stat().st_size == exported.bytes


@pytest.mark.parametrize("damage", ["truncated", "altered", "gone"])
def test_a_file_that_is_not_what_was_written_is_refused(tmp_path: Path, damage: str) -> None:
    staging = Staging(str(tmp_path))
    exported = _write(staging)
    staging.note(exported, "mark")
    path = Path(exported.path)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else data[:40] + bytes([data[40] ^ 1]) + data[41:])

    with pytest.raises(AlteredFile, match=exported.path.rsplit("/", 1)[-1]):
        staging.verify(exported)
    assert staging.find(CHUNK, "mark") is None


def _alter(path: Path, after: str) -> None:
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[data.index(b"x")] ^= 1  # A value, which Parquet itself has no checksum for.
    if after == "replaced":
        path.unlink()
    path.write_bytes(data[:-1] if after == "truncated" else data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("after", ["in place", "replaced", "truncated"])
def test_a_file_that_is_altered_between_its_check_and_its_reading_is_refused(tmp_path: Path, after: str) -> None:
    staging = Staging(str(tmp_path))
    exported = _write(staging, LARGE)
    assert exported.bytes > BLOCK
    staging.verify(exported)
    path = Path(exported.path)
    _alter(path, after)
    with pytest.raises(AlteredFile, match=path.name):
        list(staging.read_batches(exported.path))


@pytest.mark.parametrize("after", ["in place", "replaced", "truncated"])
def test_of_a_small_file_what_was_checked_is_what_is_read(tmp_path: Path, after: str) -> None:
    staging = Staging(str(tmp_path))
    exported = _write(staging)
    staging.verify(exported)
    _alter(Path(exported.path), after)
    assert [batch.to_pylist()[0] for batch in staging.read_batches(exported.path)] == [{"a": 1, "b": "x"}]
    with pytest.raises(AlteredFile):
        staging.verify(exported)


def test_a_file_that_has_grown_since_is_not_read_as_it_was(tmp_path: Path) -> None:
    staging = Staging(str(tmp_path))
    staging.verify(_write(staging))
    staging.verify(_write(staging, LARGE))
    assert [batch.to_pylist()[1]["b"] for batch in staging.read_batches(staging.chunk_path(CHUNK))] == [LARGE]


def test_what_a_killed_process_has_left_is_written_over(tmp_path: Path) -> None:
    staging = Staging(str(tmp_path))
    path = Path(staging.chunk_path(CHUNK))
    path.parent.mkdir()
    left = path.with_name(path.name + ".part")
    left.write_bytes(b"half")
    left.chmod(0o444)
    exported = _write(staging)
    staging.verify(exported)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not left.exists()


def test_a_checked_file_reads_as_any_file_does(tmp_path: Path) -> None:
    data = random.Random(7).randbytes(3 * BLOCK + 17)
    path = tmp_path / "file"
    path.write_bytes(data)
    with path.open("rb") as file:
        marks = marks_of(file)
    assert marks.sha256 == hashlib.sha256(data).hexdigest()
    with CheckedFile(path.open("rb"), marks, AssertionError) as checked:
        assert checked.read() == data
        assert checked.read(5) == b""
        for start, size in [(0, 1), (BLOCK - 1, 2), (5, 2 * BLOCK), (len(data) - 3, 9), (BLOCK, BLOCK), (len(data), 1)]:
            assert checked.seek(start) == checked.tell() == start
            assert checked.read(size) == data[start : start + size]
        assert checked.seek(-17, io.SEEK_END) == 3 * BLOCK
        assert checked.seek(1, io.SEEK_CUR) == 3 * BLOCK + 1
    path.write_bytes(b"")
    with path.open("rb") as file:
        assert CheckedFile(file, marks_of(file), AssertionError).read() == b""


def test_a_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    staging = Staging(str(tmp_path))
    path = staging.chunk_path(CHUNK)
    with pytest.raises(RuntimeError), staging.parquet_writer(path, SCHEMA, []):
        raise RuntimeError
    assert [item for item in tmp_path.rglob("*") if item.is_file()] == []


def test_a_place_that_cannot_be_written_is_named_with_the_way_out(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(Permanent, match=r"staging file .* cannot be written.*PGFERRY_STAGING"):
        _write(Staging(str(blocked)))


def test_the_same_area_works_behind_an_fsspec_url() -> None:
    staging = Staging("memory://staged/run-1")
    exported = _write(staging)
    staging.note(exported, "mark")
    assert staging.find(CHUNK, "mark") == exported
    staging.discard(exported)
    assert staging.find(CHUNK, "mark") is None


def test_folder_names_are_safe_and_tell_tables_apart() -> None:
    names = ["a/b", "a_b", "A_b", "ü" * 100, "", ".."]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in folder and len(folder.encode()) < 100 for folder in folders)
