"""Hands what a migration has made to the role that owns the schema it lies in.

Where an application's role owns its schema and pgferry's role is a member of it (as `provision` sets up), the tables
that pgferry's migrations make would be pgferry's own, and the application could not even read them.
"""

from __future__ import annotations

from pgferry.postgres.handle import Connection

# Only where it is certain what is meant: the schema belongs to a role that logs in, this session is a member of that
# role by a grant, and no superuser, who is a member of every role. What a column owns goes with its table.
_HAND_OVER = """
WITH mine AS (
    SELECT n.oid AS namespace, n.nspname AS schema, o.rolname AS owner, me.oid AS me
      FROM pg_catalog.pg_namespace n
      JOIN pg_catalog.pg_roles o ON o.oid = n.nspowner AND o.rolcanlogin
      JOIN pg_catalog.pg_roles me ON me.rolname = current_user AND NOT me.rolsuper AND me.oid <> o.oid
     WHERE n.nspname <> 'pgferry' AND pg_catalog.pg_has_role(current_user, o.oid, 'USAGE')
)
SELECT pg_catalog.format('ALTER %s %I.%I OWNER TO %I',
           CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE'
                          ELSE 'TABLE' END,
           mine.schema, c.relname, mine.owner)
  FROM mine
  JOIN pg_catalog.pg_class c ON c.relnamespace = mine.namespace AND c.relowner = mine.me
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S')
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype IN ('a', 'i', 'e'))
 UNION ALL
SELECT pg_catalog.format('ALTER %s %I.%I OWNER TO %I',
           CASE t.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, mine.schema, t.typname, mine.owner)
  FROM mine
  JOIN pg_catalog.pg_type t ON t.typnamespace = mine.namespace AND t.typowner = mine.me
  LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
 WHERE t.typtype IN ('d', 'e', 'r') OR (t.typtype = 'c' AND c.relkind = 'c')
 UNION ALL
SELECT pg_catalog.format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, mine.owner)
  FROM mine
  JOIN pg_catalog.pg_proc p ON p.pronamespace = mine.namespace AND p.proowner = mine.me
 WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                      AND d.deptype IN ('i', 'e'))
"""


async def hand_over(conn: Connection) -> int:
    """Give the session role's own objects to the owner of their schema; returns how many. One transaction.

    Nothing is done where that is not meant: in schemas of nobody who logs in, of roles that this one is no member of,
    for a superuser, and in schema pgferry.
    """
    async with conn.transaction():
        statements = [row[0] for row in await conn.fetch(_HAND_OVER)]
        for statement in statements:
            await conn.execute(statement)
    return len(statements)
