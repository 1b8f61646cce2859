"""Makes the sample application's SQLite database at any size: `python -m pgferry.sample.generate --rows N PATH`.

Every value is stored as SQLAlchemy with aiosqlite would have stored it: datetimes as `YYYY-MM-DD HH:MM:SS.ffffff`,
enums by name, booleans as 0 and 1, JSON as text.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from pgferry.errors import FerryError, Permanent, UsageError
from pgferry.quoting import quote
from pgferry.sample.models import Base, Item, ItemCategory, Trade, TradeKind, WatchlistEntry
from pgferry.sample.words import EXAMINE, MATERIALS, NOTES, OWNERS, SOURCES, THINGS

Value = None | int | float | str
Row = tuple[Value, ...]

MOST_ITEMS = 4_000
EPOCH = datetime(2021, 3, 8, 12, 0, 0)
THREE_YEARS = timedelta(days=3 * 365) // timedelta(microseconds=1)
COINS_AT_MOST = 2**31 - 1
"""The game keeps a price in 32 bits."""

# The file is worthless until it is complete, so nothing is journalled; one fsync at the end makes it durable.
_UNSAFE_BUT_FAST = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384"


def generate(path: Path, trades: int, *, seed: int = 7, items: int | None = None) -> None:
    """Write a new sample database with that many trades to `path`.

    The same arguments give the same rows, and the same bytes under the same SQLite library. Rows are streamed: memory
    does not grow with their number. The file appears under its name only when it is complete. Raises UsageError when
    `path` exists or a number makes no sense, Permanent when the file cannot be written.
    """
    count = _item_count(trades) if items is None else items
    if trades < 0 or count < 1:
        raise UsageError("The sample needs 0 or more trades and 1 or more items.", "Correct --rows.")
    _refuse_existing(path)
    try:
        with _under_another_name(path) as unfinished:
            _write(unfinished, trades, count, seed)
            _refuse_existing(path)
    except (OSError, sqlite3.Error) as error:
        raise Permanent(f"The sample {path} cannot be written: {error}.", "Check the folder and its space.") from error


def _item_count(trades: int) -> int:
    return min(MOST_ITEMS, 20 + trades // 50)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already.", "Name another file, or delete it first.")


@contextmanager
def _under_another_name(path: Path) -> Iterator[Path]:
    """Give a name beside `path`; rename to `path` at the end, or leave nothing behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _write(path: Path, trades: int, items: int, seed: int) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.executescript(_UNSAFE_BUT_FAST)
        with connection:
            _fill(connection, trades, items, seed)
    finally:
        connection.close()
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _fill(connection: sqlite3.Connection, trades: int, items: int, seed: int) -> None:
    tables = Base.metadata.sorted_tables
    for table in tables:
        connection.execute(str(CreateTable(table).compile(dialect=sqlite.dialect())))
    # One source of chance for each table: the items stay the same when the number of trades changes.
    _insert(connection, _table(Item), item_rows(items, Random(f"items {seed}")))
    _insert(connection, _table(Trade), trade_rows(trades, items, Random(f"trades {seed}")))
    _insert(connection, _table(WatchlistEntry), watchlist_rows(items, Random(f"watchlist {seed}")))
    for table in tables:
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(str(CreateIndex(index).compile(dialect=sqlite.dialect())))


def _table(model: type[Base]) -> Table:
    return Base.metadata.tables[model.__tablename__]


def _insert(connection: sqlite3.Connection, table: Table, rows: Iterator[Row]) -> None:
    names = ", ".join(quote(column.name) for column in table.columns)
    marks = ", ".join("?" for _ in table.columns)
    connection.executemany(f"INSERT INTO {quote(table.name)} ({names}) VALUES ({marks})", rows)


def item_rows(count: int, chance: Random) -> Iterator[Row]:
    """Yield items in id order, in the order of the model's columns; a variant follows what it is a variant of."""
    categories = [category.name for category in ItemCategory]
    base = 0
    for number in range(count):
        item = 2 + number * 3
        variant = number > 0 and chance.random() < 0.2
        if not variant:
            base = item
        name = _item_name(chance, variant)
        price = _base_price(item)
        yield (
            item,
            name,
            f"{name.replace(' ', '_')}#{item}",
            _sometimes(chance, 0.9, chance.choice(EXAMINE)),
            chance.choice(categories),
            int(chance.random() < 0.7),
            _sometimes(chance, 0.8, chance.choice((8, 70, 125, 5_000, 11_000, 25_000))),
            _sometimes(chance, 0.9, price * 3 // 5),
            _sometimes(chance, 0.9, price * 2 // 5),
            _sometimes(chance, 0.85, _money(chance, price)),
            base if variant else None,
            _sometimes(chance, 0.6, _attributes(chance)),
            _stamp(int(chance.random() * 1e12)),
            _sometimes(chance, 0.5, _stamp(int(1e12 + chance.random() * 1e12))),
        )


def trade_rows(count: int, items: int, chance: Random) -> Iterator[Row]:
    """Yield trades in time order, in the order of the model's columns."""
    # The inner loop of the generator: it trades elegance for 2,000,000 rows in seconds, with few random numbers a row.
    uniform, bits = chance.random, chance.getrandbits
    kinds = [kind.name for kind in TradeKind]
    prices = [_base_price(2 + number * 3) for number in range(items)]
    step = 2 * THREE_YEARS / max(count, 1)
    moment = 0
    for number in range(1, count + 1):
        moment += int(uniform() * step)
        index = int(uniform() * uniform() * items)
        dice = bits(40)
        high = min(COINS_AT_MOST, int(prices[index] * (0.9 + 0.2 * uniform()))) if dice & 15 else None
        low = int(prices[index] * (0.8 + 0.1 * uniform())) if dice & 0xF0 else None
        high_volume = dice >> 20 & 0x3FFF if high is not None else None
        low_volume = dice >> 26 & 0x3FFF if low is not None else None
        yield (
            number,
            2 + index * 3,
            (EPOCH + timedelta(microseconds=moment)).isoformat(" ", "microseconds"),
            kinds[dice % 5],
            high,
            low,
            high_volume,
            low_volume,
            (high or 0) * (high_volume or 0) if dice & 0x300 else None,
            (high - low) / high if high and low else None,
            dice >> 10 & 1,
            SOURCES[dice >> 11 & 7],
            _note(dice >> 14),
        )


def watchlist_rows(items: int, chance: Random) -> Iterator[Row]:
    """Yield watchlist entries, in the order of the model's columns; each owner watches an item once."""
    number = 0
    for index in range(items):
        item = 2 + index * 3
        for owner in OWNERS:
            if chance.random() > 0.1:
                continue
            number += 1
            yield (
                number,
                owner,
                item,
                _sometimes(chance, 0.8, _money(chance, _base_price(item))),
                int(chance.random() < 0.5),
                _sometimes(chance, 0.7, _note(chance.getrandbits(26))),
                _sometimes(chance, 0.5, _preferences(chance)),
                _stamp(int(chance.random() * 5e13)),
                _sometimes(chance, 0.3, _stamp(int(5e13 + chance.random() * 4e13))),
            )


def _sometimes(chance: Random, share: float, value: Value) -> Value:
    return value if chance.random() < share else None


def _base_price(item: int) -> int:
    """From 1 coin to the game's limit, spread over the magnitudes."""
    return 1 + (item * 2_654_435_761 % 2**31) >> item * 7 % 30


def _money(chance: Random, price: int) -> float:
    """An amount of at most ten digits before the point; the column's NUMERIC affinity stores whole ones as integers."""
    return round(price * (0.5 + chance.random()), chance.choice((0, 2)))


def _item_name(chance: Random, variant: bool) -> str:
    name = f"{chance.choice(MATERIALS)} {chance.choice(THINGS)}"
    return f"{name} ({chance.choice(('p', 'p++', '4', 'broken', 'or'))})" if variant else name


def _attributes(chance: Random) -> str:
    return json.dumps(
        {
            "weight": round(chance.random() * 30, 3),
            "slot": chance.choice(("head", "shield", "two-handed", None)),
            "tags": chance.sample(("Mêlée", "magic", 'so-called "rare"', "日本"), chance.randrange(4)),
            "stackable": chance.random() < 0.3,
        }
    )


def _preferences(chance: Random) -> str:
    return json.dumps({"channel": chance.choice(("e-mail", "push")), "above": chance.random() < 0.5, "colour": "ünset"})


def _note(bits: int) -> str | None:
    """From 26 random bits: no note, an empty one, or three sentences."""
    if not bits & 0x7:
        return None
    if not bits & 0xF8:
        return ""
    return f"{NOTES[bits >> 8 & 0x1F]} {NOTES[bits >> 13 & 0x1F]} {NOTES[bits >> 18 & 0x1F]}"


def _stamp(microseconds: int) -> str:
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat(" ", "microseconds")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pgferry.sample.generate", description=__doc__)
    parser.add_argument("path", type=Path, metavar="PATH", help="the SQLite file to make; it must not exist")
    parser.add_argument("--rows", type=int, default=100_000, metavar="N", help="trades (default 100000)")
    parser.add_argument("--seed", type=int, default=7, help="the same seed makes the same rows (default 7)")
    given = parser.parse_args(arguments)
    try:
        generate(given.path, given.rows, seed=given.seed)
    except FerryError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
