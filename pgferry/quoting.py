"""The one place where names and text become SQL. The rules are the same in SQLite and PostgreSQL."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'")


def quote(name: str) -> str:
    """Return an identifier in double quotes, exact. Raises ValueError for a NUL, which neither database can hold."""
    if "\x00" in name:
        raise ValueError("an identifier cannot hold a NUL character")
    return '"' + name.replace('"', '""') + '"'


def qualified(schema: str, name: str) -> str:
    """Return `"schema"."name"`."""
    return f"{quote(schema)}.{quote(name)}"


def literal(text: str) -> str:
    """Return a standard SQL string literal, for the statements that take no bound values.

    Backslashes stay as they are: `standard_conforming_strings` has been on by default since PostgreSQL 9.1.
    """
    if "\x00" in text:
        raise ValueError("a SQL literal cannot hold a NUL character")
    return "'" + text.replace("'", "''") + "'"


def without_dollars(sql: str) -> str:
    """Return a statement of PostgreSQL whose quoted names and texts mean the same and hold no `$`.

    For the driver's `copy_from_query`, which puts its arguments into the text: also where a table is named `$1`.
    """
    return _QUOTED.sub(lambda match: _escaped(match.group()), sql)


def _escaped(quoted: str) -> str:
    # https://www.postgresql.org/docs/current/sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS-UESCAPE
    return "U&" + quoted.replace("\\", "\\\\").replace("$", "\\0024") if "$" in quoted else quoted
