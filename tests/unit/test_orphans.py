"""The rows without a parent are as many as SQLite's own check lists, by whichever way they are looked for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pgferry.sqlite.orphans import foreign_key_violations

NAME = 'trades of "today"'
PARENTS = (
    "id INTEGER PRIMARY KEY",
    "id INTEGER PRIMARY KEY DESC",
    "id INTEGER PRIMARY KEY, name TEXT UNIQUE",
    "id TEXT COLLATE NOCASE PRIMARY KEY",
    "id INT PRIMARY KEY",
    "id INTEGER NOT NULL, PRIMARY KEY (id)",
    "id INTEGER PRIMARY KEY) WITHOUT ROWID; --",
)
CHILDREN = (
    "p INTEGER REFERENCES parent",
    "p INTEGER REFERENCES parent (ID)",
    "P BIGINT REFERENCES Parent (id)",
    "p TEXT COLLATE NOCASE REFERENCES parent (id)",
    "p REFERENCES parent",
    "p INTEGER REFERENCES nowhere",
    "p INTEGER REFERENCES parent, q INTEGER REFERENCES parent",
    "p INTEGER, q INTEGER, FOREIGN KEY (p) REFERENCES parent (id)",
)
INDEXES = ("", "(p)", "(p, q)", "(p) WHERE p > 2", "(q)", "(p COLLATE NOCASE)", "(p DESC)")
VALUES = some.one_of(
    some.none(), some.integers(0, 6), some.sampled_from(["1", "a", "A", "2.0", b"\x01", 1.5, 3.0, 2**62])
)


@pytest.fixture
def file() -> Iterator[sqlite3.Connection]:
    with sqlite3.connect(":memory:") as opened:
        yield opened


def as_listed(file: sqlite3.Connection) -> int:
    return len(file.execute("PRAGMA foreign_key_check").fetchall())


@given(
    some.sampled_from(PARENTS),
    some.sampled_from(CHILDREN),
    some.sampled_from(INDEXES),
    some.lists(VALUES, max_size=5, unique=True),
    some.lists(some.tuples(VALUES, VALUES), max_size=8),
)
def test_they_are_those_that_sqlite_lists(
    parent: str, child: str, index: str, parents: list[object], children: list[tuple[object, object]]
) -> None:
    file = sqlite3.connect(":memory:")
    file.executescript(f"CREATE TABLE parent ({parent})")
    two = " q" in child
    file.execute(f"CREATE TABLE [{NAME}] ({child})")
    if index and ("q" not in index or two):
        file.execute(f"CREATE INDEX held ON [{NAME}] {index}")
    numbers_only = "INTEGER" in parent
    for value in parents:
        if isinstance(value, int) or not numbers_only:
            file.execute("INSERT OR IGNORE INTO parent (id) VALUES (?)", (value,))
    for row in children:
        file.execute(f"INSERT INTO [{NAME}] VALUES ({'?1, ?2' if two else '?1'})", row if two else row[:1])
    assert foreign_key_violations(file) == as_listed(file)


SHOWN_BY_INDEX: dict[str, Callable[[sqlite3.Connection], object]] = {
    "an index on the key": lambda file: file.execute(f"CREATE INDEX held ON [{NAME}] (p)"),
    "an index that begins with the key": lambda file: file.execute(f"CREATE INDEX held ON [{NAME}] (p, id)"),
}


@pytest.mark.parametrize("way", SHOWN_BY_INDEX)
def test_with_an_index_each_parent_is_looked_up_once(way: str, file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
    file.execute(f"CREATE TABLE [{NAME}] (id INTEGER PRIMARY KEY, p INTEGER REFERENCES parent)")
    SHOWN_BY_INDEX[way](file)
    file.execute("INSERT INTO parent VALUES (1), (2)")
    file.execute(f"INSERT INTO [{NAME}] (p) VALUES (1), (2), (2), (NULL)")
    asked: list[str] = []
    file.set_trace_callback(asked.append)
    assert foreign_key_violations(file) == 0
    assert not [statement for statement in asked if "foreign_key_check" in statement]
    file.execute(f"INSERT INTO [{NAME}] (p) VALUES (3), (3)")
    assert foreign_key_violations(file) == 2


def test_a_key_that_cannot_be_checked_hides_no_other(file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT)")
    file.execute("CREATE TABLE mismatched (name TEXT REFERENCES parent (name))")
    file.execute("CREATE TABLE orphaned (p INTEGER REFERENCES parent)")
    file.execute("INSERT INTO mismatched VALUES ('nobody')")
    file.execute("INSERT INTO orphaned VALUES (1), (2), (NULL)")
    with pytest.raises(sqlite3.OperationalError, match="foreign key mismatch"):
        as_listed(file)
    assert foreign_key_violations(file) == 2
