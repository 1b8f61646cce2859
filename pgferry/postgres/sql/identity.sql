-- name: sequences : those that the tables' columns own, and those that their defaults draw from; set by set, for a
-- fresh schema's catalog has no statistics yet, and a plan by guesses may look through it once a column
WITH owned AS MATERIALIZED (
       SELECT d.refobjid AS attrelid, d.refobjsubid AS attnum, d.objid AS sequence
         FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = ANY ($1::oid[])
          AND d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
), defaults AS MATERIALIZED (
       SELECT def.oid, def.adrelid AS attrelid, def.adnum AS attnum
         FROM pg_catalog.pg_attrdef def
        WHERE def.adrelid = ANY ($1::oid[])
), drawn AS (
       SELECT attrelid, attnum, sequence FROM owned
        UNION
       SELECT def.attrelid, def.attnum, uses.refobjid
         FROM defaults def
         JOIN pg_catalog.pg_depend uses ON uses.classid = 'pg_catalog.pg_attrdef'::regclass AND uses.objid = def.oid
          AND uses.refclassid = 'pg_catalog.pg_class'::regclass
)
SELECT a.attrelid AS table, a.attname AS column, n.nspname AS schema, s.relname AS name,
       pg_catalog.format_type(q.seqtypid, NULL) AS type, q.seqincrement AS increment, q.seqmin AS lowest,
       q.seqmax AS highest
  FROM drawn
  JOIN pg_catalog.pg_attribute a ON a.attrelid = drawn.attrelid AND a.attnum = drawn.attnum
  JOIN pg_catalog.pg_class s ON s.oid = drawn.sequence AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
 WHERE a.attnum > 0 AND NOT a.attisdropped
 ORDER BY array_position($1::oid[], a.attrelid), a.attnum, n.nspname, s.relname

-- name: set_positions
SELECT setval(name::regclass, value, called)
  FROM unnest($1::text[], $2::bigint[], $3::boolean[]) AS following (name, value, called)
