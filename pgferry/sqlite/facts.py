"""Questions that a plan asks of the data as a whole: orphans, violated checks, duplicates, keys too long to index."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from pgferry.quoting import quote


def orphans(
    connection: sqlite3.Connection, child: str, columns: Sequence[str], parent: str, parent_columns: Sequence[str]
) -> int:
    """Count the child rows whose key is whole and has no parent, comparing byte by byte as PostgreSQL will."""
    whole = " AND ".join(f"{quote(column)} IS NOT NULL" for column in columns)
    # `IN` builds itself an index of the parent's keys, whichever indexes the file has.
    key = ", ".join(f"{quote(column)} COLLATE BINARY" for column in columns)
    keys = ", ".join(quote(column) for column in parent_columns)
    there = " AND ".join(f"{quote(column)} IS NOT NULL" for column in parent_columns)
    query = f"SELECT {keys} FROM {quote(parent)} WHERE {there}"
    return _count(connection, f"SELECT count(*) FROM {quote(child)} WHERE {whole} AND ({key}) NOT IN ({query})")


def violations(connection: sqlite3.Connection, table: str, check: str) -> int:
    """Count the rows that break a CHECK; 0 when it cannot be evaluated, as it was when the rows were written."""
    try:
        return _count(connection, f"SELECT count(*) FROM {quote(table)} WHERE NOT ({check}\n)")
    except sqlite3.Error:
        return 0


def has_duplicates(connection: sqlite3.Connection, table: str, columns: Sequence[str], as_type: str) -> bool:
    """Say whether two rows without a NULL become equal when their columns are written as TEXT or BLOB (`as_type`)."""
    # SQLite writes fewer digits of a double than tell it from all others.
    connection.create_function("pgferry_digits_of", 1, repr, deterministic=True)
    digits = "CASE typeof({q}) WHEN 'real' THEN pgferry_digits_of({q}) ELSE {q} END"
    terms = [digits.format(q=quote(column)) for column in columns]
    written = ", ".join(f"CAST({term} AS {as_type}) COLLATE BINARY" for term in terms)
    whole = " AND ".join(f"{quote(column)} IS NOT NULL" for column in columns)
    query = f"SELECT 1 FROM {quote(table)} WHERE {whole} GROUP BY {written} HAVING count(*) > 1 LIMIT 1"
    return connection.execute(query).fetchone() is not None


def least_magnitude(connection: sqlite3.Connection, table: str, column: str) -> float:
    """Return the number of a column that is nearest to zero and not zero, without its sign; 1 when there is none."""
    q = quote(column)
    query = f"SELECT min(abs({q} + 0.0)) FROM {quote(table)} WHERE typeof({q}) IN ('integer', 'real') AND {q} <> 0"
    return float(connection.execute(query).fetchone()[0] or 1)


def longest(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> int:
    """Return the most bytes that these columns take together in one row."""
    lengths = " + ".join(f"coalesce(length(CAST({quote(column)} AS BLOB)), 0)" for column in columns)
    return int(connection.execute(f"SELECT max({lengths}) FROM {quote(table)}").fetchone()[0] or 0)


def _count(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
