"""Reads what a SQLite file holds: tables, keys, indexes, foreign keys, views, triggers, and what is no data."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pgferry.model import (
    Affinity,
    IndexTerm,
    SourceCatalog,
    SourceColumn,
    SourceForeignKey,
    SourceIndex,
    SourceObject,
    SourceTable,
    UndecodableText,
)
from pgferry.quoting import quote
from pgferry.sqlite import ddl
from pgferry.sqlite.shadows import VirtualTable, read_virtual_table, shadows
from pgferry.sqlite.wide import groups

# Names are bound everywhere: the table-valued forms of the pragmas take any name there is.
_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid"
_TABLES = "SELECT name, type, wr, strict FROM pragma_table_list WHERE schema = 'main'"
_COLUMNS = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid"
_INDEXES = "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?, 'main') ORDER BY seq DESC"
_INDEX_TERMS = "SELECT name, \"desc\", coll, cid FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno"
_FOREIGN_KEYS = (
    'SELECT id, "table", "from", "to", on_update, on_delete'
    " FROM pragma_foreign_key_list(?, 'main') ORDER BY id DESC, seq"
)
_SEQUENCES = "SELECT name, max(seq) FROM sqlite_sequence WHERE typeof(seq) = 'integer' GROUP BY name"

PREFIX = "_pgferry_"
"""What the names of pgferry's own tables and triggers in a SQLite file begin with."""

_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_GENERATED = {2: "virtual", 3: "stored"}
_HIDDEN_OF_VIRTUAL_TABLE = 1

# What `capture` and `fence` make. Any other name is the application's, though it begins like ours.
_OWN_TABLES = re.compile(re.escape(PREFIX) + r"(capture|table|meta|canary|outbox|fence|new_\d+)", re.IGNORECASE)
_OWN_TRIGGERS = re.compile(
    re.escape(PREFIX) + r"(fence_)?\d+_(insert|update|delete|replace_insert|replace_update)", re.IGNORECASE
)
# Functions of SQLite that take whatever a row holds; any other is tried on every row.
_NEVER_FAIL = {
    "coalesce", "ifnull", "iif", "instr", "length", "lower", "ltrim", "nullif", "round", "rtrim", "substr", "trim",
    "typeof", "upper", "cast", "date", "time", "datetime", "julianday", "strftime", "in", "and", "or", "not", "when",
    "then", "else", "case", "",
}  # fmt: skip
_BOOKKEEPING = "SQLite's own bookkeeping"
_OWN_REASON = "pgferry's own, until cleanup"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of sqlite_schema."""

    kind: str
    name: str
    table: str
    sql: str
    readable: bool
    """Whether its name is valid text, without which nothing can address it."""


@dataclass(frozen=True, slots=True)
class _Listed:
    """A row of `pragma table_list`."""

    kind: str
    without_rowid: bool
    strict: bool


def read_catalog(connection: sqlite3.Connection) -> SourceCatalog:
    """Read the catalog of the main database, in the order in which its objects were made; writes nothing.

    `connection` comes from `open_read_only`. What cannot be read (a view that does not resolve, a virtual table
    whose module is missing, a name that is no text, a malformed entry) is named in `left_out`, with the reason.
    Raises sqlite3.Error when the file itself is damaged.
    """
    entries = _entries(connection)
    listed = _listed(connection)
    virtual = {e.name: read_virtual_table(e.name, e.sql) for e in entries if _is_virtual(e, listed)}
    kinds = {entry.name: listed[entry.name].kind for entry in entries if entry.readable and entry.name in listed}
    owners = shadows(connection, tuple(virtual.values()), kinds)
    tables: list[SourceTable] = []
    views: list[SourceObject] = []
    left_out: list[SourceObject] = []
    for entry in entries:
        reason = _reason_to_leave_out(connection, entry, listed) or _not_data(entry, virtual, owners)
        if reason:
            left_out.append(SourceObject(_kind(entry, virtual, owners), entry.name, entry.sql, reason, entry.table))
        elif entry.kind == "table":
            table, broken = _readable(connection, _table(connection, entry, listed[entry.name]))
            left_out += broken
            if table:
                tables.append(table)
        elif entry.kind == "view":
            views.append(SourceObject("view", entry.name, entry.sql))
    return SourceCatalog(
        tuple(tables), tuple(views), _triggers(entries), tuple(left_out), _sequences(connection), _encoding(connection)
    )


def is_own(kind: str, name: str) -> bool:
    """Say whether a table or trigger of that name is one that pgferry makes, and not the application's."""
    known = _OWN_TRIGGERS if kind == "trigger" else _OWN_TABLES
    return known.fullmatch(name) is not None


def holds_rows(item: SourceObject) -> bool:
    """Say whether something left out is a table or column of the application's, whose values stay behind."""
    return item.kind.split()[-1] in ("table", "column") and item.reason not in (_BOOKKEEPING, _OWN_REASON)


def affinity_of(declared: str, *, strict: bool = False) -> Affinity:
    """Return the affinity of a declared type, by SQLite's five rules in their order (datatype3.html#3.1).

    In a STRICT table `ANY` keeps every value as it is, which is what BLOB affinity does.
    """
    text = declared.upper()
    if strict and text == "ANY":
        return Affinity.BLOB
    if "INT" in text:
        return Affinity.INTEGER
    if any(word in text for word in ("CHAR", "CLOB", "TEXT")):
        return Affinity.TEXT
    if "BLOB" in text or not text:
        return Affinity.BLOB
    if any(word in text for word in ("REAL", "FLOA", "DOUB")):
        return Affinity.REAL
    return Affinity.NUMERIC


# ---------------------------------------------------------------- what there is


def _entries(connection: sqlite3.Connection) -> list[_Entry]:
    return [
        _Entry(str(kind), _text(name), _text(table), _text(sql), isinstance(name, str))
        for kind, name, table, sql in connection.execute(_OBJECTS)
    ]


def _listed(connection: sqlite3.Connection) -> dict[str, _Listed]:
    rows = connection.execute(_TABLES)
    return {_text(name): _Listed(kind, bool(wr), bool(strict)) for name, kind, wr, strict in rows}


def _text(value: Any) -> str:
    """Return schema text for showing and parsing; bytes that are no UTF-8 become `\\xNN`."""
    raw = value.raw if isinstance(value, UndecodableText) else value
    if isinstance(raw, bytes):
        return raw.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)


def _is_virtual(entry: _Entry, listed: dict[str, _Listed]) -> bool:
    return entry.kind == "table" and entry.name in listed and listed[entry.name].kind == "virtual"


def _kind(entry: _Entry, virtual: dict[str, VirtualTable], owners: dict[str, VirtualTable]) -> str:
    if entry.name in virtual:
        return "virtual table"
    return "shadow table" if entry.kind == "table" and entry.name in owners else entry.kind


def _reason_to_leave_out(connection: sqlite3.Connection, entry: _Entry, listed: dict[str, _Listed]) -> str:
    """Say why an object is no data; empty for tables and views that are, and for indexes and triggers that stand."""
    if not entry.readable:
        return "its name is no valid text, so no statement can name it"
    if entry.kind not in ("table", "view"):
        return ""
    if entry.kind == "table" and is_own("table", entry.name):
        return _OWN_REASON
    if entry.name.lower().startswith("sqlite_"):
        return _BOOKKEEPING
    if entry.name not in listed:
        return "its entry in sqlite_schema is malformed, and SQLite itself skips it"
    return _why_unreadable(connection, entry.name) if entry.kind == "view" else ""


def _not_data(entry: _Entry, virtual: dict[str, VirtualTable], owners: dict[str, VirtualTable]) -> str:
    """Say whether a table is virtual, or the shadow of one; empty for any other."""
    if entry.kind != "table":
        return ""
    table = virtual.get(entry.name)
    if table is None:
        return f"shadow table of the virtual table {owners[entry.name].name}" if entry.name in owners else ""
    start = f"a virtual table of module {table.module}"
    if table.content:
        return f"{start}: an index of what {table.content} holds"
    if table.keeps_text:
        return f"{start}: what it holds lies in its shadow tables alone; copy it to an ordinary table if it must move"
    return (
        f"{start}: a search structure without a text of its own"
        if table.content == ""
        else (f"{start}: pgferry cannot tell what it holds; copy it to an ordinary table if it must move")
    )


def _why_unreadable(connection: sqlite3.Connection, name: str) -> str:
    try:
        connection.execute(f"SELECT * FROM {quote(name)} LIMIT 0")
    except sqlite3.Error as error:
        return f"it does not resolve in SQLite either: {error}"
    return ""


def _triggers(entries: Iterable[_Entry]) -> tuple[SourceObject, ...]:
    found = (e for e in entries if e.kind == "trigger" and e.readable and not is_own("trigger", e.name))
    return tuple(SourceObject("trigger", entry.name, entry.sql, table=entry.table) for entry in found)


def _sequences(connection: sqlite3.Connection) -> dict[str, int]:
    try:
        rows = connection.execute(_SEQUENCES).fetchall()
    except sqlite3.OperationalError:  # the table exists only once an AUTOINCREMENT table was made
        return {}
    return {_text(name): seq for name, seq in rows}


def _encoding(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA encoding").fetchone()[0])


# ---------------------------------------------------------------- one table


def _table(connection: sqlite3.Connection, entry: _Entry, listed: _Listed) -> SourceTable:
    text = ddl.parse_table(entry.sql)
    columns = _columns(connection, entry.name, text, listed.strict)
    indexes = _indexes(connection, entry.name)
    rowid_column = _rowid_column(columns, indexes, listed)
    return SourceTable(
        name=entry.name,
        columns=columns,
        sql=entry.sql,
        without_rowid=listed.without_rowid,
        strict=listed.strict,
        autoincrement=text.autoincrement and rowid_column is not None,
        rowid_column=rowid_column,
        rowid_name=None if listed.without_rowid else _rowid_name(columns, rowid_column),
        indexes=indexes,
        foreign_keys=_foreign_keys(connection, entry.name, text),
        checks=tuple(check for check in text.checks if check),
    )


def _columns(connection: sqlite3.Connection, table: str, text: ddl.TableText, strict: bool) -> tuple[SourceColumn, ...]:
    rows = connection.execute(_COLUMNS, (table,)).fetchall()
    columns = []
    for place, (name, declared, not_null, default, key, hidden) in enumerate(rows):
        if hidden == _HIDDEN_OF_VIRTUAL_TABLE:
            continue
        # By place when the text was read whole, for then it is the same column beyond doubt.
        written = text.columns[place] if len(text.columns) == len(rows) else text.column(_text(name))
        columns.append(
            SourceColumn(
                name=name if isinstance(name, str) else _text(name),
                declared=_text(declared),
                affinity=affinity_of(_text(declared), strict=strict),
                not_null=bool(not_null),
                default=None if default is None else _text(default),
                key_position=key,
                generated=_GENERATED.get(hidden),
                collation=written.collation if written else "BINARY",
                generated_expression=written.generated if written and hidden in _GENERATED else None,
            )
        )
    return tuple(columns)


def _rowid_column(columns: tuple[SourceColumn, ...], indexes: tuple[SourceIndex, ...], listed: _Listed) -> str | None:
    """Return the column that is the rowid: a lone INTEGER key without an index of its own (lang_createtable.html#5).

    `INTEGER PRIMARY KEY DESC` is no alias, by an old quirk: it has an index, and so is told apart.
    """
    key = [column for column in columns if column.key_position]
    if listed.without_rowid or len(key) != 1 or key[0].declared.upper() != "INTEGER":
        return None
    return None if any(index.origin == "pk" for index in indexes) else key[0].name


def _rowid_name(columns: tuple[SourceColumn, ...], rowid_column: str | None) -> str | None:
    taken = {column.name.lower() for column in columns}
    return next((name for name in _ROWID_NAMES if name not in taken), rowid_column)


def _indexes(connection: sqlite3.Connection, table: str) -> tuple[SourceIndex, ...]:
    found = []
    for name, unique, origin, partial in connection.execute(_INDEXES, (table,)).fetchall():
        if not isinstance(name, str):
            continue
        terms = tuple(_term(*row) for row in connection.execute(_INDEX_TERMS, (name,)))
        sql = connection.execute("SELECT sql FROM sqlite_schema WHERE type = 'index' AND name = ?", (name,)).fetchone()
        found.append(SourceIndex(name, bool(unique), origin, terms, bool(partial), _index_sql(sql)))
    return tuple(found)


def _index_sql(row: tuple[Any] | None) -> str | None:
    return _text(row[0]) if row and row[0] is not None else None


def _term(name: Any, descending: int, collation: str | None, place: int) -> IndexTerm:
    column = {-1: "rowid"}.get(place, None if name is None else _text(name))
    return IndexTerm(column, bool(descending), (collation or "BINARY").upper())


def _foreign_keys(connection: sqlite3.Connection, table: str, text: ddl.TableText) -> tuple[SourceForeignKey, ...]:
    keys: dict[int, list[tuple[Any, ...]]] = {}
    for number, *rest in connection.execute(_FOREIGN_KEYS, (table,)):
        keys.setdefault(number, []).append(tuple(rest))
    found = [_foreign_key(rows) for rows in keys.values()]
    return tuple(_with_deferral(key, text, place) for place, key in enumerate(found))


def _foreign_key(rows: list[tuple[Any, ...]]) -> SourceForeignKey:
    parent, _, _, on_update, on_delete = rows[0]
    named = all(row[2] is not None for row in rows)
    return SourceForeignKey(
        columns=tuple(_text(row[1]) for row in rows),
        parent=_text(parent),
        parent_columns=tuple(_text(row[2]) for row in rows) if named else (),
        on_update=on_update,
        on_delete=on_delete,
    )


def _with_deferral(key: SourceForeignKey, text: ddl.TableText, place: int) -> SourceForeignKey:
    # The pragma numbers the keys from the last to the first, so read backwards they are in the text's order.
    if place >= len(text.foreign_keys):
        return key
    written = text.foreign_keys[place]
    if written.parent.lower() != key.parent.lower():
        return key
    return replace(key, deferrable=written.deferrable, initially_deferred=written.initially_deferred)


# ---------------------------------------------------------------- what does not read


def _readable(connection: sqlite3.Connection, table: SourceTable) -> tuple[SourceTable | None, list[SourceObject]]:
    """Return the table as far as it can be read, and what of it cannot."""
    error = _select_error(connection, table) or _reckoning_error(connection, table, table.columns)
    if error is None:
        return table, []
    # A generated column holds nothing of its own: the rest of the table is read without those that fail.
    plain = replace(table, columns=tuple(column for column in table.columns if not column.generated))
    error = _select_error(connection, plain)
    if error is not None:
        return None, [SourceObject("table", table.name, table.sql, error, table.name)]
    lost = {c.name: reason for c in table.columns if (reason := _column_error(connection, table, c)) is not None}
    left = [c for c in table.columns if c.name in lost]
    kept = replace(table, columns=tuple(c for c in table.columns if c.name not in lost))
    return kept, [SourceObject("column", c.name, c.generated_expression or "", lost[c.name], table.name) for c in left]


def _column_error(connection: sqlite3.Connection, table: SourceTable, column: SourceColumn) -> str | None:
    if not column.generated:
        return None
    alone = replace(table, columns=(column,))
    return _select_error(connection, alone) or _reckoning_error(connection, table, (column,))


def _reckoning_error(connection: sqlite3.Connection, table: SourceTable, columns: Iterable[SourceColumn]) -> str | None:
    """Say why a virtual column cannot be reckoned for some row, as JSON of malformed text cannot.

    Reads the table once, but only where a function that may fail is called.
    """
    terms = [f"count({quote(c.name)})" for c in columns if c.generated == "virtual" and _may_fail(c)]
    try:
        for group in groups(terms):
            # Not by an index on the column, which holds what was reckoned when the row was written.
            connection.execute(f"SELECT {', '.join(group)} FROM {quote(table.name)} NOT INDEXED").fetchone()
    except sqlite3.Error as error:
        if (error.sqlite_errorcode & 0xFF) != sqlite3.SQLITE_ERROR:
            raise
        return f"it cannot be reckoned for every row: {error}"
    return None


def _may_fail(column: SourceColumn) -> bool:
    words = ddl.tokens(column.generated_expression or "")
    called = {word.name.lower() for word, after in pairwise(words) if after.text == "("}
    signs = {word.text for word in words if not word.quote}
    return ">" in signs or not called <= _NEVER_FAIL


def _select_error(connection: sqlite3.Connection, table: SourceTable) -> str | None:
    names = ", ".join(quote(column.name) for column in table.columns)
    try:
        connection.execute(f"SELECT {names or 1} FROM {quote(table.name)} LIMIT 0")
    except sqlite3.Error as error:
        return f"it cannot be read: {error}"
    return None
