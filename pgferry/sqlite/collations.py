"""Collations that an application registered for its own connections, and what stands in for them here.

Their names are in the schema, their order is not. The stand-in lets SQLite prepare a statement, but orders text by
its bytes: what is looked up or sorted through an index of such a collation is not found. So such columns are always
read `COLLATE BINARY`, which keeps SQLite off these indexes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from pgferry.model import SourceTable
from pgferry.quoting import quote
from pgferry.sqlite import ddl

BUILT_IN_COLLATIONS = frozenset({"BINARY", "NOCASE", "RTRIM"})

# Only text that names a collation at all is cut into tokens: a file is opened for each chunk.
_MENTIONING = "SELECT sql FROM sqlite_schema WHERE sql LIKE '%collate%'"
_INDEXES = (
    "SELECT t.name, i.name, x.coll FROM pragma_table_list AS t JOIN pragma_index_list(t.name) AS i"
    " JOIN pragma_index_xinfo(i.name) AS x WHERE t.schema = 'main' AND t.type = 'table'"
)


def add_stand_ins(connection: sqlite3.Connection) -> None:
    """Register a comparison by bytes for each collation that the schema names and SQLite does not know.

    Only for connections that read, and that look nothing up by text: see above.
    """
    for name in {name.upper(): name for name in _named(connection)}.values():
        if is_own(name) and not _is_known(connection, name):
            connection.create_collation(name, _by_bytes)


def is_own(collation: str) -> bool:
    """Say whether a collation is the application's own."""
    return collation.upper() not in BUILT_IN_COLLATIONS


def uses_own(table: SourceTable) -> bool:
    """Say whether a column or index of a table is ordered by a collation of the application's own."""
    of_indexes = (term.collation for index in table.indexes for term in index.terms)
    return any(map(is_own, (column.collation for column in table.columns))) or any(map(is_own, of_indexes))


def read_from(table: SourceTable) -> str:
    """Return the table as a FROM names it that needs no such collation: thinking of its index fails the statement."""
    return f"{quote(table.name)} NOT INDEXED" if uses_own(table) else quote(table.name)


def indexed_by_own(table: SourceTable) -> bool:
    """Say whether a key or index of a table is ordered by such a collation: SQLite lets nobody write to it without."""
    return any(is_own(term.collation) for index in table.indexes for term in index.terms)


def keyed_by_own(table: SourceTable) -> bool:
    """Say whether the table itself lies in the order of such a collation, so that it can only be read through."""
    keys = (term.collation for index in table.indexes if index.origin == "pk" for term in index.terms)
    return table.without_rowid and any(map(is_own, keys))


def as_bytes(table: SourceTable, name: str) -> str:
    """Return a column's name in SQL, to be compared by bytes where its own collation is not known."""
    own = any(column.name == name and is_own(column.collation) for column in table.columns)
    return f"{quote(name)} COLLATE BINARY" if own else quote(name)


def stand_in_orders(connection: sqlite3.Connection) -> tuple[frozenset[str], frozenset[str]]:
    """Return the indexes whose order is of a collation with a stand-in, and the tables that they belong to."""
    if not any(is_own(name) for name in _named(connection)):
        return frozenset(), frozenset()
    found = [(table, index) for table, index, coll in connection.execute(_INDEXES) if coll and is_own(coll)]
    return frozenset(index for _, index in found), frozenset(table for table, _ in found)


def _named(connection: sqlite3.Connection) -> Iterator[str]:
    for (sql,) in connection.execute(_MENTIONING).fetchall():
        words = ddl.tokens(sql) if isinstance(sql, str) else []
        for place, token in enumerate(words[:-1]):
            if token.keyword == "COLLATE":
                yield words[place + 1].name


def _is_known(connection: sqlite3.Connection, name: str) -> bool:
    # `pragma collation_list` lists every name that the schema mentions.
    try:
        connection.execute(f"SELECT '' = '' COLLATE {quote(name)}")
    except sqlite3.OperationalError:
        return False
    return True


def _by_bytes(first: str, second: str) -> int:
    # Python compares code points, whose order is that of their UTF-8 bytes.
    return (first > second) - (first < second)
