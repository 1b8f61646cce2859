-- name: columns : each column's own type, and the type below it that checks nothing: no domain, and no array of one
WITH RECURSIVE below AS (
    SELECT a.attname, a.attnum, 0 AS depth, a.atttypid AS type
      FROM pg_catalog.pg_attribute a
     WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
     UNION ALL
    SELECT b.attname, b.attnum, b.depth + 1, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE base.typarray END
      FROM below b
      JOIN pg_catalog.pg_type t ON t.oid = b.type
      LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid AND e.typtype = 'd'
      LEFT JOIN pg_catalog.pg_type base ON base.oid = e.typbasetype
     WHERE t.typtype = 'd' OR base.oid IS NOT NULL
)
SELECT DISTINCT ON (b.attnum) b.attname AS name, pg_catalog.format_type(b.type, NULL) AS plain, t.typelem AS element,
       CASE WHEN b.depth > 0 THEN pg_catalog.format_type(a.atttypid, a.atttypmod) END AS domain
  FROM below b
  JOIN pg_catalog.pg_type t ON t.oid = b.type
  JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = b.attnum
 ORDER BY b.attnum, b.depth DESC

-- name: make_refused : what the sieve writes down
CREATE TEMP TABLE pgferry_refused (
    place bigint, state text, said text, detail text, column_name text, constraint_name text, schema_name text,
    table_name text
)

-- name: sieve : the body of a DO block. Inserts run after run of rows, each in a subtransaction of its own. A run that
-- is refused is halved, down to the one row that is refused; after each success the next run is twice as long. So a
-- clean stretch takes few subtransactions, and a row that is refused about twenty, or two where all of them are.
DECLARE
    total   bigint := (SELECT count(*) FROM pg_temp.pgferry_sieve);
    longest bigint := 1000;
    length  bigint := longest;
    first   bigint := 1;
    last    bigint;
    state   text;
    said    text;
    detail  text;
    of_column text;
    of_constraint text;
    of_schema text;
    of_table text;
BEGIN
    WHILE first <= total LOOP
        last := least(first + length - 1, total);
        BEGIN
            {insert}
            first := last + 1;
            length := least(length * 2, longest);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS
                state = RETURNED_SQLSTATE, said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
                of_column = COLUMN_NAME, of_constraint = CONSTRAINT_NAME, of_schema = SCHEMA_NAME,
                of_table = TABLE_NAME;
            IF state !~ {states} THEN
                RAISE;
            END IF;
            IF first < last THEN
                length := (last - first + 1) / 2;
            ELSE
                {name_column}
                INSERT INTO pg_temp.pgferry_refused
                VALUES (first, state, said, detail, of_column, of_constraint, of_schema, of_table);
                first := first + 1;
            END IF;
        END;
    END LOOP;
END

-- name: refused : a constraint of the table's own names its columns in the order in which it uses them
SELECT r.place, r.state, r.said, r.detail,
       coalesce(nullif(r.column_name, ''),
                (SELECT a.attname
                   FROM pg_catalog.pg_constraint c
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
                  WHERE c.conrelid = to_regclass(format('%I.%I', r.schema_name, r.table_name))
                    AND c.conname = r.constraint_name)) AS column_name
  FROM pg_temp.pgferry_refused r
 ORDER BY r.place
