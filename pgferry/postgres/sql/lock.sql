-- name: try_lock : held by the session until it ends; the numbers are pgferry's own, see lock.py
SELECT pg_try_advisory_lock($1)

-- name: try_lock_for_transaction
SELECT pg_try_advisory_xact_lock($1)

-- name: unlock
SELECT pg_advisory_unlock($1)

-- name: stay_alive : an idle connection must not be forgotten by a firewall, nor a dead client be kept for hours
SELECT set_config('tcp_keepalives_idle', '30', false), set_config('tcp_keepalives_interval', '10', false),
       set_config('tcp_keepalives_count', '3', false)

-- name: still_held
SELECT EXISTS (
    SELECT 1 FROM pg_catalog.pg_locks
     WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND granted
       AND (classid::bigint << 32 | objid::bigint) = $1)

-- name: holder : what a role may not see of another's session is NULL
SELECT l.pid, a.application_name, a.usename AS role, host(a.client_addr) AS address, a.backend_start AS since
  FROM pg_catalog.pg_locks l
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
   AND (l.classid::bigint << 32 | l.objid::bigint) = $1
