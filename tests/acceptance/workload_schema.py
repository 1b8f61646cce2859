"""The application that the live move is tried on: its schema for both databases, and the values that it writes.

It has what makes change capture hard: keys of every kind and none, five unique indexes on one table, cascades,
triggers of its own, generated columns, a table without rowids, and values in SQLAlchemy's forms.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

Values = dict[str, Any]

SQLITE = (
    """CREATE TABLE accounts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        handle VARCHAR(40) NOT NULL UNIQUE,
        nick VARCHAR(40) COLLATE NOCASE NOT NULL,
        region VARCHAR(8) NOT NULL,
        number INTEGER NOT NULL,
        email VARCHAR(80),
        slot INTEGER,
        active BOOLEAN NOT NULL CHECK (active IN (0, 1)),
        tier VARCHAR(8) NOT NULL,
        balance NUMERIC(12, 2) NOT NULL,
        rating FLOAT,
        preferences JSON,
        avatar BLOB,
        uid CHAR(32) NOT NULL,
        born DATE,
        wakes TIME,
        created_at DATETIME NOT NULL,
        updated_at DATETIME,
        handle_length INTEGER GENERATED ALWAYS AS (length(handle)) VIRTUAL,
        UNIQUE (region, number))""",
    "CREATE UNIQUE INDEX accounts_nick ON accounts (nick)",
    "CREATE UNIQUE INDEX accounts_email ON accounts (lower(email))",
    "CREATE UNIQUE INDEX accounts_slot ON accounts (slot) WHERE active = 1",
    "CREATE TABLE clubs (name VARCHAR(30) PRIMARY KEY NOT NULL, title TEXT)",
    """CREATE TABLE memberships (
        account_id BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE ON UPDATE CASCADE,
        club VARCHAR(30) NOT NULL REFERENCES clubs (name) ON DELETE CASCADE ON UPDATE CASCADE,
        since DATE,
        PRIMARY KEY (account_id, club))""",
    "CREATE TABLE nodes (id INTEGER PRIMARY KEY, parent_id BIGINT REFERENCES nodes (id) ON DELETE CASCADE, title TEXT)",
    "CREATE INDEX nodes_parent ON nodes (parent_id)",
    """CREATE TABLE orders (
        id INTEGER PRIMARY KEY,
        account_id BIGINT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE ON UPDATE CASCADE,
        referrer_id BIGINT REFERENCES accounts (id) ON DELETE SET NULL ON UPDATE CASCADE,
        quantity INTEGER NOT NULL,
        unit_cents BIGINT NOT NULL,
        total_cents BIGINT GENERATED ALWAYS AS (quantity * unit_cents) STORED,
        paid BOOLEAN NOT NULL,
        placed_at DATETIME NOT NULL)""",
    "CREATE INDEX orders_account ON orders (account_id)",
    "CREATE INDEX orders_referrer ON orders (referrer_id)",
    """CREATE TABLE order_lines (
        order_id BIGINT NOT NULL REFERENCES orders (id) ON DELETE CASCADE ON UPDATE CASCADE,
        line INTEGER NOT NULL,
        sku VARCHAR(30) NOT NULL,
        price NUMERIC(10, 2) NOT NULL,
        payload BLOB,
        PRIMARY KEY (order_id, line),
        UNIQUE (order_id, sku)) WITHOUT ROWID""",
    """CREATE TABLE products (
        sku VARCHAR(30) PRIMARY KEY NOT NULL,
        title TEXT NOT NULL,
        stock INTEGER NOT NULL,
        shelf VARCHAR(8) NOT NULL,
        position INTEGER NOT NULL,
        barcode VARCHAR(30) GENERATED ALWAYS AS (shelf || '-' || position) STORED UNIQUE,
        weight FLOAT,
        updated_at DATETIME)""",
    "CREATE TABLE options (name VARCHAR(60) PRIMARY KEY NOT NULL, value JSON, revision INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE tags (label VARCHAR(30) COLLATE NOCASE PRIMARY KEY NOT NULL, uses INTEGER NOT NULL, colour TEXT)",
    "CREATE TABLE seats (id INTEGER PRIMARY KEY, place INTEGER NOT NULL UNIQUE, holder TEXT)",
    "CREATE TABLE scratch (id INTEGER PRIMARY KEY, label TEXT, amount FLOAT)",
    "CREATE TABLE events (kind TEXT, amount FLOAT, at DATETIME, body BLOB)",
    "CREATE TABLE audit (id INTEGER PRIMARY KEY, what TEXT NOT NULL, before TEXT, after TEXT, at DATETIME)",
    """CREATE TABLE acknowledged (
        token VARCHAR(60) PRIMARY KEY NOT NULL, worker INTEGER NOT NULL, serial INTEGER NOT NULL, at DATETIME)""",
)

SQLITE_TRIGGERS = (
    """CREATE TRIGGER products_touched AFTER UPDATE OF title, stock, weight ON products BEGIN
        UPDATE products SET updated_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE sku = NEW.sku; END""",
    """CREATE TRIGGER products_sold AFTER UPDATE OF stock ON products WHEN NEW.stock <> OLD.stock BEGIN
        INSERT INTO audit (what, before, after, at)
        VALUES ('stock of ' || NEW.sku, OLD.stock, NEW.stock, strftime('%Y-%m-%d %H:%M:%f000', 'now')); END""",
    """CREATE TRIGGER products_new AFTER INSERT ON products BEGIN
        INSERT INTO audit (what, after) VALUES ('new', NEW.sku); END""",
    """CREATE TRIGGER products_gone AFTER DELETE ON products BEGIN
        INSERT INTO audit (what, before) VALUES ('gone', OLD.sku); END""",
)
"""They fire for whoever writes to the file: also for what is carried back into it."""

POSTGRES = (
    "CREATE TYPE account_tier AS ENUM ('FREE', 'PLUS', 'PRO')",
    """CREATE TABLE accounts (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        handle varchar(40) NOT NULL UNIQUE,
        nick varchar(40) NOT NULL,
        region varchar(8) NOT NULL,
        number integer NOT NULL,
        email varchar(80),
        slot integer,
        active boolean NOT NULL,
        tier account_tier NOT NULL,
        balance numeric(12, 2) NOT NULL,
        rating double precision,
        preferences jsonb,
        avatar bytea,
        uid uuid NOT NULL,
        born date,
        wakes time,
        created_at timestamp NOT NULL,
        updated_at timestamp,
        handle_length integer GENERATED ALWAYS AS (length(handle)) STORED,
        UNIQUE (region, number))""",
    "CREATE UNIQUE INDEX accounts_nick ON accounts (lower(nick))",
    "CREATE UNIQUE INDEX accounts_email ON accounts (lower(email))",
    "CREATE UNIQUE INDEX accounts_slot ON accounts (slot) WHERE active",
    "CREATE TABLE clubs (name varchar(30) PRIMARY KEY, title text)",
    """CREATE TABLE memberships (
        account_id bigint NOT NULL REFERENCES accounts (id) ON DELETE CASCADE ON UPDATE CASCADE,
        club varchar(30) NOT NULL REFERENCES clubs (name) ON DELETE CASCADE ON UPDATE CASCADE,
        since date,
        PRIMARY KEY (account_id, club))""",
    """CREATE TABLE nodes (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        parent_id bigint REFERENCES nodes (id) ON DELETE CASCADE,
        title text)""",
    "CREATE INDEX nodes_parent ON nodes (parent_id)",
    """CREATE TABLE orders (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        account_id bigint NOT NULL REFERENCES accounts (id) ON DELETE CASCADE ON UPDATE CASCADE,
        referrer_id bigint REFERENCES accounts (id) ON DELETE SET NULL ON UPDATE CASCADE,
        quantity integer NOT NULL,
        unit_cents bigint NOT NULL,
        total_cents bigint GENERATED ALWAYS AS (quantity * unit_cents) STORED,
        paid boolean NOT NULL,
        placed_at timestamp NOT NULL)""",
    "CREATE INDEX orders_account ON orders (account_id)",
    "CREATE INDEX orders_referrer ON orders (referrer_id)",
    """CREATE TABLE order_lines (
        order_id bigint NOT NULL REFERENCES orders (id) ON DELETE CASCADE ON UPDATE CASCADE,
        line integer NOT NULL,
        sku varchar(30) NOT NULL,
        price numeric(10, 2) NOT NULL,
        payload bytea,
        PRIMARY KEY (order_id, line),
        UNIQUE (order_id, sku))""",
    """CREATE TABLE products (
        sku varchar(30) PRIMARY KEY,
        title text NOT NULL,
        stock integer NOT NULL,
        shelf varchar(8) NOT NULL,
        position integer NOT NULL,
        barcode varchar(30) GENERATED ALWAYS AS (shelf || '-' || position::text) STORED UNIQUE,
        weight double precision,
        updated_at timestamp)""",
    "CREATE TABLE options (name varchar(60) PRIMARY KEY, value jsonb, revision integer NOT NULL)",
    "CREATE TABLE tags (label varchar(30) PRIMARY KEY, uses integer NOT NULL, colour text)",
    "CREATE UNIQUE INDEX tags_label ON tags (lower(label))",
    """CREATE TABLE seats (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, place integer NOT NULL UNIQUE, holder text)""",
    """CREATE TABLE scratch (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, label text, amount double precision)""",
    "CREATE TABLE events (kind text, amount double precision, at timestamp, body bytea)",
    """CREATE TABLE audit (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
        what text NOT NULL, before text, after text, at timestamp)""",
    """CREATE TABLE acknowledged (
        token varchar(60) PRIMARY KEY, worker integer NOT NULL, serial integer NOT NULL, at timestamp)""",
)

TABLES = tuple(match[1] for sql in SQLITE if (match := re.match(r"CREATE TABLE (\w+)", sql)))

WORDS = ("plain", "O'Malley", 'so-called "rare"', "très élégant", "日本", "🐉", "two\nlines", "back\\slash", "", "100%")


class Chance(Random):
    """A seeded source of the application's values, as Python values; `stored` gives SQLite's form of them.

    What is unique comes from small pools, so that rows collide all the time.
    """

    def some(self, share: float) -> bool:
        return self.random() < share

    def cased(self, word: str) -> str:
        return self.choice((word, word.upper(), word.title()))

    def handle(self) -> str:
        return f"user-{self.randrange(500)}"

    def nick(self) -> str:
        return self.cased(f"nick {self.randrange(500)}")

    def email(self) -> str | None:
        return self.cased(f"mail{self.randrange(500)}@example.org") if self.some(0.8) else None

    def slot(self) -> int | None:
        return self.randrange(200) if self.some(0.7) else None

    def sku(self) -> str:
        series = self.choice(("AX", "ö", "z z", "q'"))
        return f"{series}-{self.randrange(40)}"

    def club(self) -> str:
        return f"club {self.randrange(25)}"

    def words(self) -> str:
        return " ".join(self.choices(WORDS, k=self.randrange(1, 6)))

    def money(self) -> Decimal:
        return Decimal(self.choice((0, 100, self.randrange(-(10**6), 10**9), self.randrange(10**4)))) / 100

    def real(self) -> float:
        return self.choice((0.1, -1.5, 1e-300, 1e300, self.random(), self.gauss(0, 1e6), float(self.randrange(100))))

    def blob(self) -> bytes:
        return self.randbytes(self.choice((0, 1, 16, 300, 3000)))

    def stamp(self) -> datetime:
        moment = datetime(2019, 12, 31, 23, 59, 59) + timedelta(microseconds=self.randrange(10**14))
        return moment if self.some(0.8) else moment.replace(microsecond=0)

    def document(self) -> Values | None:
        if self.some(0.2):
            return None
        return {
            "theme": self.choice(("dark", "light", None)),
            "sizes": [self.randrange(100), round(self.random(), 3), -1],
            "note": self.words(),
            "nested": {"on": self.some(0.5), "é": [[], {}]},
        }

    def account(self) -> Values:
        return {
            "handle": self.handle(),
            "nick": self.nick(),
            "region": self.choice(("north", "Süd", "o'st")),
            "number": self.randrange(170),
            "email": self.email(),
            "slot": self.slot(),
            "active": self.some(0.6),
            "tier": self.choice(("FREE", "PLUS", "PRO")),
            "balance": self.money(),
            "rating": self.real() if self.some(0.9) else None,
            "preferences": self.document(),
            "avatar": self.blob() if self.some(0.5) else None,
            "uid": UUID(int=self.getrandbits(128), version=4),
            "born": self.stamp().date() if self.some(0.7) else None,
            "wakes": self.stamp().time() if self.some(0.5) else None,
            "created_at": self.stamp(),
            "updated_at": self.stamp() if self.some(0.5) else None,
        }

    def order(self, account: int, referrer: int | None) -> Values:
        return {
            "account_id": account,
            "referrer_id": referrer,
            "quantity": self.randrange(1, 50),
            "unit_cents": self.choice((99, 2**40, self.randrange(10**6))),
            "paid": self.some(0.5),
            "placed_at": self.stamp(),
        }

    def order_line(self, order: int, line: int) -> Values:
        payload = self.blob() if self.some(0.4) else None
        return {"order_id": order, "line": line, "sku": self.sku(), "price": self.money() % 10**7, "payload": payload}

    def product(self) -> Values:
        return {
            "sku": self.sku(),
            "title": self.words(),
            "stock": self.randrange(1000),
            "shelf": self.choice("ABC"),
            "position": self.randrange(60),
            "weight": self.real(),
            "updated_at": None,
        }

    def event(self) -> Values:
        """One of few: a table without a key is to hold many equal rows."""
        kind = self.choice(("login", "logout", None))
        body = self.choice((None, b"", b"\x00\xff"))
        return {"kind": kind, "amount": self.choice((None, 0.5, 3.0)), "at": datetime(2024, 2, 29, 12), "body": body}


def stored(value: Any) -> Any:
    """Return a value as SQLAlchemy stores it in SQLite."""
    if isinstance(value, datetime):
        return value.isoformat(" ", "microseconds")
    if isinstance(value, time):
        return value.isoformat("microseconds")
    if isinstance(value, date):
        return value.isoformat()
    return _SCALARS.get(type(value), _as_it_is)(value)


def _as_it_is(value: Any) -> Any:
    return value


_SCALARS: Mapping[type, Callable[[Any], Any]] = {
    bool: int,
    Decimal: float,
    UUID: lambda value: value.hex,
    dict: json.dumps,
    list: json.dumps,
}


def create_sqlite(path: Path, seed: int = 1, *, wal: bool = True, accounts: int = 150, triggers: bool = True) -> None:
    """Make the application's SQLite file with some rows in every table; in rollback-journal mode without `wal`."""
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
        with file:
            for statement in (*SQLITE, *(SQLITE_TRIGGERS if triggers else ())):
                file.execute(statement)
            _fill(file, Chance(f"seed rows {seed}"), accounts)


def _fill(file: sqlite3.Connection, chance: Chance, accounts: int) -> None:
    for _ in range(accounts):
        insert(file, "accounts", chance.account(), "INSERT OR IGNORE")
    ids = [id_ for (id_,) in file.execute("SELECT id FROM accounts")]
    for number in range(25):
        insert(file, "clubs", {"name": f"club {number}", "title": chance.words()})
        insert(file, "products", chance.product(), "INSERT OR IGNORE")
        insert(file, "seats", {"place": number, "holder": chance.words()})
        insert(file, "options", {"name": f"option/{number}", "value": chance.document(), "revision": 1})
        insert(file, "tags", {"label": chance.cased(f"tag {number}"), "uses": number, "colour": None})
        insert(file, "nodes", {"parent_id": number // 3 or None, "title": chance.words()})
    for _ in range(2 * accounts):
        order = insert(file, "orders", chance.order(chance.choice(ids), chance.choice((None, *ids[:9]))))
        for line in range(chance.randrange(3)):
            insert(file, "order_lines", chance.order_line(order, line), "INSERT OR IGNORE")
        membership = {"account_id": chance.choice(ids), "club": chance.club(), "since": chance.stamp().date()}
        insert(file, "memberships", membership, "INSERT OR IGNORE")
        insert(file, "events", chance.event())


def insert(file: sqlite3.Connection, table: str, values: Values, verb: str = "INSERT", tail: str = "") -> int:
    """Write a row and return its rowid; `verb` may be INSERT OR REPLACE, `tail` an ON CONFLICT clause."""
    marks = ", ".join("?" * len(values))
    sql = f"{verb} INTO {table} ({', '.join(values)}) VALUES ({marks}) {tail}"
    return file.execute(sql, [stored(value) for value in values.values()]).lastrowid or 0


# ---------------------------------------------------------------- the forms of its values

_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}")
_TIME = re.compile(r"\d\d:\d\d:\d\d\.\d{6}")

FORMS: Mapping[str, Callable[[Any], bool]] = {
    "INTEGER": lambda value: isinstance(value, int),
    "BIGINT": lambda value: isinstance(value, int),
    "BOOLEAN": lambda value: isinstance(value, int) and value in (0, 1),
    "NUMERIC": lambda value: isinstance(value, int | float),
    "FLOAT": lambda value: isinstance(value, float),
    "VARCHAR": lambda value: isinstance(value, str),
    "TEXT": lambda value: isinstance(value, str),
    "BLOB": lambda value: isinstance(value, bytes),
    "CHAR": lambda value: isinstance(value, str) and bool(re.fullmatch("[0-9a-f]{32}", value)),
    "DATETIME": lambda value: isinstance(value, str) and bool(_STAMP.fullmatch(value)),
    "DATE": lambda value: isinstance(value, str) and date.fromisoformat(value).isoformat() == value,
    "TIME": lambda value: isinstance(value, str) and bool(_TIME.fullmatch(value)),
    "JSON": lambda value: isinstance(value, str) and json.dumps(json.loads(value)) == value,
}
"""Declared type -> whether a value has the form in which the application stores it."""


def misshapen(path: Path) -> list[str]:
    """Return a line for each value of the file that is not in the form in which the application would store it."""
    found = []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        for table in TABLES:
            for _, column, declared, *_ in file.execute("SELECT * FROM pragma_table_xinfo(?)", (table,)).fetchall():
                fits = FORMS[re.sub(r"[( ].*", "", declared)]
                values = file.execute(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")
                found += [f"{table}.{column}: {value!r}" for (value,) in values if not fits(value)]
    return found
