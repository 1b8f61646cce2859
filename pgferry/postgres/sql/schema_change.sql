-- name: tables : the application's tables, the largest first, so that a row is found soon
SELECT n.nspname AS schema, c.relname AS table
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgferry')
   AND c.relname NOT LIKE 'alembic\_version%'
   AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
 ORDER BY pg_catalog.pg_relation_size(c.oid) DESC, 1, 2

-- name: has_runs
SELECT to_regclass('pgferry.run') IS NOT NULL

-- name: running : moves that have begun and are not finished
SELECT source FROM pgferry.run WHERE status = 'running' ORDER BY source COLLATE "C"
