"""How long the values and rows of a file are: the longest by name, without reading them where SQLite need not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pgferry.convert.row_width import FIXED, HEAD, INLINE, LEAST, PAGE_ROOM, POINTER
from pgferry.model import Key, PgKind, SourceTable
from pgferry.quoting import quote
from pgferry.sqlite.wide import groups, joined

UTF16_GROWTH = 1.5
"""How many times longer a text may be in UTF-8 than in UTF-16: two bytes a character become three at the most."""

_SLICE = 1 << 20


@dataclass(frozen=True, slots=True)
class Longest:
    """A longest value or row, in bytes of UTF-8 and of BLOBs, and the address of the row."""

    table: SourceTable
    column: str
    """Empty where it is the whole row."""
    bytes: int
    key: Key

    def __str__(self) -> str:
        name = f"{self.table.name}.{self.column}" if self.column else f"a row of {self.table.name}"
        return f"{name} of {shown_key(self.table, self.key)} ({self.bytes:,} bytes)"


@dataclass(frozen=True, slots=True)
class WideRows:
    """The rows of a table that take more than a page: how many, and the widest of them."""

    table: SourceTable
    rows: int
    bytes: int
    key: Key

    def __str__(self) -> str:
        widest = f"{shown_key(self.table, self.key)} with {self.bytes:,} bytes or more"
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} of {self.table.name}, the widest {widest}"


def shown_key(table: SourceTable, key: Key) -> str:
    """Return a row's address for people: `id=42`."""
    names = (table.rowid_column,) if table.rowid_column else table.address
    shown = ", ".join(f"{name}={value!r:.80}" for name, value in zip(names, key, strict=False))
    return shown or "(it has no key)"


def longest_values(connection: sqlite3.Connection, table: SourceTable, at_least: int) -> tuple[Longest, ...]:
    """Return the longest value of each column that has one of that many bytes, with the address of a row that has it.

    One scan for each 500 columns, and one more for each column whose value is told.
    """
    names = [column.name for column in table.columns]
    growth = _prepare(connection)
    suspects = []
    for part in groups(names):
        terms = ", ".join(f"max({_stored(name)})" for name in part)
        found = connection.execute(f"SELECT {terms} FROM {_of(table)}").fetchone()
        suspects += [name for name, size in zip(part, found, strict=True) if size and size * growth >= at_least]
    return tuple(longest for name in suspects for longest in _longest(connection, table, [name], at_least, growth))


def longest_row(connection: sqlite3.Connection, table: SourceTable, at_least: int) -> Longest | None:
    """Return the row whose values take the most bytes together, if that many."""
    names = [column.name for column in table.columns]
    found = _longest(connection, table, names, at_least, _prepare(connection))
    return next((replace(longest, column="") for longest in found), None)


def utf8_octets(raw: bytes | None, encoding: str) -> int:
    """Return how many bytes of UTF-8 a text takes; of text that is none, a bound. Takes little memory for long ones."""
    if raw is None or encoding == "utf-8":
        return len(raw or b"")
    kind = "<u2" if encoding.endswith("le") else ">u2"
    units = np.frombuffer(raw, kind, len(raw) // 2)
    return sum(_octets(units[at : at + _SLICE]) for at in range(0, len(units), _SLICE))


def _octets(units: np.ndarray[tuple[int], np.dtype[np.uint16]]) -> int:
    # A character beyond the first 65,536 takes two units, and four bytes.
    halves = int(((units >= 0xD800) & (units < 0xE000)).sum())
    return len(units) + int((units >= 0x80).sum()) + int((units >= 0x800).sum()) - halves


def _prepare(connection: sqlite3.Connection) -> float:
    """Make `pgferry_octets` known; return how much longer texts may be in UTF-8 than they are in the file."""
    encoding = str(connection.execute("PRAGMA encoding").fetchone()[0]).lower()
    connection.create_function("pgferry_octets", 1, partial(utf8_octets, encoding=encoding), deterministic=True)
    return 1 if encoding == "utf-8" else UTF16_GROWTH


def _longest(
    connection: sqlite3.Connection, table: SourceTable, names: Sequence[str], at_least: int, growth: float
) -> Iterator[Longest]:
    stored = joined([f"coalesce({_stored(name)}, 0)" for name in names], " + ")
    exact = joined([f"coalesce({_exact(name)}, 0)" for name in names], " + ") if growth != 1 else stored
    address = "".join(f", {quote(member)}" for member in table.address)
    # With max() alone the other columns are those of its row (https://www.sqlite.org/lang_select.html#bareagg).
    query = f"SELECT max({exact}){address} FROM {_of(table)} WHERE ({stored}) * {growth} >= ?"
    size, *key = connection.execute(query, (at_least,)).fetchone()
    if size is not None and size >= at_least:
        yield Longest(table, names[0], size, tuple(key))


def wide_rows(
    connection: sqlite3.Connection, table: SourceTable, kinds: Sequence[tuple[str, PgKind | None]]
) -> WideRows | None:
    """Return the rows that are too wide for a page, by the types that columns get; None where there are none.

    What is reckoned is a little less than `row_width` finds: without padding. A column whose type is not known yet
    (None) is reckoned by the classes of its values.
    """
    width = f"{HEAD} + {joined([_width(name, kind) for name, kind in kinds], ' + ')}"
    address = "".join(f", {quote(member)}" for member in table.address)
    found = f"SELECT {width} AS width{address} FROM {_of(table)}"
    rows, bytes, *key = connection.execute(
        f"SELECT count(*), max(width){address} FROM ({found}) WHERE width > {PAGE_ROOM}"
    ).fetchone()
    return WideRows(table, rows, bytes, tuple(key)) if rows else None


def _width(name: str, kind: PgKind | None) -> str:
    q = quote(name)
    if kind in FIXED or kind in LEAST:
        return f"({q} IS NOT NULL) * {FIXED[kind][0] if kind in FIXED else LEAST[kind]}"
    length = f"length(CAST({q} AS BLOB))"
    varying = f"CASE WHEN {length} > {INLINE} THEN {POINTER} ELSE {length} + 1 END"
    if kind is None:
        return f"CASE typeof({q}) WHEN 'null' THEN 0 WHEN 'integer' THEN 4 WHEN 'real' THEN 8 ELSE {varying} END"
    return f"coalesce({varying}, 0)"


def _stored(name: str) -> str:
    # Of a BLOB SQLite knows the length without reading it.
    q = quote(name)
    return f"CASE typeof({q}) WHEN 'blob' THEN length({q}) WHEN 'text' THEN length(CAST({q} AS BLOB)) END"


def _exact(name: str) -> str:
    q = quote(name)
    return f"CASE typeof({q}) WHEN 'blob' THEN length({q}) WHEN 'text' THEN pgferry_octets(CAST({q} AS BLOB)) END"


def _of(table: SourceTable) -> str:
    return f"{quote(table.name)} NOT INDEXED"
