"""The staging area: Parquet files in a folder or behind any fsspec URL, each with a checksum and a side note."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pgferry.checked_file import BLOCK, CheckedFile, Marks, marks_of
from pgferry.errors import Permanent, Transient
from pgferry.keys import decode_key, encode_key
from pgferry.model import Chunk, ExportedChunk, PgKind
from pgferry.private import make_folder, opener
from pgferry.settings import load_settings
from pgferry.store import WHOLE_BY_ITSELF, explain, is_of_store, open_store, protocols

COMPRESSION = "lz4"
"""Two thirds of zstd's CPU time to write and to read, for files that are half as large again."""

_REPEATING = (PgKind.BOOLEAN, PgKind.ENUM)
"""Kinds whose values repeat so much that a Parquet dictionary pays; for others it costs more than it saves."""


class AlteredFile(Transient):
    """A file of the staging area is not what was written; its chunk must be exported again."""


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written whole: its path, its size in bytes and the SHA-256 of its content."""

    path: str
    bytes: int
    sha256: str


class Staging:
    """A folder (local path or fsspec URL) that holds the files of one run.

    Files appear whole or not at all, and local ones with owner-only permissions. What a remote store needs besides its
    URL is read from this process's own settings, so that no secret travels with the plan of a move. What `verify` has
    checked is what `read_batches` gives, whatever happens to the file in between: of a remote one, and of a small one,
    the bytes are kept; a large local one is checked again as it is read. Not to be shared by threads.

    Methods raise Transient or Permanent for what the store reports, naming the file.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        remote = "://" in url or "::" in url
        self._options = (load_settings().store_options if remote else {}) if options is None else options
        self.filesystem, self.root = open_store(url, self._options)
        names = protocols(self.filesystem)
        self._local = "file" in names
        self._whole_by_itself = not names.isdisjoint(WHOLE_BY_ITSELF)
        self._fetched: dict[str, bytes] = {}
        self._marks: dict[str, Marks] = {}

    def chunk_path(self, chunk: Chunk, suffix: str = ".parquet") -> str:
        """Return the path of a chunk's file: a folder a table, a number a chunk."""
        return posixpath.join(self.root, folder_name(chunk.table), f"{chunk.number:06d}{suffix}")

    @contextmanager
    def parquet_writer(self, path: str, schema: pa.Schema, repeating: list[str]) -> Iterator[_ParquetSink]:
        """Write a Parquet file; when the block raises, nothing appears at `path`. Replaces an older one."""
        with self._whole(path) as raw:
            sink = _ParquetSink(raw, path, schema, repeating)
            try:
                yield sink
            finally:
                # Also when the file is given up: an open writer complains when it is collected.
                sink.finish()

    def note(self, exported: ExportedChunk, fingerprint: str) -> None:
        """Write down, beside a chunk's file, what it holds, so that a later run need not export it again."""
        chunk = replace(exported.chunk, low=None, high=None)
        low, high = exported.chunk.low, exported.chunk.high
        record = {
            "fingerprint": fingerprint,
            "low": None if low is None else encode_key(low),
            "high": None if high is None else encode_key(high),
            "exported": asdict(replace(exported, chunk=chunk)),
        }
        with self._whole(self.chunk_path(exported.chunk, ".json")) as file:
            file.write(json.dumps(record, indent=1).encode())

    def find(self, chunk: Chunk, fingerprint: str) -> ExportedChunk | None:
        """Return what an earlier run exported for this very chunk, if its files are there, whole and unaltered.

        What may not be read counts as not there: S3 says so of an absent object to whoever may not list the bucket.
        """
        try:
            record = json.loads(self._fetch(self.chunk_path(chunk, ".json")))
            if record["fingerprint"] != fingerprint:
                return None
            exported = _noted(record)
            self.verify(exported)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AlteredFile, Permanent):
            return None
        return exported if exported.chunk == chunk else None

    def verify(self, exported: ExportedChunk) -> None:
        """Compare the files of a chunk with their checksums; raises AlteredFile naming the one that differs."""
        files = {exported.path: exported.sha256}
        if exported.quarantine_path is not None:
            files[exported.quarantine_path] = exported.quarantine_sha256 or ""
        self._fetched = {path: data for path, data in self._fetched.items() if path in files}
        self._marks.clear()
        for path, sha256 in files.items():
            self._verify(path, sha256)

    def read_batches(self, path: str) -> Iterator[pa.RecordBatch]:
        """Yield the row groups of a Parquet file, one at a time.

        Raises AlteredFile when the file was verified and is not what it was then.
        """
        with self._opened(path) as raw, pq.ParquetFile(raw) as file:
            for group in range(file.num_row_groups):
                yield from file.read_row_group(group, use_threads=False).to_batches()

    def write_lines(self, path: str, lines: Iterable[bytes]) -> WrittenFile:
        """Write lines to a file, which appears whole or not at all. Replaces an older one."""
        with self._whole(path) as raw:
            hashed = _HashedFile(raw)
            for line in lines:
                hashed.write(line)
        return WrittenFile(path, hashed.size, hashed.sha256.hexdigest())

    def discard_file(self, path: str) -> None:
        """Remove a file if it is there."""
        self._forget(path)
        self._discard(path)

    def discard(self, exported: ExportedChunk) -> None:
        """Remove a chunk's files, so that it is exported anew."""
        for path in (self.chunk_path(exported.chunk, ".json"), exported.path, exported.quarantine_path):
            if path is not None:
                self.discard_file(path)

    def run_folders(self, run_id: int) -> tuple[str, ...]:
        """Return the folders of a run's files in this staging area."""
        try:
            self.filesystem.invalidate_cache()
            found = [str(path).rstrip("/") for path in self.filesystem.ls(self.root, detail=False)]
        except FileNotFoundError:
            return ()
        except Exception as error:
            raise self._explained(error, self.root, "read") from error
        return tuple(sorted(path for path in found if posixpath.basename(path).startswith(f"run-{run_id}-")))

    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that it holds."""
        try:
            self.filesystem.rm(path, recursive=True)
        except Exception as error:
            raise self._explained(error, path, "removed") from error

    def _verify(self, path: str, sha256: str) -> None:
        try:
            found = self._digest(path)
        except FileNotFoundError as error:
            raise AlteredFile(f"The staged file {path} is gone.", "Its chunk is exported again.") from error
        if found != sha256:
            self._forget(path)
            raise _altered(path)

    def _digest(self, path: str) -> str:
        if self._local:
            self._forget(path)
            with Path(path).open("rb") as file:
                if os.fstat(file.fileno()).st_size > BLOCK:
                    self._marks[path] = marks_of(file)
                    return self._marks[path].sha256
                self._fetched[path] = file.read()
        elif path not in self._fetched:
            self._fetched[path] = self._fetch(path)
        return hashlib.sha256(self._fetched[path]).hexdigest()

    def _opened(self, path: str) -> Any:
        if path in self._fetched:
            return pa.BufferReader(self._fetched[path])
        if not self._local:
            return pa.BufferReader(self._fetch(path))
        raw: IO[bytes] = Path(path).open("rb")  # noqa: SIM115  whoever reads it closes it
        marks = self._marks.get(path)
        return raw if marks is None else CheckedFile(raw, marks, lambda: _altered(path))

    def _forget(self, path: str) -> None:
        self._fetched.pop(path, None)
        self._marks.pop(path, None)

    def _fetch(self, path: str) -> bytes:
        """Return a file's bytes; raises FileNotFoundError when it is not there."""
        try:
            return bytes(self.filesystem.cat_file(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(path) from error
        except Exception as error:
            raise self._explained(error, path, "read") from error

    @contextmanager
    def _whole(self, path: str) -> Iterator[IO[bytes]]:
        """Open a file that appears at `path` when the block ends, and not at all when it raises."""
        self._forget(path)
        try:
            with (self._uploaded if self._whole_by_itself else self._renamed)(path) as raw:
                yield raw
        except Exception as error:
            if not is_of_store(error):
                raise
            raise self._explained(error, path, "written") from error

    @contextmanager
    def _renamed(self, path: str) -> Iterator[IO[bytes]]:
        part = path + ".part"
        try:
            with self._create(part) as raw:
                yield raw
            if self._local:
                Path(part).replace(path)
            else:
                self.filesystem.mv(part, path)
        except BaseException:
            with suppress(Exception):
                self._discard(part)
            raise

    @contextmanager
    def _uploaded(self, path: str) -> Iterator[IO[bytes]]:
        raw = self.filesystem.open(path, "wb")
        try:
            yield raw
            raw.close()
        except BaseException:
            # Closing it, which its own context manager and the garbage collector do, would complete the upload.
            raw.closed = True
            with suppress(Exception):
                raw.discard()
            raise

    def _create(self, path: str) -> IO[bytes]:
        if not self._local:
            self.filesystem.makedirs(posixpath.dirname(path), exist_ok=True)
            return cast("IO[bytes]", self.filesystem.open(path, "wb"))
        try:
            return open(path, "xb", opener=opener)
        except FileNotFoundError:
            make_folder(Path(path).parent)
        except FileExistsError:
            Path(path).unlink()
        return open(path, "xb", opener=opener)

    def _discard(self, path: str) -> None:
        try:
            self.filesystem.rm_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except Exception as error:
            raise self._explained(error, path, "removed") from error

    def _explained(self, error: Exception, path: str, doing: str) -> Exception:
        shown = path if self._local else str(self.filesystem.unstrip_protocol(path))
        return explain(error, shown, doing, self._options)


class _ParquetSink:
    """Writes record batches, a row group each, and the digest of the bytes on their way."""

    def __init__(self, raw: IO[bytes], path: str, schema: pa.Schema, repeating: list[str]) -> None:
        self._path = path
        self._hashed = _HashedFile(raw)
        self._writer = pq.ParquetWriter(
            self._hashed,
            schema,
            compression=COMPRESSION,
            use_dictionary=repeating or False,
            write_statistics=False,
        )
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
        self.rows += batch.num_rows

    def finish(self) -> None:
        self._writer.close()

    @property
    def written(self) -> WrittenFile:
        return WrittenFile(self._path, self._hashed.size, self._hashed.sha256.hexdigest())


class _HashedFile:
    """A write-only file object that hashes what passes through."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        self._raw.write(data)
        return len(data)

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        self.closed = True


def _altered(path: str) -> AlteredFile:
    return AlteredFile(
        f"The staged file {path} was altered or truncated after it was written.", "Its chunk is exported again."
    )


def folder_name(table: str) -> str:
    """Return a folder name for a table: readable, safe in any file system, and unique by a hash of the exact name."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "_", table)[:48]
    return f"{readable}-{hashlib.sha256(table.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def repeating_columns(kinds: list[tuple[str, PgKind]]) -> list[str]:
    """Return the names of the columns that are worth a Parquet dictionary."""
    return [name for name, kind in kinds if kind in _REPEATING]


def _noted(record: dict[str, Any]) -> ExportedChunk:
    fields = dict(record["exported"])
    low, high = record["low"], record["high"]
    chunk = Chunk(**fields.pop("chunk"))
    chunk = replace(
        chunk, low=None if low is None else decode_key(low), high=None if high is None else decode_key(high)
    )
    return ExportedChunk(chunk=chunk, **fields)
