"""What hostile names and values must not touch: a canary on each side, and the objects that are there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import asyncpg

CANARY = "CREATE TABLE canary (song TEXT); INSERT INTO canary VALUES ('tweet')"

OBJECTS = """
SELECT relkind::text AS kind, nspname AS schema, relname AS name FROM pg_class c
  JOIN pg_namespace n ON n.oid = relnamespace
 WHERE nspname !~ '^pg_(temp|toast)' AND nspname NOT IN ('pg_catalog', 'information_schema', 'pgferry')
UNION ALL
SELECT 'function', nspname, proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
 WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgferry')
UNION ALL
SELECT 'trigger', nspname, tgname FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
  JOIN pg_namespace n ON n.oid = relnamespace WHERE NOT tgisinternal
UNION ALL
SELECT CASE contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END, nspname, conname
  FROM pg_constraint JOIN pg_namespace n ON n.oid = connamespace
 WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pgferry')
UNION ALL
SELECT 'schema', '', nspname FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
"""


def sqlite_objects(source: Path) -> set[tuple[str, str]]:
    """Return the kind and name of everything in the file."""
    with closing(sqlite3.connect(source)) as file:
        return set(file.execute("SELECT type, name FROM sqlite_schema"))


def new_names(before: set[tuple[str, str]], source: Path) -> list[tuple[str, str]]:
    """Return what is in the file beyond what was, pgferry's own apart; nothing of what was may be gone."""
    now = sqlite_objects(source)
    assert before <= now, before - now
    return [item for item in now - before if "pgferry" not in item[1]]


async def postgres_objects(server: asyncpg.Connection) -> set[tuple[str, str, str]]:
    """Return the kind, schema and name of everything in the database outside of pgferry's own schema."""
    return {(row["kind"], row["schema"], row["name"]) for row in await server.fetch(OBJECTS)}


async def sung(source: Path, server: asyncpg.Connection) -> bool:
    """Say whether both canaries are as they were."""
    with closing(sqlite3.connect(source)) as file:
        here = file.execute("SELECT song FROM canary").fetchall()
    return [*here, *map(tuple, await server.fetch("SELECT song FROM canary"))] == [("tweet",), ("tweet",)]
