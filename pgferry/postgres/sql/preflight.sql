-- name: server
SELECT pg_catalog.current_setting('server_version') AS version,
       pg_catalog.current_setting('server_encoding') AS encoding,
       pg_catalog.current_database()::text AS database,
       current_user::text AS role,
       pg_catalog.pg_is_in_recovery() AS standby,
       pg_catalog.current_setting('transaction_read_only') = 'on' AS read_only

-- name: settings : of a server; those that this role may not see are left out. In the unit of pg_settings.unit
SELECT name, setting FROM pg_catalog.pg_settings WHERE name = ANY ($1::text[])

-- name: connections : places, and clients that hold one now, this session left out; a limit of -1 is none
SELECT pg_catalog.current_setting('max_connections')::integer
       - pg_catalog.current_setting('superuser_reserved_connections')::integer
       - coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::integer AS places,
       (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database()) AS database_limit,
       (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT count(*)::integer FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()) AS in_use

-- name: identity : which server this is, whichever way it was reached
SELECT pg_catalog.pg_postmaster_start_time()::text || ' ' || current_database()

-- name: may_make_ledger : schema pgferry is this role's, or may be made by it
SELECT coalesce((SELECT pg_catalog.pg_has_role(current_user, nspowner, 'USAGE')
                   FROM pg_catalog.pg_namespace WHERE nspname = 'pgferry'),
                pg_catalog.has_database_privilege(current_user, current_database(), 'CREATE'))

-- name: may_make_tables : of the schemas those that are there, and whether this role may make a table in them
SELECT nspname::text AS name, pg_catalog.has_schema_privilege(current_user, oid, 'CREATE') AS allowed
  FROM pg_catalog.pg_namespace
 WHERE nspname = ANY ($1::text[])

-- name: foreign_tables : tables that belong to a role which this one is no member of: it cannot alter or truncate them
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.pg_get_userbyid(c.relowner)::text AS owner
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[]) AND NOT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE')
 ORDER BY 1

-- name: unreadable_tables : tables whose rows this role may not read and write
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY ($1::oid[])
   AND NOT (pg_catalog.has_schema_privilege(current_user, n.oid, 'USAGE')
            AND pg_catalog.has_table_privilege(current_user, c.oid, 'SELECT')
            AND pg_catalog.has_table_privilege(current_user, c.oid, 'INSERT')
            AND pg_catalog.has_table_privilege(current_user, c.oid, 'UPDATE')
            AND pg_catalog.has_table_privilege(current_user, c.oid, 'DELETE'))
 ORDER BY 1

-- name: triggers : those of the application that fire for an ordinary session
SELECT pg_catalog.format('%s on %I.%I', g.tgname, n.nspname, c.relname) AS name
  FROM pg_catalog.pg_trigger g
  JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE g.tgrelid = ANY ($1::oid[]) AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A')
   AND g.tgname NOT LIKE '\_pgferry\_%'
 ORDER BY 1

-- name: revision_table
SELECT pg_catalog.to_regclass('alembic_version') IS NOT NULL

-- name: revisions
SELECT version_num FROM alembic_version ORDER BY 1

-- name: has_run : whether this source was moved here before, or is being moved: a run without a plan has loaded nothing
SELECT EXISTS (SELECT 1 FROM pgferry.run r WHERE r.source = $1 AND r.status <> 'restarted'
                  AND EXISTS (SELECT 1 FROM pgferry.run_table t WHERE t.run_id = r.id))

-- name: ledger_readable
SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgferry.run'), 'SELECT'), false)

-- name: monitor_readable
SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('pgferry.metric'), 'SELECT'), false)

-- name: monitored : seconds since the monitor last measured
SELECT extract(epoch FROM pg_catalog.now() - max(at))::float8 FROM pgferry.metric

-- name: statements_extension
SELECT pg_catalog.to_regclass(
           (SELECT pg_catalog.format('%I.pg_stat_statements', n.nspname)
              FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
             WHERE e.extname = 'pg_stat_statements'))::text

-- name: tablespace : bytes in the tablespace of this database; needs CREATE on it, or pg_read_all_stats
SELECT pg_catalog.pg_tablespace_size(dattablespace) FROM pg_catalog.pg_database WHERE datname = current_database()

-- name: size
SELECT pg_catalog.pg_total_relation_size($1::text::regclass)
