-- name: table_now : the table of that name, if it is still there
SELECT c.oid, c.relkind = 'p' AS partitioned
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')

-- name: pointing_at : tables outside the given ones with a foreign key to one of them
SELECT DISTINCT ON (c.oid) c.oid, n.nspname AS schema, c.relname AS table, c.relkind = 'p' AS partitioned,
       con.conname AS name, p.relname AS parent
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = con.confrelid
 WHERE con.contype = 'f' AND con.conparentid = 0
   AND con.confrelid = ANY ($1::oid[]) AND con.conrelid <> ALL ($1::oid[])
 ORDER BY c.oid, con.conname
