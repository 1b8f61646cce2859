"""Shows and exports the rows that a move kept aside; reads only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq

from pgferry.errors import Permanent, UsageError
from pgferry.model import StorageClass
from pgferry.postgres.handle import Connection
from pgferry.postgres.ledger import Run, find_run
from pgferry.postgres.quarantine import Entry, ReasonCount, entries, ledger_is_there, open_runs, portions, reasons
from pgferry.private import make_folder

Write = Callable[[Sequence[asyncpg.Record]], None]

SHOWN_CHARACTERS = 60
"""Characters of a value that are shown."""

FORMATS = ("parquet", "jsonl")

SCHEMA = pa.schema(
    [
        pa.field("run", pa.int64(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("column", pa.string(), nullable=False),
        pa.field("storage_class", pa.string(), nullable=False),
        pa.field("value", pa.binary(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("quarantined_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("replayed_at", pa.timestamp("us", "UTC")),
    ]
)
"""The exported file's columns. `value` holds the value's own bytes: text (as UTF-8) and blobs as stored, numbers in
their exact decimal form, NULL as nothing; `key` is a JSON array as `pgferry.keys` describes it."""

_REPEATING = ["table", "column", "storage_class"]
_SOURCES = ("run_id", "source_table", "key", "column_name", "storage_class", "value", "reason", "created_at",
            "replayed_at")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Overview:
    """What a run keeps aside: all of it by reason, and its first rows one by one."""

    run: Run
    reasons: tuple[ReasonCount, ...]
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> int:
        """Rows that are kept aside."""
        return sum(reason.rows for reason in self.reasons)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values; a row's value is shortened, and `bytes` says how long it is."""
        return {
            "run": self.run.id,
            "source": self.run.source,
            "rows": self.rows,
            "summary": [
                {
                    "table": item.table,
                    "column": item.column,
                    "storage_class": str(item.storage_class),
                    "reason": item.reason,
                    "example": item.example,
                    "rows": item.rows,
                }
                for item in self.reasons
            ],
            "entries": [
                {
                    "table": item.table,
                    "key": json.loads(item.key),
                    "column": item.column,
                    "storage_class": str(item.storage_class),
                    "value": shown_value(item),
                    "bytes": item.size,
                    "reason": item.reason,
                }
                for item in self.entries
            ],
        }


@dataclass(frozen=True, slots=True)
class ExportedQuarantine:
    """A file of quarantined rows."""

    path: Path
    rows: int
    bytes: int


async def choose_run(connection: Connection, source: Path | None) -> Run:
    """Return the run of a source, or the only one there is when none is named. Raises UsageError when there is none."""
    runs = await open_runs(connection) if await ledger_is_there(connection) else ()
    if not runs:
        raise UsageError(
            "Nothing was moved into this database.", "Check --target; move first: python -m flows migrate."
        )
    run = await find_run(connection, str(source)) if source is not None else runs[0]
    if run is None or (source is None and len(runs) > 1):
        raise UsageError(
            "Which source's rows are meant?" if source is None else f"{source} was not moved into this database.",
            f"Give --source with one of: {', '.join(known.source for known in runs)}.",
        )
    return run


async def overview(connection: Connection, run: Run, tables: Sequence[str] = (), limit: int = 20) -> Overview:
    """Return what a run keeps aside, of all tables when none is named; at most `limit` rows one by one."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return Overview(
            run, await reasons(connection, run.id, tables), await entries(connection, run.id, tables, limit)
        )


def shown_value(entry: Entry) -> str:
    """Return a value for a person: NULL, a number, quoted text or x'…'; an ellipsis says that it was cut."""
    if entry.storage_class is StorageClass.NULL:
        return "NULL"
    if entry.storage_class in (StorageClass.INTEGER, StorageClass.REAL):
        return entry.head.decode()
    text = _text(entry) if entry.storage_class is StorageClass.TEXT else None
    shown, whole = entry.head.hex(), entry.size * 2
    if text is not None:
        shown, whole = text, len(text) + entry.size - len(entry.head)
    cut = "…" if whole > SHOWN_CHARACTERS else ""
    shown = shown[:SHOWN_CHARACTERS]
    return f"x'{shown}'{cut}" if text is None else f"{shown!r}{cut}"


def _text(entry: Entry) -> str | None:
    # The head may end in the middle of a character: at most three bytes of one.
    cut = entry.size > len(entry.head)
    for end in range(len(entry.head), len(entry.head) - (4 if cut else 1), -1):
        try:
            return entry.head[: max(end, 0)].decode()
        except UnicodeDecodeError:
            continue
    return None


async def export_quarantine(
    connection: Connection,
    run: Run,
    output: Path,
    *,
    file_format: str = "parquet",
    tables: Sequence[str] = (),
    replayed: bool = False,
) -> ExportedQuarantine:
    """Write the rows that a run keeps aside to a file, their original bytes and all, as of one moment.

    With `replayed`, those that were loaded later too. The file is readable by its owner only and appears whole or not
    at all; an older one is replaced. Memory: some 16 MiB of values, or the largest one. Raises Permanent when it
    cannot be written, UsageError when `output` is a folder or the format is none of FORMATS.
    """
    if file_format not in FORMATS:
        raise UsageError(f"There is no format {file_format!r}.", f"Give one of {', '.join(FORMATS)}.")
    if output.is_dir():
        raise UsageError(f"{output} is a folder.", "Name a file in it: --output FILE.")
    writer = _parquet if file_format == "parquet" else _json_lines
    rows = 0
    try:
        with _whole(output) as file, writer(file) as write:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                async for portion in portions(connection, run.id, tables, replayed=replayed):
                    write(portion)
                    rows += len(portion)
        return ExportedQuarantine(output, rows, output.stat().st_size)
    except (ConnectionError, TimeoutError):
        raise  # The server's, not the file's.
    except OSError as error:
        raise Permanent(
            f"The quarantine cannot be written to {output}: {error.strerror or error}.", "Choose another --output."
        ) from error


@contextmanager
def _whole(output: Path) -> Iterator[IO[bytes]]:
    part = output.with_name(output.name + ".part")
    make_folder(output.parent)
    try:
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        with part.open("wb") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _parquet(file: IO[bytes]) -> Iterator[Write]:
    with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=_REPEATING, write_statistics=False) as sink:

        def write(rows: Sequence[asyncpg.Record]) -> None:
            columns = zip(_SOURCES, SCHEMA.types, strict=True)
            arrays = [pa.array([row[name] for row in rows], kind) for name, kind in columns]
            sink.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

        yield write


@contextmanager
def _json_lines(file: IO[bytes]) -> Iterator[Write]:
    def write(rows: Sequence[asyncpg.Record]) -> None:
        file.writelines(json.dumps(_line(row), ensure_ascii=False).encode() + b"\n" for row in rows)

    yield write


def _line(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "run": row["run_id"],
        "table": row["source_table"],
        "key": json.loads(row["key"]),
        "column": row["column_name"],
        "storage_class": row["storage_class"],
        "value": json_value(StorageClass(row["storage_class"]), row["value"]),
        "reason": row["reason"],
        "quarantined_at": row["created_at"].isoformat(),
        "replayed_at": row["replayed_at"].isoformat() if row["replayed_at"] else None,
    }


def json_value(storage: StorageClass, value: bytes) -> object:
    """Return a value's bytes as JSON, without losing one: NULL as null, numbers and text as text, else in hexadecimal.

    `{"blob": "00ff"}` is a BLOB and `{"text": "ff"}` a text that is no valid UTF-8, as in keys.
    """
    if storage is StorageClass.NULL:
        return None
    if storage is StorageClass.BLOB:
        return {"blob": value.hex()}
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"text": value.hex()}
