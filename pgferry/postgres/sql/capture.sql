-- name: state : of each table that is to be captured, what the catalog says of it and of its capture.
-- parts are the table and all its partitions; unwatched and untruncated those of them without their trigger
SELECT wanted.number, t.oid IS NOT NULL AS there,
       pg_catalog.to_regclass('pgferry.outbox_' || wanted.number) IS NOT NULL AS outbox,
       pg_catalog.obj_description(pg_catalog.to_regclass('pgferry.outbox_' || wanted.number), 'pg_class') AS noted,
       (SELECT p.prosrc FROM pg_catalog.pg_proc p
         WHERE p.oid = pg_catalog.to_regprocedure('pgferry.capture_' || wanted.number || '()') AND p.prosecdef) AS body,
       (SELECT coalesce(pg_catalog.json_object_agg(a.attname,
                   pg_catalog.format_type(a.atttypid, a.atttypmod)
                   || CASE WHEN a.attgenerated <> '' THEN ' generated' ELSE '' END ORDER BY a.attnum), '{}')::text
          FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
       (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid)
          FROM pg_catalog.pg_attribute a
          JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = t.oid AND a.attname = '_pgferry_rowid') AS hidden_default,
       part.parts, part.names, part.unwatched, part.untruncated
  FROM unnest($1::integer[], $2::text[]) AS wanted (number, name)
  LEFT JOIN pg_catalog.pg_class t ON t.oid = pg_catalog.to_regclass(wanted.name)
 CROSS JOIN LATERAL (
       SELECT array_agg(r.relid::bigint ORDER BY r.relid) AS parts,
              array_agg(pg_catalog.format('%I.%I', n.nspname, c.relname) ORDER BY r.relid) AS names,
              array_agg(pg_catalog.format('%I.%I', n.nspname, c.relname) ORDER BY r.relid)
                  FILTER (WHERE NOT EXISTS (
                      SELECT 1 FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = r.relid AND g.tgname = '_pgferry_capture' AND g.tgenabled IN ('O', 'A')
                         AND g.tgfoid = pg_catalog.to_regprocedure('pgferry.capture_' || wanted.number || '()')))
                  AS unwatched,
              array_agg(pg_catalog.format('%I.%I', n.nspname, c.relname) ORDER BY r.relid)
                  FILTER (WHERE NOT EXISTS (
                      SELECT 1 FROM pg_catalog.pg_trigger g
                       WHERE g.tgrelid = r.relid AND g.tgname = '_pgferry_capture_all' AND g.tgenabled IN ('O', 'A')
                         AND g.tgfoid = pg_catalog.to_regprocedure('pgferry.capture_' || wanted.number || '()')))
                  AS untruncated
         FROM (SELECT t.oid AS relid WHERE t.oid IS NOT NULL
                UNION
               SELECT tree.relid::oid FROM pg_catalog.pg_partition_tree(t.oid::regclass) AS tree) AS r
         JOIN pg_catalog.pg_class c ON c.oid = r.relid
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace) AS part
 ORDER BY wanted.number

-- name: key_types : of a table's columns the type, domains resolved, and the collation where it is not the type's own
WITH RECURSIVE base AS (
    SELECT a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, a.attcollation AS collation
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = pg_catalog.to_regclass($1::text) AND a.attname = ANY ($2::text[]) AND NOT a.attisdropped
     UNION ALL
    SELECT base.name, t.typbasetype, t.typtypmod, base.collation
      FROM base JOIN pg_catalog.pg_type t ON t.oid = base.type AND t.typtype = 'd'
)
SELECT base.name, pg_catalog.format_type(base.type, base.modifier) AS type,
       CASE WHEN base.collation <> t.typcollation THEN pg_catalog.format('%I.%I', n.nspname, c.collname) END AS collation,
       t.typcollation <> 0 AS collatable
  FROM base
  JOIN pg_catalog.pg_type t ON t.oid = base.type AND t.typtype <> 'd'
  LEFT JOIN pg_catalog.pg_collation c ON c.oid = base.collation
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace

-- name: relations : a table and all its partitions
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, c.oid = t.oid AS itself
  FROM (SELECT pg_catalog.to_regclass($1::text)::oid AS oid) AS t
 CROSS JOIN LATERAL (SELECT t.oid AS relid UNION
                     SELECT tree.relid::oid FROM pg_catalog.pg_partition_tree(t.oid::regclass) AS tree) AS r
  JOIN pg_catalog.pg_class c ON c.oid = r.relid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 ORDER BY itself DESC, c.oid

-- name: triggers : every trigger of the given names that is no copy of another one
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS table, g.tgname AS name
  FROM pg_catalog.pg_trigger g
  JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE g.tgname = ANY ($1::text[]) AND NOT g.tgisinternal AND g.tgparentid = 0
 ORDER BY 1, 2

-- name: outboxes
SELECT c.relname AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'pgferry' AND c.relkind = 'r' AND c.relname ~ '^outbox_[0-9]+$'
 ORDER BY 1

-- name: functions
SELECT p.proname AS name
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'pgferry' AND p.proname ~ '^capture_[0-9]+$' AND p.pronargs = 0
 ORDER BY 1

-- name: rowid_sequences : those that hidden columns draw from, and the columns that do
SELECT s.relname AS name, pg_catalog.format('%I.%I', n.nspname, c.relname) AS table
  FROM pg_catalog.pg_class s
  JOIN pg_catalog.pg_namespace own ON own.oid = s.relnamespace AND own.nspname = 'pgferry'
  LEFT JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = s.oid
   AND d.classid = 'pg_catalog.pg_attrdef'::regclass
  LEFT JOIN pg_catalog.pg_attrdef def ON def.oid = d.objid
  LEFT JOIN pg_catalog.pg_class c ON c.oid = def.adrelid
  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE s.relkind = 'S' AND s.relname ~ '^rowid_[0-9]+$'
 ORDER BY 1, 2

-- name: quarantined_rowid : the highest rowid of a row that stayed behind in SQLite
SELECT max((q.key::jsonb ->> 0)::bigint)
  FROM pgferry.quarantine q
 WHERE q.run_id = $1 AND q.source_table = $2 AND q.replayed_at IS NULL AND q.key ~ '^\[-?[0-9]+\]$'

-- name: hidden_columns : tables that have the column by which rows without a key are found; not copies of partitions
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE a.attname = $1 AND NOT a.attisdropped AND a.attinhcount = 0
 ORDER BY 1
