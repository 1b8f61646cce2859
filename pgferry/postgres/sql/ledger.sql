-- name: lock_install : held until the end of the transaction; two processes that install at once take turns
SELECT pg_advisory_xact_lock(7164250413001)

-- name: who
SELECT current_user AS role, current_database() AS database

-- name: schema_exists
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = 'pgferry')

-- name: version_table_exists
SELECT to_regclass('pgferry.schema_version') IS NOT NULL

-- name: create_schema
CREATE SCHEMA pgferry

-- name: create_version_table
CREATE TABLE pgferry.schema_version (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)

-- name: read_version
SELECT coalesce(max(version), 0) FROM pgferry.schema_version

-- name: write_version
INSERT INTO pgferry.schema_version (version) VALUES ($1)

-- name: insert_run : nothing comes back when the source has an open run already
INSERT INTO pgferry.run (source, fingerprint) VALUES ($1, $2)
ON CONFLICT (source) WHERE status <> 'restarted' DO NOTHING
RETURNING *, report::text AS report_text

-- name: find_run
SELECT *, report::text AS report_text FROM pgferry.run WHERE source = $1 AND status <> 'restarted'

-- name: read_run
SELECT *, report::text AS report_text FROM pgferry.run WHERE id = $1

-- name: lock_run
SELECT *, report::text AS report_text FROM pgferry.run WHERE id = $1 FOR UPDATE

-- name: history
SELECT *, report::text AS report_text FROM pgferry.run ORDER BY id DESC LIMIT $1

-- name: record_snapshot
UPDATE pgferry.run
   SET snapshot_path = $2, snapshot_sha256 = $3, snapshot_bytes = $4, snapshot_source = $5, taken_at = $6,
       foreign_key_violations = $7
 WHERE id = $1

-- name: adopt_rules : only as long as nothing is planned by them
UPDATE pgferry.run SET fingerprint = $2
 WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM pgferry.run_table WHERE run_id = $1)
RETURNING id

-- name: finish_run
UPDATE pgferry.run SET status = 'finished', finished_at = clock_timestamp(), report = $2::text::jsonb
 WHERE id = $1 AND status <> 'restarted'
RETURNING id

-- name: mark_restarted
UPDATE pgferry.run SET status = 'restarted', finished_at = coalesce(finished_at, clock_timestamp()) WHERE id = $1

-- name: insert_table
INSERT INTO pgferry.run_table
    (run_id, source_table, target_schema, target_table, source_rows, excluded_rows, columns, fingerprint)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8)

-- name: read_tables
SELECT source_table, target_schema, target_table, source_rows, excluded_rows, columns::text AS columns, fingerprint
  FROM pgferry.run_table WHERE run_id = $1 ORDER BY source_table COLLATE "C"

-- name: read_chunks
SELECT source_table, number, low, high, rows
  FROM pgferry.chunk WHERE run_id = $1 ORDER BY source_table COLLATE "C", number

-- name: record_chunk : once, as a second writer waits and then updates nothing; never for a run that was given up
UPDATE pgferry.chunk
   SET loaded_at = clock_timestamp(), loaded_rows = $4, quarantined = $5, payload_bytes = $6, digest = $7, xid = $8,
       first_block = $9, last_block = $10
 WHERE run_id = $1 AND source_table = $2 AND number = $3 AND loaded_at IS NULL
   AND EXISTS (SELECT FROM pgferry.run WHERE id = $1 AND status <> 'restarted')
RETURNING rows

-- name: chunk_is_planned
SELECT EXISTS (SELECT 1 FROM pgferry.chunk WHERE run_id = $1 AND source_table = $2 AND number = $3)

-- name: load_times : when each chunk was committed, and of how many rows it disposed
SELECT loaded_at, loaded_rows + quarantined AS rows FROM pgferry.chunk
 WHERE run_id = $1 AND loaded_at IS NOT NULL ORDER BY loaded_at

-- name: loaded_chunks
SELECT source_table, number, low, high, rows, loaded_rows, quarantined, payload_bytes, digest, xid, first_block,
       last_block
  FROM pgferry.chunk
 WHERE run_id = $1 AND loaded_at IS NOT NULL AND ($2::text[] IS NULL OR source_table = ANY ($2))
 ORDER BY source_table COLLATE "C", number

-- name: mark_verified
UPDATE pgferry.chunk SET verified_at = clock_timestamp(), differences = $4
  FROM unnest($2::text[], $3::int[]) AS compared (source_table, number)
 WHERE chunk.run_id = $1 AND chunk.source_table = compared.source_table AND chunk.number = compared.number
   AND chunk.loaded_at IS NOT NULL
RETURNING chunk.source_table, chunk.number

-- name: verified_chunks
SELECT source_table, number, differences
  FROM pgferry.chunk WHERE run_id = $1 AND verified_at IS NOT NULL ORDER BY source_table COLLATE "C", number

-- name: quarantine_counts
SELECT source_table, count(*) AS rows
  FROM pgferry.quarantine WHERE run_id = $1 AND replayed_at IS NULL GROUP BY source_table

-- name: loaded_targets : the target tables in which this run has committed rows, oldest plan first
SELECT DISTINCT t.target_schema, t.target_table
  FROM pgferry.run_table t
  JOIN pgferry.chunk c ON c.run_id = t.run_id AND c.source_table = t.source_table
 WHERE t.run_id = $1 AND c.loaded_at IS NOT NULL
 ORDER BY 1, 2

-- name: forget_renames
DELETE FROM pgferry.rename WHERE run_id = $1

-- name: insert_rename
INSERT INTO pgferry.rename (run_id, source_table, source_column, source_name, target_name, reason)
VALUES ($1, $2, $3, $4, $5, 'pgferry.toml, the plan, or another letter case')
