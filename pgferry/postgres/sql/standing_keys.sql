-- name: oid
SELECT con.oid
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE con.contype = 'f' AND n.nspname = $1 AND c.relname = $2 AND con.conname = $3

-- name: table_exists
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p'))

-- name: qualify : for the rest of the transaction
SELECT set_config('search_path', '', true)

-- name: foreign_keys : those of the tables that a live move carries rows to (they have the fence), and those to them
SELECT con.oid, n.nspname AS schema, c.relname AS table, con.conname AS name, con.convalidated AS valid,
       pg_catalog.pg_get_constraintdef(con.oid) AS definition,
       pg_catalog.obj_description(con.oid, 'pg_constraint') AS comment,
       CASE WHEN c.relkind = 'p' OR c.relispartition OR p.relkind = 'p' OR p.relispartition
            THEN 'a partitioned table has part in it' END AS kept
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = con.confrelid
 WHERE con.contype = 'f' AND con.conparentid = 0
   AND EXISTS (SELECT 1 FROM pg_catalog.pg_trigger g
                WHERE g.tgrelid IN (con.conrelid, con.confrelid) AND g.tgname = $1 AND NOT g.tgisinternal)
 ORDER BY 2, 3, 4

-- name: forget : the definitions of before; those that are there now take their place
DELETE FROM pgferry.deferred WHERE run_id = $1 AND kind = ANY ($2::text[]) AND kept IS NULL
