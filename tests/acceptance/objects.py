"""Counts the keys, indexes, constraints, defaults and views of a SQLite file and of what it became.

The source is read by SQLite's own pragmas, the target by pg_catalog. CHECKs alone are counted as the plan read them:
SQLite has no pragma for them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import asyncpg

from pgferry.plan.model import SchemaPlan

KINDS = ("primary key", "unique", "index", "foreign key", "check", "default", "view")

CONSTRAINTS = """
SELECT CASE contype WHEN 'p' THEN 'primary key' WHEN 'u' THEN 'unique' WHEN 'f' THEN 'foreign key'
       WHEN 'c' THEN 'check' END AS kind, count(*) AS n
  FROM pg_constraint JOIN pg_class c ON c.oid = conrelid
 WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version' AND contype IN ('p', 'u', 'f', 'c')
 GROUP BY 1
"""
INDEXES = """
SELECT c.relname AS name, indisunique AS unique, indpred IS NOT NULL AS partial, indexprs IS NOT NULL AS expression
  FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
 WHERE c.relnamespace = 'public'::regnamespace AND t.relname <> 'alembic_version'
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u'))
"""
DEFAULTS = """
SELECT count(*) FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
  JOIN pg_class c ON c.oid = adrelid
 WHERE relnamespace = 'public'::regnamespace AND relname <> 'alembic_version' AND attgenerated = ''
"""
VIEWS = "SELECT count(*) FROM pg_views WHERE schemaname = 'public'"


def source_objects(file: Path, plan: SchemaPlan) -> Counter[str]:
    """Count what the tables that are carried have."""
    found: Counter[str] = Counter()
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as source:
        source.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
        for table in plan.tables:
            found.update(_of_table(source, table.source))
            found["check"] += len(table.checks) + sum(1 for item in _left(plan, "check") if item == table.source)
        found["view"] = source.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'view'").fetchone()[0]
    return found


def _of_table(source: sqlite3.Connection, table: str) -> Iterator[str]:
    columns = source.execute("SELECT dflt_value, pk, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    if any(key for _, key, _ in columns):
        yield "primary key"
    for default, _, hidden in columns:
        if default is not None and default.upper().strip("() ") != "NULL" and not hidden:
            yield "default"
    for name, unique, origin, partial in source.execute(
        'SELECT name, "unique", origin, partial FROM pragma_index_list(?)', (table,)
    ):
        terms = source.execute("SELECT cid, coll FROM pragma_index_xinfo(?) WHERE key", (name,)).fetchall()
        if origin == "pk" and all(collation == "BINARY" for _, collation in terms):
            continue
        yield "unique" if unique else "index"
        if partial:
            yield "partial"
        if any(place == -2 for place, _ in terms):
            yield "expression"
    keys = source.execute("SELECT count(DISTINCT id) FROM pragma_foreign_key_list(?)", (table,)).fetchone()[0]
    yield from ["foreign key"] * keys


async def target_objects(server: asyncpg.Connection, plan: SchemaPlan) -> Counter[str]:
    """Count what the server has; each index of the plan must be there, partial or of expressions as it was planned."""
    found: Counter[str] = Counter({row["kind"]: row["n"] for row in await server.fetch(CONSTRAINTS)})
    indexes = {row["name"]: row for row in await server.fetch(INDEXES)}
    for table in plan.tables:
        for index in table.indexes:
            row = indexes.pop(index.name)
            assert (row["unique"], row["partial"]) == (index.unique, index.where is not None), index
            found["unique" if index.unique else "index"] += 1
            found["partial"] += row["partial"]
            found["expression"] += row["expression"]
    assert not indexes, indexes
    found["default"] = await server.fetchval(DEFAULTS)
    found["view"] = await server.fetchval(VIEWS)
    return found


def left_behind(plan: SchemaPlan) -> Counter[str]:
    """Count what the plan says is not carried; each must say why."""
    assert all(item.reason.strip() for item in plan.not_carried)
    return Counter(item.kind for item in plan.not_carried)


def unaccounted(source: Counter[str], target: Counter[str], left: Counter[str], plan: SchemaPlan) -> list[str]:
    """Return the kinds whose objects are neither in the target nor among those with a reason."""
    # A primary key that cannot be one becomes a unique key: there it is one more.
    instead = sum(table.key is None and _has_key(table) for table in plan.tables)
    expected = source + Counter({"unique": instead})
    return [
        f"{kind}: {expected[kind]} in the source, {target[kind]} in the target, {left[kind]} left behind"
        for kind in KINDS
        if expected[kind] != target[kind] + left[kind]
    ]


def _has_key(table: object) -> bool:
    columns = {column.name for column in table.columns if column.source.key_position}  # type: ignore[attr-defined]
    return bool(columns) and any(set(unique.columns) == columns for unique in table.uniques)  # type: ignore[attr-defined]


def _left(plan: SchemaPlan, kind: str) -> list[str]:
    return [item.table for item in plan.not_carried if item.kind == kind]
