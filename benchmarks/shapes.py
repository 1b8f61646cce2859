"""The SQLite files of the contest: trades, many small tables, a wide table, large blobs; the same rows each time."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from benchmarks.contest_figures import Data
from pgferry.quoting import quote
from pgferry.sample.generate import generate

Value = None | int | float | str | bytes
Row = tuple[Value, ...]

BENCH_INDEX = "CREATE INDEX bench_source ON trades (source, id)"
"""The third secondary index of trades, for both sides: of the three the one on text, which is what costs most."""

TABLES, ROWS_OF_A_TABLE = 1_000, 100
WIDE_COLUMNS, WIDE_ROWS = 200, 50_000
BLOBS, BLOB_LEAST, BLOB_MOST = 2_000, 100_000, 1_000_000

_EPOCH = datetime(2021, 3, 8, 12, 0, 0)
_POOL = 997
"""Values of a column that repeat: a prime, so that no two columns repeat together."""


@dataclass(frozen=True, slots=True)
class Source:
    """A SQLite file and how many rows each of its tables has."""

    path: Path
    data: Data
    rows: dict[str, int]

    @property
    def planned(self) -> bool:
        """Whether the schema is proposed from the data; the sample has migrations of its own."""
        return self.data.shape != "trades"


def make_trades(path: Path, rows: int) -> Source:
    """Write the sample database with so many trades, three secondary indexes on them."""
    generate(path, rows)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(BENCH_INDEX)
    return _source(path, "trades", f"{rows:,} trades")


def make_tables(path: Path, tables: int = TABLES) -> Source:
    """Write many small tables, each with a key and an index."""
    chance = Random("tables")
    with _written(path) as connection:
        for number in range(tables):
            name = quote(f"table_{number:04}")
            columns = "id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount REAL, made DATETIME, n INTEGER"
            connection.execute(f"CREATE TABLE {name} ({columns})")
            _insert(connection, name, 5, _small_rows(chance))
            connection.execute(f"CREATE INDEX {quote(f'ix_table_{number:04}_name')} ON {name} (name)")
    return _source(path, "tables", f"{tables:,} tables of {ROWS_OF_A_TABLE} rows")


def make_wide(path: Path, rows: int = WIDE_ROWS) -> Source:
    """Write one table with many columns of mixed types, an eighth of the values NULL, a key and an index."""
    kinds = [_KINDS[number % len(_KINDS)] for number in range(WIDE_COLUMNS - 1)]
    columns = [f"column_{number:03} {declared}" for number, (declared, _) in enumerate(kinds, 1)]
    pools = [_pool(value, Random(f"wide {number}")) for number, (_, value) in enumerate(kinds)]
    with _written(path) as connection:
        connection.execute(f"CREATE TABLE wide (id INTEGER PRIMARY KEY, {', '.join(columns)})")
        _insert(connection, "wide", WIDE_COLUMNS, _wide_rows(rows, pools))
        connection.execute("CREATE INDEX ix_wide_column_001 ON wide (column_001)")
    return _source(path, "wide", f"{rows:,} rows of {WIDE_COLUMNS} columns")


def make_blobs(path: Path, rows: int = BLOBS) -> Source:
    """Write a table of blobs that no compression makes smaller."""
    chance = Random("blobs")
    with _written(path) as connection:
        connection.execute("CREATE TABLE files (id INTEGER PRIMARY KEY, name TEXT NOT NULL, content BLOB NOT NULL)")
        _insert(connection, "files", 3, _blob_rows(rows, chance))
    return _source(path, "blobs", f"{rows:,} blobs of 100 kB to 1 MB")


# ---------------------------------------------------------------- rows


def _small_rows(chance: Random) -> Iterator[Row]:
    for number in range(1, ROWS_OF_A_TABLE + 1):
        yield (number, f"name {chance.getrandbits(30)}", chance.random(), _moment(chance), chance.getrandbits(20))


def _wide_rows(rows: int, pools: list[list[Value]]) -> Iterator[Row]:
    for row in range(1, rows + 1):
        # Each column walks its values in steps of its own.
        yield (row, *(pool[row * step % _POOL] for step, pool in enumerate(pools, 1)))


def _blob_rows(rows: int, chance: Random) -> Iterator[Row]:
    for number in range(1, rows + 1):
        yield (number, f"file-{number}.bin", chance.randbytes(chance.randint(BLOB_LEAST, BLOB_MOST)))


def _moment(chance: Random) -> str:
    return (_EPOCH + timedelta(microseconds=int(chance.random() * 1e14))).isoformat(" ", "microseconds")


_KINDS: tuple[tuple[str, Callable[[Random], Value]], ...] = (
    ("INTEGER", lambda chance: chance.getrandbits(30)),
    ("TEXT", lambda chance: f"text {chance.getrandbits(40):x}"),
    ("REAL", lambda chance: chance.random() * 1e6),
    ("DATETIME", _moment),
    ("BOOLEAN", lambda chance: chance.getrandbits(1)),
    ("NUMERIC(12, 2)", lambda chance: round(chance.random() * 1e6, 2)),
    ("JSON", lambda chance: json.dumps({"a": chance.getrandbits(8), "b": [1, None, "ü"]})),
    ("BIGINT", lambda chance: chance.getrandbits(50)),
)


def _pool(value: Callable[[Random], Value], chance: Random) -> list[Value]:
    return [None if chance.random() < 0.125 else value(chance) for _ in range(_POOL)]


# ---------------------------------------------------------------- the file


@contextmanager
def _written(path: Path) -> Iterator[sqlite3.Connection]:
    """Give a new file to fill in one transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Nothing to go back to: a file that is not finished is of no use.
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
        yield connection
        connection.execute("COMMIT")


def _insert(connection: sqlite3.Connection, table: str, columns: int, rows: Iterable[Row]) -> None:
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)


def _source(path: Path, shape: str, label: str) -> Source:
    with closing(sqlite3.connect(path)) as connection:
        listed = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        names = [name for (name,) in listed]
        rows = {name: connection.execute(f"SELECT count(*) FROM {quote(name)}").fetchone()[0] for name in names}
    return Source(path, Data(shape, label, len(rows), sum(rows.values()), path.stat().st_size), rows)
