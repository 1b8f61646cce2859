"""Rows of the source that are one to a unique key of the target, found before a row moves.

SQLite may keep them apart: it has no such key, it has it for other columns, or it tells values apart that become one
(`1` and `'1'`, two spellings of a moment). What the source's own unique key proves is not looked at again.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from pgferry.convert.fields import canonical_field, encode_field
from pgferry.convert.rules import Rejected, convert
from pgferry.export import convert_rows, semantic_schema
from pgferry.model import (
    ColumnPair,
    ColumnRule,
    PgKind,
    SourceIndex,
    SourceTable,
    SqliteValue,
    StorageClass,
    TablePair,
    UndecodableText,
    UniqueKey,
)
from pgferry.quoting import quote
from pgferry.sqlite.chunks import TableSample
from pgferry.sqlite.collations import read_from
from pgferry.sqlite.guard import plan_read, raw_select
from pgferry.sqlite.sizes import shown_key

SHOWN = 5
"""Collisions of a key that are told, at the most."""

LOOKED_AT = 1000
"""Groups of equal values that are looked at, at the most: all rows of some may be quarantined."""

_LOWER = re.compile(r'(lower|upper)\(\(?(?P<name>"(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)(?:\)?::text)?(?: COLLATE "C")?\)')

_NUMBER = frozenset({StorageClass.INTEGER, StorageClass.REAL})
_PLAIN: Mapping[PgKind, frozenset[StorageClass]] = {
    PgKind.SMALLINT: _NUMBER,
    PgKind.INTEGER: _NUMBER,
    PgKind.BIGINT: _NUMBER,
    PgKind.REAL: _NUMBER,
    PgKind.DOUBLE: _NUMBER,
    PgKind.NUMERIC: _NUMBER,
    PgKind.BOOLEAN: _NUMBER,
    PgKind.TEXT: frozenset({StorageClass.TEXT}),
    PgKind.VARCHAR: frozenset({StorageClass.TEXT}),
    PgKind.ENUM: frozenset({StorageClass.TEXT}),
    PgKind.BYTEA: frozenset({StorageClass.BLOB}),
}
"""The classes whose values are equal in the type just when SQLite finds them equal, or are refused by it."""


@dataclass(frozen=True, slots=True)
class Collision:
    """Two rows of a table, and how many of them there are, that a unique key of the target does not take together."""

    table: str
    key: str
    rows: int
    shown: str
    """The first two of them: their addresses, and the values that collide."""
    certain: bool = True
    """Whether every server finds them equal: lower() and upper() follow the database's locale."""

    def __str__(self) -> str:
        return f"{self.rows:,} rows of {self.table} under {self.key}: {self.shown}"


@dataclass(frozen=True, slots=True)
class Unchecked:
    """A unique key under which collisions are found only when it is built, and why."""

    table: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.key} of {self.table} ({self.reason})"


@dataclass(frozen=True, slots=True)
class _Term:
    """A term of a key: the source's column, and the function around it, if there is one."""

    pair: ColumnPair
    function: str = ""

    @property
    def classes(self) -> frozenset[StorageClass]:
        plain = self.pair.rule == ColumnRule() or self.pair.target.type.kind not in (PgKind.TEXT, PgKind.VARCHAR)
        return _PLAIN.get(self.pair.target.type.kind, frozenset()) if plain else frozenset()


def find_collisions(
    source: sqlite3.Connection, pairs: Iterable[TablePair], keys: Iterable[UniqueKey], *, thorough: bool
) -> Iterator[Collision | Unchecked]:
    """Yield the collisions under each unique key of the paired tables, and the keys that are not looked at; reads only.

    At most a GROUP BY for each key, none where the source's own key proves that there is nothing. Only rows that the
    move would load are told. `thorough` also converts values of other spellings and classes, one by one: else they
    are passed over.
    """
    by_oid = {pair.target.oid: pair for pair in pairs}
    for key in keys:
        if (pair := by_oid.get(key.table_oid)) is not None:
            yield from _of_key(source, pair, key, thorough=thorough)


def _of_key(
    source: sqlite3.Connection, pair: TablePair, key: UniqueKey, *, thorough: bool
) -> Iterator[Collision | Unchecked]:
    terms = _terms(pair, key)
    if isinstance(terms, str):
        yield Unchecked(pair.source.name, key.name, terms)
        return
    proven = not key.nulls_equal and _is_proven(pair.source, terms)
    plain = all(term.classes for term in terms)
    if thorough and not (plain and _all_plain(source, pair.source, terms)):
        yield from _grouped(source, pair, key, terms, [_converted(source, n, term) for n, term in enumerate(terms)])
    elif not plain:
        yield Unchecked(pair.source.name, key.name, "its values may be spelled differently: the preflight looks at it")
    elif key.nulls_equal and not thorough:
        yield Unchecked(pair.source.name, key.name, "NULL equals NULL in it: the preflight looks at it")
    elif not proven:
        yield from _grouped(source, pair, key, terms, [_plain(term) for term in terms])


def _terms(pair: TablePair, key: UniqueKey) -> list[_Term] | str:
    """Return the key's terms, or why they cannot be evaluated here."""
    if key.partial:
        return "it is of some rows only"
    if not key.bytewise:
        return "its collation finds different texts equal"
    columns = {column.target.name: column for column in pair.columns}
    found = []
    for name, written in zip(key.columns, key.terms, strict=True):
        match = _LOWER.fullmatch(written) if name is None else None
        wanted = _unquoted(match["name"]) if match else name
        if wanted is None:
            return f"it is of the expression {written}"
        if wanted not in columns:
            return f"its column {wanted} is filled by the target"
        found.append(_Term(columns[wanted], match[1] if match else ""))
    return found


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


# ---------------------------------------------------------------- what the source proves


def _is_proven(table: SourceTable, terms: Sequence[_Term]) -> bool:
    """Say whether a unique key of the source leaves no two rows equal in these terms, their values being plain."""
    names = {term.pair.source.name.lower() for term in terms if not term.function}
    folded = {term.pair.source.name.lower() for term in terms if term.function}
    if table.rowid_column and table.rowid_column.lower() in names:
        return True
    return any(_proves(index, names, folded) for index in table.indexes if index.unique and not index.partial)


def _proves(index: SourceIndex, names: set[str], folded: set[str]) -> bool:
    # A coarser collation of the source proves as much as BINARY: what is equal byte by byte is equal in it.
    return all(
        term.column is not None
        and (term.column.lower() in names or (term.column.lower() in folded and term.collation == "NOCASE"))
        for term in index.terms
    )


def _all_plain(source: sqlite3.Connection, table: SourceTable, terms: Sequence[_Term]) -> bool:
    odd = " OR ".join(f"NOT {_is_plain(term, StorageClass.NULL)}" for term in terms)
    return source.execute(f"SELECT 1 FROM {read_from(table)} WHERE {odd} LIMIT 1").fetchone() is None


def _is_plain(term: _Term, *others: StorageClass) -> str:
    classes = ", ".join(f"'{storage}'" for storage in sorted({*term.classes, *others}))
    return f"typeof({quote(term.pair.source.name)}) IN ({classes})"


# ---------------------------------------------------------------- the search


def _plain(term: _Term) -> str:
    """Return the SQL of a value that is equal to another just when the target's is; NULL of other classes."""
    name = f"{quote(term.pair.source.name)} COLLATE BINARY"
    value = f"{term.function}({name})" if term.function else name
    return f"CASE WHEN {_is_plain(term)} THEN {value} END COLLATE BINARY"


def _converted(source: sqlite3.Connection, number: int, term: _Term) -> str:
    """Return the same for values of any class and spelling: what the rules make of them."""
    function, name = f"pgferry_key_{number}", quote(term.pair.source.name)
    source.create_function(function, 2, _key_of(source, term))
    return f"{function}(typeof({name}), CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE {name} END)"


def _key_of(source: sqlite3.Connection, term: _Term) -> Callable[[str, SqliteValue], bytes | None]:
    encoding = str(source.execute("PRAGMA encoding").fetchone()[0]).lower()
    type, rule, refused = term.pair.target.type, term.pair.rule, count()

    def key(storage: str, value: SqliteValue) -> bytes | None:
        answer = convert(_text(value, encoding) if storage == StorageClass.TEXT else value, type, rule)
        if isinstance(answer, Rejected):
            # Such a row is quarantined: it equals no other.
            return b"refused %d" % next(refused)
        if answer is None:
            return None
        if term.function and isinstance(answer, str):
            answer = _folded(answer, term.function)
        return canonical_field(encode_field(answer, type), type)

    return key


def _text(value: SqliteValue, encoding: str) -> str | UndecodableText:
    assert isinstance(value, bytes)
    try:
        return value.decode(encoding)
    except UnicodeDecodeError:
        return UndecodableText(value)


def _folded(text: str, function: str) -> str:
    """Fold the ASCII letters, as SQLite does: every locale finds at least these equal, Turkish ones apart."""
    fold = str.lower if function == "lower" else str.upper
    return "".join(fold(letter) if letter.isascii() else letter for letter in text)


def _grouped(
    source: sqlite3.Connection, pair: TablePair, key: UniqueKey, terms: Sequence[_Term], values: Sequence[str]
) -> Iterator[Collision]:
    where = "" if key.nulls_equal else f" WHERE {' AND '.join(f'{value} IS NOT NULL' for value in values)}"
    grouped, certain, told = ", ".join(values), not any(term.function for term in terms), 0
    rows_of = f"{read_from(pair.source)}{where}"
    found = source.execute(
        f"SELECT {grouped}, count(*) FROM {rows_of} GROUP BY {grouped} HAVING count(*) > 1 LIMIT ?", (LOOKED_AT,)
    )
    for *group, rows in found:
        if told < SHOWN and (shown := _shown(source, pair, terms, values, group)):
            told += 1
            yield Collision(pair.source.name, key.name, rows, shown, certain)


def _shown(
    source: sqlite3.Connection, pair: TablePair, terms: Sequence[_Term], values: Sequence[str], group: Sequence[object]
) -> str:
    """Name the first two rows of a group that the move would load; nothing when there are no two."""
    if any(isinstance(value, UndecodableText) for value in group):
        return ""
    read = plan_read(pair, TableSample(0, 0, 0.0, 0, tuple({} for _ in pair.source.columns)))
    where = " AND ".join(f"{value} IS ?" for value in values)
    address, names = len(pair.source.address), [term.pair.source.name for term in terms]
    places = [address + next(n for n, c in enumerate(pair.columns) if c.source.name == name) for name in names]
    told: list[str] = []
    for row in source.execute(f"{raw_select(read)} NOT INDEXED WHERE {where}", group):
        if convert_rows(read, [row], semantic_schema(read))[0].num_rows:
            held = ", ".join(f"{name}={row[place]!r:.80}" for name, place in zip(names, places, strict=True))
            told.append(f"{shown_key(pair.source, row[:address])} ({held})")
        if len(told) == 2:
            return " and ".join(told)
    return ""
