-- name: sequences : those that the tables' columns own, and those that their defaults draw from
SELECT a.attrelid AS table, a.attname AS column, n.nspname AS schema, s.relname AS name, pg_catalog.format_type(q.seqtypid, NULL) AS type,
       q.seqincrement AS increment, q.seqmin AS lowest, q.seqmax AS highest
  FROM pg_catalog.pg_attribute a
 CROSS JOIN LATERAL (
       SELECT d.objid AS oid
         FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
          AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i')
        UNION
       SELECT uses.refobjid
         FROM pg_catalog.pg_attrdef def
         JOIN pg_catalog.pg_depend uses ON uses.classid = 'pg_catalog.pg_attrdef'::regclass AND uses.objid = def.oid
          AND uses.refclassid = 'pg_catalog.pg_class'::regclass
        WHERE def.adrelid = a.attrelid AND def.adnum = a.attnum) AS drawn
  JOIN pg_catalog.pg_class s ON s.oid = drawn.oid AND s.relkind = 'S'
  JOIN pg_catalog.pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid
 WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY array_position($1::oid[], a.attrelid), a.attnum, n.nspname, s.relname

-- name: set_positions
SELECT setval(name::regclass, value, called)
  FROM unnest($1::text[], $2::bigint[], $3::boolean[]) AS following (name, value, called)
