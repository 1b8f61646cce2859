"""An application cannot tell a captured file from another, and no row it changes goes unnoticed: random statements."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgferry.live.model import Capture, CapturedTable
from pgferry.quoting import quote
from pgferry.sqlite import outbox
from pgferry.sqlite.capture import install

SCHEMA = """
CREATE TABLE acct (id INTEGER PRIMARY KEY, email TEXT COLLATE NOCASE UNIQUE, code INT NOT NULL DEFAULT 5, tag,
  UNIQUE (code, tag));
CREATE UNIQUE INDEX one_tag ON acct (tag COLLATE RTRIM) WHERE code > 5 AND email IS NOT NULL;
CREATE INDEX plain_index ON acct (tag);
CREATE TABLE child (id INTEGER PRIMARY KEY AUTOINCREMENT, acct REFERENCES acct ON DELETE CASCADE ON UPDATE CASCADE,
  note UNIQUE);
CREATE TABLE tree (id INTEGER PRIMARY KEY, up REFERENCES tree ON DELETE CASCADE ON UPDATE CASCADE,
  aside REFERENCES tree ON DELETE SET NULL ON UPDATE SET DEFAULT);
CREATE TABLE late (email TEXT COLLATE NOCASE REFERENCES acct (email) ON UPDATE CASCADE ON DELETE SET DEFAULT
  DEFERRABLE INITIALLY DEFERRED, n INT PRIMARY KEY);
CREATE TABLE wr (a TEXT, b, v UNIQUE, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE TABLE wn (a TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID;
CREATE TABLE tk (k TEXT PRIMARY KEY, v UNIQUE ON CONFLICT REPLACE, w CHECK (w IS NOT 'bad'));
CREATE TABLE cnk (a, b COLLATE NOCASE, v, PRIMARY KEY (a, b));
CREATE TABLE nokey (a TEXT, b, c INT);
CREATE UNIQUE INDEX lowered ON nokey (lower(a), (c = '1') DESC, b) WHERE b <> "x";
CREATE TABLE gen (id INTEGER PRIMARY KEY, a INT NOT NULL DEFAULT 3, g INT AS (a % 7) STORED UNIQUE, h AS (a + 1),
  b TEXT NOT NULL ON CONFLICT REPLACE DEFAULT dflt, UNIQUE (b, h));
CREATE TABLE strong (id INTEGER PRIMARY KEY, n INT NOT NULL UNIQUE, x ANY UNIQUE) STRICT;
CREATE TABLE hid (rowid TEXT, "o""id" TEXT, v UNIQUE);
CREATE TABLE "new" ("a b" UNIQUE, "select" PRIMARY KEY);
CREATE TABLE nameless (rowid, _rowid_, oid INT PRIMARY KEY, v UNIQUE);
CREATE TABLE plumb (id INTEGER PRIMARY KEY);
CREATE TABLE audit (id INTEGER PRIMARY KEY, what, n, changed, last);
CREATE VIEW both AS SELECT acct.id AS id, email, note FROM acct JOIN child ON child.acct = acct.id;
CREATE TRIGGER t1 AFTER INSERT ON acct BEGIN
  INSERT INTO audit (what, n, changed, last) VALUES ('acct', NEW.id, changes(), last_insert_rowid());
  UPDATE nokey SET b = NEW.code WHERE c = NEW.code;
  INSERT INTO audit (what, n, changed, last) VALUES ('then', NEW.id, changes(), last_insert_rowid()); END;
CREATE TRIGGER t2 AFTER UPDATE OF email ON acct BEGIN UPDATE OR REPLACE child SET note = NEW.email WHERE acct = OLD.id;
  END;
CREATE TRIGGER t3 BEFORE DELETE ON tk WHEN OLD.k = 'A' BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER t4 AFTER UPDATE ON nokey BEGIN UPDATE nokey SET c = c + 1 WHERE rowid = NEW.rowid AND c < 20; END;
CREATE TRIGGER t5 BEFORE INSERT ON gen WHEN NEW.a = 13 BEGIN SELECT RAISE(ROLLBACK, 'thirteen'); END;
CREATE TRIGGER t6 AFTER INSERT ON strong WHEN NEW.n = 7 BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER t7 AFTER UPDATE ON strong WHEN NEW.n = 8 BEGIN SELECT RAISE(FAIL, 'eight'); END;
CREATE TRIGGER t8 INSTEAD OF INSERT ON both BEGIN INSERT OR REPLACE INTO acct (email) VALUES (NEW.email);
  INSERT INTO child (acct, note) VALUES (last_insert_rowid(), NEW.note); END;
CREATE TRIGGER t9 INSTEAD OF UPDATE ON both BEGIN UPDATE acct SET email = NEW.email WHERE id = OLD.id; END;
CREATE TRIGGER ta AFTER DELETE ON wr BEGIN DELETE FROM wn WHERE a = OLD.a; END;
CREATE TRIGGER tb AFTER UPDATE ON cnk BEGIN UPDATE cnk SET v = 'swept' WHERE a = NEW.a AND v = 1; END;
CREATE TRIGGER tc AFTER DELETE ON hid BEGIN INSERT INTO audit (what, n, changed) VALUES ('hid', OLD.v, changes()); END;
"""
TABLES = {
    "acct": ["id", "email", "code", "tag"], "child": ["id", "acct", "note"], "tree": ["id", "up", "aside"],
    "late": ["email", "n"],
    "wr": ["a", "b", "v"], "wn": ["a", "v"], "tk": ["k", "v", "w"], "cnk": ["a", "b", "v", "rowid"],
    "nokey": ["a", "b", "c", "rowid"], "gen": ["id", "a", "b"], "strong": ["id", "n", "x"],
    "hid": ["rowid", 'o"id', "v", "_rowid_"], "new": ["a b", "select", "rowid"], "nameless": ["rowid", "oid", "v"],
    "both": ["email", "note"],
}  # fmt: skip
VALUES = [
    "NULL", "NULL", "0", "1", "1", "2", "3", "4", "5", "6", "7", "8", "9", "13", "1.0", "2.5", "'1'", "'a'",
    "'A'", "'a '",
    "'b'", "'B'", "'x'", "'é'", "'bad'", "x'61'", "9007199254740993", "CAST(x'ff' AS TEXT)",
]  # fmt: skip
OR = ["", "", "", "OR ABORT", "OR FAIL", "OR IGNORE", "OR REPLACE", "OR REPLACE", "OR ROLLBACK"]


class Statements:
    """Random statements, the same for the same seed; those of which SQLite defines what they do.

    They stay clear of what `NOTICED` lists: there SQLite itself treats a table with triggers unlike one without.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.recursive = False

    def __iter__(self) -> Iterator[str]:
        makers = [self.insert] * 8 + [self.update] * 6 + [self.delete] * 2 + [self.upsert] * 3 + [self.select] * 2
        makers += [self.control] * 6
        while True:
            yield self.dice.choice(makers)()

    def control(self) -> str:
        statement = self.dice.choice(
            ["BEGIN", "BEGIN", "BEGIN IMMEDIATE", "COMMIT", "COMMIT", "COMMIT", "ROLLBACK", "SAVEPOINT s",
             "SAVEPOINT s",
             "ROLLBACK TO s", "RELEASE s", "PRAGMA recursive_triggers=ON", "PRAGMA recursive_triggers=OFF",
             "PRAGMA defer_foreign_keys=ON"]
        )  # fmt: skip
        if "recursive" in statement:
            self.recursive = statement.endswith("ON")
        return statement

    def conflict(self, table: str, verb: str) -> str:
        clause = self.dice.choice(OR)
        # SQLite misses orphans when REPLACE writes a table that refers to itself, and, where triggers are recursive,
        # takes a row for its own duplicate when REPLACE updates a table with a delete trigger.
        wrong = table == "tree" or (self.recursive and verb == "UPDATE")
        return f"{verb} {clause}" if not (wrong and clause == "OR REPLACE") else verb

    def insert(self) -> str:
        table = self.table()
        columns = self.columns(table)
        rows = ", ".join(f"({self.row(table, columns)})" for _ in range(self.dice.choice([1, 1, 1, 2, 4])))
        return (
            f"{self.conflict(table, 'INSERT')} INTO {self.names(table, columns)} VALUES {rows}{self.returning(table)}"
        )

    def select(self) -> str:
        """An INSERT … SELECT."""
        table = self.table()
        columns = self.columns(table)
        source = self.dice.choice([name for name in TABLES if name != "both"])
        found = [self.dice.choice([quote(self.dice.choice(TABLES[source])), self.value()]) for _ in columns]
        taken = ", ".join(fitting(table, name, value) for name, value in zip(columns, found, strict=True))
        chosen = f"SELECT {taken} FROM {quote(source)} ORDER BY 1 LIMIT {self.dice.randint(0, 4)}"
        return f"{self.conflict(table, 'INSERT')} INTO {self.names(table, columns)} {chosen}"

    def upsert(self) -> str:
        table, target = self.dice.choice(
            [("acct", "(email)"), ("acct", "(code, tag)"), ("acct", "(id)"), ("wr", "(a, b)"), ("wn", "(a)"),
             ("cnk", "(a, b)"), ("gen", "(g)"), ("strong", "(x)"), ("new", '("select")'), ("acct", ""), ("tk", "(k)")]
        )  # fmt: skip
        columns = self.columns(table)
        changed = self.dice.choice(TABLES[table])
        value = self.dice.choice([self.value(), f"excluded.{quote(self.dice.choice(TABLES[table][:3]))}"])
        action = f"UPDATE SET {setting(table, changed, value)}"
        action = action if target and self.dice.random() < 0.7 else "NOTHING"
        into = f"INSERT INTO {self.names(table, columns)} VALUES ({self.row(table, columns)})"
        return f"{into} ON CONFLICT {target} DO {action}{self.returning(table)}"

    def update(self) -> str:
        table = self.table()
        if table == "tk" and self.recursive:
            return self.control()  # Its column v says ON CONFLICT REPLACE.
        sets = ", ".join(setting(table, name, self.new_value(table)) for name in self.columns(table))
        source = " FROM audit" if self.dice.random() < 0.05 else ""
        where = self.where(table) if not source else " WHERE audit.id = 1"
        return f"{self.conflict(table, 'UPDATE')} {quote(table)} SET {sets}{source}{where}{self.returning(table)}"

    def delete(self) -> str:
        table = self.table()
        where = self.where(table) if self.dice.random() < 0.9 else ""
        return f"DELETE FROM {quote(table)}{where}{self.returning(table)}"

    def table(self) -> str:
        return self.dice.choice(list(TABLES))

    def columns(self, table: str) -> list[str]:
        names = TABLES[table]
        return self.dice.sample(names, self.dice.randint(1, len(names)))

    def names(self, table: str, columns: list[str]) -> str:
        return f"{quote(table)} ({', '.join(map(quote, columns))})"

    def row(self, table: str, columns: list[str]) -> str:
        return ", ".join(fitting(table, name, self.value()) for name in columns)

    def value(self) -> str:
        return self.dice.choice(VALUES)

    def new_value(self, table: str) -> str:
        other = quote(self.dice.choice(TABLES[table]))
        return self.dice.choice([self.value(), self.value(), other, f"{other} + 1", f"10 - {other}"])

    def where(self, table: str) -> str:
        column = quote(self.dice.choice(TABLES[table]))
        compare = self.dice.choice(["=", "=", "=", "IS", ">", "<>"])
        # The plus keeps SQLite from the order of an index.
        return self.dice.choice(["", f" WHERE +{column} {compare} {self.value()}", f" WHERE +{column} IS NOT NULL"])

    def returning(self, table: str) -> str:
        return " RETURNING *" if table != "both" and self.dice.random() < 0.15 else ""


def fitting(table: str, column: str, value: str) -> str:
    """Keep text and fractions out of rowids and of the STRICT table."""
    whole = column in ("id", "_rowid_") or (column == "rowid" and table not in ("hid", "nameless"))
    return f"CAST({value} AS INTEGER)" if whole or (table, column) == ("strong", "n") else value


def setting(table: str, column: str, value: str) -> str:
    """Keep NULL out of rowids, too, which only an INSERT takes for the next number."""
    fit = fitting(table, column, value)
    return f"{quote(column)} = " + (f"coalesce({fit}, 3)" if fit != value else fit)


def outcome(connection: sqlite3.Connection, statement: str) -> tuple[object, ...]:
    """Run a statement and return all that an application sees of it."""
    cursor = connection.cursor()
    try:
        rows: object = cursor.execute(statement).fetchall()
    except sqlite3.Error as error:
        rows = (type(error), str(error), error.sqlite_errorname)
        if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
            # After this error, last_insert_rowid() is that of the row that failed if the table has triggers.
            connection.execute("INSERT OR REPLACE INTO plumb VALUES (1)")
    seen = connection.execute("SELECT changes(), last_insert_rowid()").fetchone()
    return rows, cursor.rowcount, cursor.lastrowid, seen, connection.in_transaction


def content(connection: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of the application with its rowid; undecodable text as bytes."""
    found = {}
    for table in [*TABLES, "audit", "sqlite_sequence"]:
        if table != "both":
            rows = connection.execute(f"SELECT * FROM {quote(table)}").fetchall()
            found[table] = sorted(rows, key=repr)
    return found


@dataclass
class Addressed:
    """A captured table's rows by what the outbox says of them."""

    rows: dict[tuple[object, ...], list[tuple[object, ...]]]

    @classmethod
    def read(cls, connection: sqlite3.Connection, table: CapturedTable) -> Addressed:
        names = ([table.rowid] if table.rowid else []) + list(table.key)
        rows: dict[tuple[object, ...], list[tuple[object, ...]]] = {}
        wanted = ", ".join(quote(name) for name in names)
        for row in connection.execute(f"SELECT {wanted}, * FROM {quote(table.name)}"):
            rows.setdefault(typed(row[: len(names)]), []).append(typed(row[len(names) :]))
        return cls(rows)

    def differing(self, other: Addressed) -> set[tuple[object, ...]]:
        addresses = self.rows.keys() | other.rows.keys()
        return {
            a for a in addresses if sorted(self.rows.get(a, []), key=repr) != sorted(other.rows.get(a, []), key=repr)
        }


def typed(values: tuple[object, ...]) -> tuple[object, ...]:
    """Tell 1 from 1.0."""
    return tuple((type(value).__name__, value) for value in values)


def make(path: Path, script: str = SCHEMA, mode: str = "wal") -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.executescript(script)
    return path


def opened(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=OFF")
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    return connection


def noted(connection: sqlite3.Connection, table: CapturedTable, after: int) -> set[tuple[object, ...]]:
    entries = outbox.touched(connection, table, after, outbox.last_id(connection))
    rowids = [(entry.rowid,) if table.rowid else () for entry in entries]
    return {typed((*rowid, *entry.key)) for rowid, entry in zip(rowids, entries, strict=True)}


@pytest.mark.parametrize("seed", range(6))
def test_random_statements_are_the_same_with_capture_and_all_noted(tmp_path: Path, seed: int) -> None:
    plain, watched = make(tmp_path / "plain.db"), make(tmp_path / "watched.db")
    capture = install(watched, "token")
    with closing(opened(plain)) as one, closing(opened(watched)) as two:
        for connection in (one, two):  # Not turned on and off: what violates a key already is counted differently.
            connection.execute(f"PRAGMA foreign_keys={seed % 2}")
        before, position = _addressed(two, capture), 0
        for number, statement in enumerate(Statements(seed)):
            if number == 1500:
                break
            assert outcome(two, statement) == outcome(one, statement), f"{number}: {statement}"
            if number % 10 == 9 and not two.in_transaction:
                assert content(two) == content(one), f"{number}: {statement}"
                before, position = _check_noted(two, capture, before, position)


def _addressed(connection: sqlite3.Connection, capture: Capture) -> dict[str, Addressed]:
    return {table.name: Addressed.read(connection, table) for table in capture.tables}


def _check_noted(
    connection: sqlite3.Connection, capture: Capture, before: dict[str, Addressed], position: int
) -> tuple[dict[str, Addressed], int]:
    now = _addressed(connection, capture)
    for table in capture.tables:
        missing = now[table.name].differing(before[table.name]) - noted(connection, table, position)
        assert not missing, (table.name, missing)
    return now, outbox.last_id(connection)


# What an application could notice, for any trigger on a table does that to it.
NOTICED = {
    "a STRICT table tells of a wrong type before anything else": [
        "INSERT INTO strong (id, n) VALUES (1, 1)", "INSERT OR IGNORE INTO strong (id, n) VALUES (1, 'b')",
    ],
    "the rowid of a row that its foreign key kept out": [
        "PRAGMA foreign_keys=ON", "INSERT INTO child (id, acct) VALUES (5, 77)", "SELECT last_insert_rowid()",
    ],
    "a foreign key violated before balances one violated anew": [
        "INSERT INTO tree VALUES (1, 9, NULL)", "PRAGMA foreign_keys=ON", "INSERT INTO tree VALUES (9, 77, NULL)",
    ],
    "rows written before a wrong rowid are taken back": [
        "BEGIN", "INSERT OR REPLACE INTO cnk (rowid, a) VALUES (1, 1), ('x', 2)", "SELECT * FROM cnk", "COMMIT",
    ],
    "the order in which one statement visits its rows": [
        "INSERT INTO tk (k, v) VALUES ('a', 9), ('b', 1)", "UPDATE OR FAIL tk SET k = 'c' WHERE v > 0",
    ],
    "REPLACE in an UPDATE, where triggers are recursive": [
        "PRAGMA recursive_triggers=ON", "INSERT INTO new VALUES (1, 1), (2, 2)",
        """UPDATE OR REPLACE new SET "a b" = 2, "select" = "select" WHERE "select" = 1""",
    ],
    "rows copied whole are numbered anew": [
        "INSERT INTO hid (_rowid_) VALUES (5), (9)", "CREATE TABLE hid2 (rowid TEXT, 'o""id' TEXT, v UNIQUE)",
        "INSERT INTO hid2 SELECT * FROM hid", "SELECT _rowid_ FROM hid2", "DELETE FROM hid",
        "INSERT INTO hid SELECT * FROM hid2", "SELECT _rowid_ FROM hid",
    ],
}  # fmt: skip
ANY_TRIGGERS = """
CREATE TRIGGER "{0} bi" BEFORE INSERT ON "{0}" BEGIN SELECT 1; END; CREATE TRIGGER "{0} ai" AFTER INSERT ON "{0}" BEGIN
SELECT 1; END; CREATE TRIGGER "{0} bu" BEFORE UPDATE ON "{0}" BEGIN SELECT 1; END; CREATE TRIGGER "{0} au" AFTER UPDATE
ON "{0}" BEGIN SELECT 1; END; CREATE TRIGGER "{0} ad" AFTER DELETE ON "{0}" BEGIN SELECT 1; END;"""


@pytest.mark.parametrize("name", NOTICED)
def test_what_is_noticed_is_what_any_trigger_does(tmp_path: Path, name: str) -> None:
    triggers = "".join(ANY_TRIGGERS.format(table) for table in TABLES if table != "both")
    other, watched = make(tmp_path / "other.db", SCHEMA + triggers), make(tmp_path / "watched.db")
    install(watched, "token")
    with closing(opened(other)) as one, closing(opened(watched)) as two:
        for statement in NOTICED[name]:
            assert outcome(two, statement) == outcome(one, statement), statement


def test_total_changes_counts_the_notes(tmp_path: Path) -> None:
    path = make(tmp_path / "a.db")
    install(path, "token")
    with closing(opened(path)) as connection:
        connection.execute("INSERT INTO tree VALUES (1, NULL, NULL)")
        assert connection.execute("SELECT changes(), total_changes()").fetchone() == (1, 2)
