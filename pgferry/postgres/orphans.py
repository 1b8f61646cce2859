"""Rows that point at nothing: what stands in the way of a foreign key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pgferry.errors import Permanent
from pgferry.postgres.handle import Connection
from pgferry.postgres.statements import statements
from pgferry.quoting import qualified, quote

SQL = statements("deferred")


@dataclass(frozen=True, slots=True)
class Orphans:
    """How many rows of a table a foreign key does not allow, and the referencing columns of a first one, as text."""

    parent: str
    count: int
    first: dict[str, str | None] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Return the first one as messages show it."""
        return ", ".join(f"{column} = {value}" for column, value in self.first.items())


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Which columns of a table refer to which of another."""

    schema: str
    table: str
    columns: Sequence[str]
    parent_schema: str
    parent: str
    parent_columns: Sequence[str]
    match_full: bool = False


async def find_orphans(conn: Connection, schema: str, table: str, name: str) -> Orphans:
    """Count the rows that violate a foreign key, by anti-join. Reads only; the constraint must exist, NOT VALID or not.

    Raises Permanent when there is no such foreign key.
    """
    row = await conn.fetchrow(SQL["foreign_key_columns"], schema, table, name)
    if row is None:
        raise Permanent(f"There is no foreign key {name} on {schema}.{table}.", "Check the names.")
    return await orphans_of(conn, ForeignKey(schema=schema, table=table, **row))


async def orphans_of(conn: Connection, key: ForeignKey) -> Orphans:
    """Count the rows that a foreign key does not allow, by anti-join, whether it exists or not. Reads only."""
    parent = qualified(key.parent_schema, key.parent)
    condition = _condition(parent, key.columns, key.parent_columns, match_full=key.match_full)
    orphans = f"FROM {qualified(key.schema, key.table)} AS c WHERE {condition}"
    count = await conn.fetchval(f"SELECT count(*) {orphans}")
    columns = ", ".join(f"c.{quote(column)}::text" for column in key.columns)
    first = await conn.fetchrow(f"SELECT {columns} {orphans} LIMIT 1") if count else ()
    values = dict(zip(key.columns, first or (), strict=False))
    return Orphans(parent=f"{key.parent_schema}.{key.parent}", count=count, first=values)


def _condition(parent: str, columns: Sequence[str], parent_columns: Sequence[str], *, match_full: bool) -> str:
    pairs = zip(columns, parent_columns, strict=True)
    equal = " AND ".join(f"p.{quote(there)} = c.{quote(here)}" for here, there in pairs)
    missing = f"NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {equal})"
    if match_full:
        # MATCH FULL allows all NULLs or none; a mixture points nowhere and so equals no parent.
        some = " OR ".join(f"c.{quote(column)} IS NOT NULL" for column in columns)
        return f"({some}) AND {missing}"
    every = " AND ".join(f"c.{quote(column)} IS NOT NULL" for column in columns)
    return f"{every} AND {missing}"
