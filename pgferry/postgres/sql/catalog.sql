-- name: tables : ordinary and partitioned tables; left out are partitions (their parent takes the rows), what belongs
-- to an extension, pgferry's own schema, and Alembic's table
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned,
       coalesce((SELECT array_agg(a.attname::text ORDER BY k.place)
                   FROM pg_catalog.pg_index i
                  CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
                  WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts), '{}') AS key
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p')
   AND NOT c.relispartition
   AND n.nspname = ANY ($1::text[])
   AND n.nspname <> 'pgferry'
   AND c.relname <> 'alembic_version'
   AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
 ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"

-- name: columns : identity also says true for serial, that is a default taken from a sequence that the column owns
SELECT a.attrelid AS table_oid, a.attname AS name, a.atttypid AS type, a.atttypmod AS modifier, a.attnotnull AS not_null,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
       a.atthasdef AND a.attgenerated = '' AS has_default,
       a.attgenerated <> '' AS generated,
       a.attidentity <> '' OR EXISTS (
           SELECT 1
             FROM pg_catalog.pg_attrdef def
             JOIN pg_catalog.pg_depend uses ON uses.classid = 'pg_catalog.pg_attrdef'::regclass AND uses.objid = def.oid
              AND uses.refclassid = 'pg_catalog.pg_class'::regclass
             JOIN pg_catalog.pg_class s ON s.oid = uses.refobjid AND s.relkind = 'S'
             JOIN pg_catalog.pg_depend owned ON owned.classid = 'pg_catalog.pg_class'::regclass AND owned.objid = s.oid
              AND owned.refclassid = 'pg_catalog.pg_class'::regclass AND owned.refobjid = a.attrelid
              AND owned.refobjsubid = a.attnum AND owned.deptype = 'a'
            WHERE def.adrelid = a.attrelid AND def.adnum = a.attnum) AS identity
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum

-- name: types : the given types and all that they are made of; element is 0 unless the type is a true array
WITH RECURSIVE needed AS (
    SELECT unnest($1::oid[]) AS oid
     UNION
    SELECT part.oid
      FROM needed
      JOIN pg_catalog.pg_type t ON t.oid = needed.oid
     CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS part (oid)
     WHERE part.oid <> 0
)
SELECT t.oid, t.typtype::text AS type, t.typbasetype AS base, t.typtypmod AS modifier, t.typnotnull AS not_null,
       t.typdefault IS NOT NULL AS has_default, coalesce(e.oid, 0) AS element,
       pg_catalog.format_type(t.oid, NULL) AS name,
       coalesce((SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder)
                   FROM pg_catalog.pg_enum l WHERE l.enumtypid = t.oid), '{}') AS labels
  FROM needed
  JOIN pg_catalog.pg_type t ON t.oid = needed.oid
  LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid

-- name: ledger_exists
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'pgferry' AND c.relname = 'deferred')

-- name: waiting_keys : primary keys that a run has dropped and not yet rebuilt
SELECT target_schema, target_table, key_columns
  FROM pgferry.deferred
 WHERE kind = 'primary key' AND dropped_at IS NOT NULL AND rebuilt_at IS NULL
 ORDER BY id

-- name: server_version
SELECT current_setting('server_version_num')::integer

-- name: unique_keys : unique indexes of tables, constraints among them; terms as pg_get_indexdef writes them, with the
-- column where a term is one, and whether its collation finds only equal bytes equal. nulls_equal is PostgreSQL 15's
SELECT i.indrelid AS table_oid, ic.relname AS name,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
               LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number AND k.number > 0
              WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns,
       ARRAY(SELECT pg_catalog.pg_get_indexdef(i.indexrelid, place, true)
               FROM pg_catalog.generate_series(1, i.indnkeyatts) AS place ORDER BY place) AS terms,
       NOT EXISTS (SELECT 1 FROM unnest(i.indcollation::oid[]) AS used (oid)
                     JOIN pg_catalog.pg_collation c ON c.oid = used.oid
                    WHERE NOT c.collisdeterministic) AS bytewise,
       i.indpred IS NOT NULL AS partial,
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
 WHERE i.indrelid = ANY ($1::oid[]) AND i.indisunique AND i.indisvalid
 ORDER BY ic.relname COLLATE "C"
