-- name: patience : whoever watches for locks must not stand in the queue for them
SELECT set_config('lock_timeout', '2s', false), set_config('statement_timeout', '30s', false)

-- name: server : sees_all is whether other roles' sessions and statements are shown in full
SELECT clock_timestamp() AS at, current_setting('server_version') AS version, current_database() AS database,
       current_setting('max_connections')::integer AS max_connections, pg_is_in_recovery() AS standby,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all

-- name: connections : of the whole server, as their limit is; a role that may not look deeper sees no state of others
SELECT coalesce(state, 'not shown') AS state, count(*) AS connections
  FROM pg_stat_activity
 WHERE backend_type = 'client backend' OR (backend_type IS NULL AND usesysid IS NOT NULL)
 GROUP BY 1
 ORDER BY 2 DESC, 1

-- name: cache : since when the numbers count is not the same on every server; the monitor looks at what was added
SELECT blks_hit, blks_read, deadlocks, temp_bytes, pg_database_size(current_database()) AS bytes
  FROM pg_stat_database WHERE datname = current_database()

-- name: active : longer than so many seconds
SELECT pid, usename AS user, application_name AS application,
       extract(epoch FROM clock_timestamp() - query_start)::float8 AS seconds,
       coalesce(wait_event_type || ': ' || wait_event, '') AS waits_for, query
  FROM pg_stat_activity
 WHERE state = 'active' AND backend_type = 'client backend' AND datname = current_database()
   AND pid <> pg_backend_pid() AND query_start < clock_timestamp() - make_interval(secs => $1)
 ORDER BY query_start
 LIMIT $2

-- name: waiting : who waits for whom; the blocker may be a session that does nothing
SELECT w.pid, w.usename AS user, w.application_name AS application,
       extract(epoch FROM clock_timestamp() - coalesce(l.waitstart, w.query_start))::float8 AS seconds,
       concat_ws(' ', l.mode, 'on', coalesce(l.relation::regclass::text, l.locktype)) AS lock, w.query,
       blocker.pid AS blocker_pid, b.usename AS blocker_user, b.application_name AS blocker_application,
       b.state AS blocker_state, b.query AS blocker_query
  FROM pg_stat_activity w
 CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS blocker (pid)
  LEFT JOIN LATERAL (SELECT mode, relation, locktype, waitstart FROM pg_locks
                      WHERE pid = w.pid AND NOT granted LIMIT 1) l ON true
  LEFT JOIN pg_stat_activity b ON b.pid = blocker.pid
 WHERE w.wait_event_type = 'Lock' AND w.datname = current_database()
 ORDER BY 4 DESC, 1, blocker.pid
 LIMIT $1

-- name: tables : the largest; sizes take a moment's lock on each
SELECT format('%I.%I', s.schemaname, s.relname) AS table, s.n_live_tup AS rows, s.n_dead_tup AS dead,
       pg_table_size(s.relid) AS table_bytes, pg_indexes_size(s.relid) AS index_bytes,
       greatest(s.last_autovacuum, s.last_vacuum) AS vacuumed
  FROM pg_stat_user_tables s
 WHERE s.schemaname <> 'pgferry'
 ORDER BY pg_table_size(s.relid) + pg_indexes_size(s.relid) DESC, 1
 LIMIT $1

-- name: dead_rows : in tables of so many rows or more, more than so many percent
SELECT format('%I.%I', schemaname, relname) AS table, n_live_tup AS rows, n_dead_tup AS dead,
       100.0::float8 * n_dead_tup / (n_live_tup + n_dead_tup) AS percent
  FROM pg_stat_user_tables
 WHERE schemaname <> 'pgferry' AND n_live_tup + n_dead_tup >= $1
   AND 100.0::float8 * n_dead_tup / (n_live_tup + n_dead_tup) > $2
 ORDER BY 4 DESC, 1

-- name: unused_indexes : never read since statistics began, and there for speed only
SELECT format('%I.%I', s.schemaname, s.indexrelname) AS index, format('%I.%I', s.schemaname, s.relname) AS table,
       pg_relation_size(s.indexrelid) AS bytes
  FROM pg_stat_user_indexes s
  JOIN pg_index i ON i.indexrelid = s.indexrelid
 WHERE s.idx_scan = 0 AND s.schemaname <> 'pgferry' AND i.indisvalid AND NOT i.indisunique AND NOT i.indisexclusion
 ORDER BY 3 DESC, 1

-- name: missing_indexes : large tables that are read from end to end again and again; a look or two is no pattern
SELECT format('%I.%I', schemaname, relname) AS table, n_live_tup AS rows, seq_scan AS scans,
       (seq_tup_read / seq_scan)::bigint AS rows_a_scan, coalesce(idx_scan, 0) AS index_scans
  FROM pg_stat_user_tables
 WHERE schemaname <> 'pgferry' AND n_live_tup >= $1 AND seq_scan >= $2 AND seq_tup_read / seq_scan >= $1 / 10
   AND coalesce(idx_scan, 0) < 20 * seq_scan
 ORDER BY seq_tup_read DESC, 1
 LIMIT $3

-- name: statements_view : where the extension is, and how it calls its times: total_exec_time, or total_time before 1.8
SELECT n.nspname AS schema,
       EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'total_exec_time') AS named_exec
  FROM pg_extension e
  JOIN pg_namespace n ON n.oid = e.extnamespace
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'pg_stat_statements'
 WHERE e.extname = 'pg_stat_statements'

-- name: live_runs : moves without downtime that are under way
SELECT r.id, p.phase
  FROM pgferry.run r
 CROSS JOIN LATERAL (SELECT phase FROM pgferry.phase WHERE run_id = r.id ORDER BY id DESC LIMIT 1) p
 WHERE r.status <> 'restarted' AND p.phase NOT IN ('none', 'cleaned')
 ORDER BY r.id

-- name: ledger_is_readable
SELECT coalesce(has_table_privilege(to_regclass('pgferry.phase'), 'SELECT'), false)
