"""Questions that a plan asks of the data as a whole: orphans, violated checks, duplicates, keys too long to index."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

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


def has_duplicates(connection: sqlite3.Connection, table: str, terms: Sequence[str], where: str = "") -> bool:
    """Say whether two rows without a NULL are equal in all terms, which are SQL; of the rows that `where` takes."""
    # SQLite writes fewer digits of a double than tell it from all others.
    connection.create_function("pgferry_digits_of", 1, repr, deterministic=True)
    rows = " AND ".join([*(f"{term} IS NOT NULL" for term in terms), *([f"({where}\n)"] if where else [])])
    grouped = ", ".join(terms)
    query = f"SELECT 1 FROM {quote(table)} WHERE {rows} GROUP BY {grouped} HAVING count(*) > 1 LIMIT 1"
    return connection.execute(query).fetchone() is not None


def written(column: str, as_type: str) -> str:
    """Return the SQL of a column's values written as TEXT or BLOB (`as_type`), for `has_duplicates`."""
    q = quote(column)
    return f"CAST(CASE typeof({q}) WHEN 'real' THEN pgferry_digits_of({q}) ELSE {q} END AS {as_type})"


def least_magnitude(connection: sqlite3.Connection, table: str, column: str) -> float:
    """Return the number of a column that is nearest to zero and not zero, without its sign; 1 when there is none."""
    q = quote(column)
    query = f"SELECT min(abs({q} + 0.0)) FROM {quote(table)} WHERE typeof({q}) IN ('integer', 'real') AND {q} <> 0"
    return float(connection.execute(query).fetchone()[0] or 1)


def longest(connection: sqlite3.Connection, table: str, terms: Sequence[str]) -> int:
    """Return the most bytes that these terms, which are SQL, take together in one row, texts in UTF-8."""
    encoding = str(connection.execute("PRAGMA encoding").fetchone()[0]).lower()
    connection.create_function("pgferry_octets", 1, partial(_octets, encoding), deterministic=True)
    # A cast to BLOB counts the bytes of the file's encoding, and plain length() stops at a NUL.
    in_text = "pgferry_octets(CAST({t} AS BLOB))" if encoding != "utf-8" else "length(CAST({t} AS BLOB))"
    one = f"CASE typeof({{t}}) WHEN 'blob' THEN length({{t}}) ELSE {in_text} END"
    lengths = " + ".join(f"coalesce({one.format(t=term)}, 0)" for term in terms)
    return int(connection.execute(f"SELECT max({lengths}) FROM {quote(table)}").fetchone()[0] or 0)


def _octets(encoding: str, raw: bytes | None) -> int:
    """Return how many bytes of UTF-8 a text takes at the most; of text that is none, a bound."""
    try:
        return len((raw or b"").decode(encoding).encode())
    except UnicodeDecodeError:
        return len(raw or b"") * 3 // 2


def _count(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])
