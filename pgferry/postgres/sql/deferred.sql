-- name: foreign_keys : those of a table and those that point at it; kept says why one is left in place
SELECT n.nspname AS schema, c.relname AS table, con.conname AS name, con.convalidated AS valid,
       pg_catalog.pg_get_constraintdef(con.oid) AS definition,
       pg_catalog.obj_description(con.oid, 'pg_constraint') AS comment,
       CASE WHEN c.relkind = 'p' OR c.relispartition OR p.relkind = 'p' OR p.relispartition
            THEN 'a partitioned table has part in it' END AS kept
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = con.confrelid
 WHERE con.contype = 'f' AND con.conparentid = 0
   AND (con.conrelid = $1::text::regclass OR con.confrelid = $1::text::regclass)
 ORDER BY 1, 2, 3

-- name: in_foreign_keys : those of the tables that have a foreign key, or that one points at
SELECT t.oid
  FROM unnest($1::oid[]) AS t (oid)
 WHERE EXISTS (SELECT FROM pg_catalog.pg_constraint con WHERE con.contype = 'f' AND con.conrelid = t.oid)
    OR EXISTS (SELECT FROM pg_catalog.pg_constraint con WHERE con.contype = 'f' AND con.confrelid = t.oid)

-- name: indexes : those of a table, with the constraint that each one serves
SELECT ic.relname AS name, pg_catalog.pg_get_indexdef(i.indexrelid) AS definition,
       pg_catalog.obj_description(i.indexrelid, 'pg_class') AS comment,
       coalesce(ts.spcname, '') AS tablespace,
       i.indisclustered AS clustered, i.indisreplident AS replica_identity,
       CASE WHEN c.relkind = 'p' OR c.relispartition THEN 'its table is partitioned'
            WHEN NOT i.indisvalid THEN 'it is invalid' END AS kept,
       am.amname = 'btree' AS attachable,
       con.contype::text AS contype, con.condeferrable AS deferrable, con.condeferred AS deferred,
       pg_catalog.pg_get_constraintdef(con.oid) AS constraint_definition,
       pg_catalog.obj_description(con.oid, 'pg_constraint') AS constraint_comment,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
              WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attnum || ' ' || a.attstattarget
               FROM pg_catalog.pg_attribute a
              WHERE a.attrelid = i.indexrelid AND a.attstattarget >= 0 ORDER BY a.attnum) AS statistics
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
  JOIN pg_catalog.pg_am am ON am.oid = ic.relam
  LEFT JOIN pg_catalog.pg_tablespace ts ON ts.oid = ic.reltablespace
  LEFT JOIN pg_catalog.pg_constraint con ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
   AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = $1::text::regclass
 ORDER BY ic.relname COLLATE "C"

-- name: record_step : a step that was kept before may be dropped now
INSERT INTO pgferry.deferred
    (run_id, target_schema, target_table, kind, name, definition, drop_order, build_order, comment, tablespace, also,
     key_columns, kept, dropped_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, CASE WHEN $13::text IS NULL THEN clock_timestamp() END)
ON CONFLICT (run_id, target_schema, target_table, kind, name) DO UPDATE
   SET definition = excluded.definition, comment = excluded.comment, tablespace = excluded.tablespace,
       also = excluded.also, key_columns = excluded.key_columns, kept = excluded.kept, dropped_at = excluded.dropped_at
 WHERE deferred.dropped_at IS NULL

-- name: recorded
SELECT * FROM pgferry.deferred WHERE run_id = $1 ORDER BY build_order, id

-- name: pending
SELECT * FROM pgferry.deferred
 WHERE run_id = $1 AND dropped_at IS NOT NULL AND rebuilt_at IS NULL ORDER BY build_order, id

-- name: lock_step
SELECT * FROM pgferry.deferred WHERE id = $1 FOR UPDATE

-- name: mark_rebuilt
UPDATE pgferry.deferred SET rebuilt_at = clock_timestamp(), error = $2 WHERE id = $1

-- name: record_error
UPDATE pgferry.deferred SET error = $2 WHERE id = $1 AND rebuilt_at IS NULL

-- name: built_again : the constraints of these kinds that were put aside and built again
SELECT DISTINCT target_schema AS schema, target_table AS table, name FROM pgferry.deferred
 WHERE run_id = $1 AND kind = ANY ($2::text[]) AND dropped_at IS NOT NULL AND rebuilt_at IS NOT NULL
 ORDER BY 1, 2, 3

-- name: put_away_again : a constraint that was built waits once more
UPDATE pgferry.deferred SET rebuilt_at = NULL, error = NULL, dropped_at = clock_timestamp()
 WHERE run_id = $1 AND kind = ANY ($2::text[]) AND target_schema = $3 AND target_table = $4 AND name = $5
   AND dropped_at IS NOT NULL AND rebuilt_at IS NOT NULL

-- name: search_path
SELECT current_setting('search_path')

-- name: set_search_path : for the rest of the transaction
SELECT set_config('search_path', $1, true)

-- name: set_memory : for the rest of the transaction
SELECT set_config('maintenance_work_mem', $1, true)

-- name: set_tablespace : for the rest of the transaction
SELECT set_config('default_tablespace', $1, true)

-- name: index_now : the definition of the index of that name, and whether it can be used
SELECT pg_catalog.pg_get_indexdef(i.indexrelid) AS definition, i.indisvalid AS valid
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2

-- name: constraint_now
SELECT con.contype::text AS contype, con.convalidated AS valid
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relname = $2 AND con.conname = $3

-- name: table_exists
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p'))

-- name: source_of : the source table of a run whose rows went to a target table
SELECT source_table FROM pgferry.run_table WHERE run_id = $1 AND target_schema = $2 AND target_table = $3

-- name: foreign_key_columns
SELECT pn.nspname AS parent_schema, p.relname AS parent, con.confmatchtype = 'f' AS match_full,
       ARRAY(SELECT a.attname::text FROM unnest(con.conkey) WITH ORDINALITY AS k (number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = con.conrelid AND a.attnum = k.number
              ORDER BY k.place) AS columns,
       ARRAY(SELECT a.attname::text FROM unnest(con.confkey) WITH ORDINALITY AS k (number, place)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = con.confrelid AND a.attnum = k.number
              ORDER BY k.place) AS parent_columns
  FROM pg_catalog.pg_constraint con
  JOIN pg_catalog.pg_class c ON c.oid = con.conrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class p ON p.oid = con.confrelid
  JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
 WHERE con.contype = 'f' AND n.nspname = $1 AND c.relname = $2 AND con.conname = $3
