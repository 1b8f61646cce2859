-- name: ledger_is_there
SELECT to_regclass('pgferry.schema_version') IS NOT NULL

-- name: live_runs : where every move without downtime stands; one that ended, or was restarted, is not among them
SELECT r.id, r.source
  FROM pgferry.run r
 CROSS JOIN LATERAL (SELECT phase FROM pgferry.phase WHERE run_id = r.id ORDER BY id DESC LIMIT 1) p
 WHERE r.status <> 'restarted' AND p.phase NOT IN ('none', 'cleaned')
 ORDER BY r.source COLLATE "C"

-- name: other_live : the move of another source that has objects here, whose names do not tell of which source they are
SELECT r.source, p.phase, p.since, p.reason
  FROM pgferry.run r
 CROSS JOIN LATERAL (SELECT phase, since, reason FROM pgferry.phase WHERE run_id = r.id ORDER BY id DESC LIMIT 1) p
 WHERE r.id <> $1 AND r.status <> 'restarted'
   AND (p.phase NOT IN ('none', 'cleaned')
        OR p.phase = 'cleaned' AND EXISTS (SELECT 1 FROM pgferry.capture c WHERE c.run_id = r.id))
 ORDER BY r.id LIMIT 1

-- name: server_time
SELECT clock_timestamp()

-- name: read_position : by JSON, since a ledger of version 4, which one may look at, has no column mark
SELECT p.run_id, p.outbox_id, p.moment, pg_catalog.to_jsonb(p) ->> 'mark' AS mark FROM pgferry.position p WHERE run_id = $1

-- name: begin_position
INSERT INTO pgferry.position (run_id, outbox_id, moment, mark) VALUES ($1, $2, $3, $4) ON CONFLICT (run_id) DO NOTHING

-- name: set_position
INSERT INTO pgferry.position (run_id, outbox_id, moment, mark) VALUES ($1, $2, $3, $4)
ON CONFLICT (run_id) DO UPDATE
   SET outbox_id = excluded.outbox_id, moment = excluded.moment, mark = excluded.mark, updated_at = clock_timestamp()

-- name: advance : nothing comes back when another process has been here since the position was read
UPDATE pgferry.position
   SET outbox_id = $3, moment = $4, rows = rows + $5, mark = $6, cycles = cycles + 1, updated_at = clock_timestamp()
 WHERE run_id = $1 AND outbox_id = $2
RETURNING run_id

-- name: reserve_token : the one that is there wins
INSERT INTO pgferry.capture (run_id, token) VALUES ($1, $2)
ON CONFLICT (run_id) DO UPDATE SET token = pgferry.capture.token
RETURNING token

-- name: record_capture : nothing comes back when another token is recorded
INSERT INTO pgferry.capture (run_id, token, schema_version, tables, installed_at)
VALUES ($1, $2, $3, $4::text::jsonb, clock_timestamp())
ON CONFLICT (run_id) DO UPDATE
   SET schema_version = excluded.schema_version, tables = excluded.tables, updated_at = clock_timestamp(),
       installed_at = coalesce(pgferry.capture.installed_at, excluded.installed_at)
 WHERE pgferry.capture.token = excluded.token
RETURNING run_id

-- name: read_capture
SELECT token, schema_version, tables::text AS tables
  FROM pgferry.capture WHERE run_id = $1 AND installed_at IS NOT NULL

-- name: record_forms
UPDATE pgferry.capture SET forms = $2::text::jsonb, updated_at = clock_timestamp() WHERE run_id = $1 RETURNING run_id

-- name: read_forms
SELECT forms::text AS forms FROM pgferry.capture WHERE run_id = $1

-- name: mark_touched
INSERT INTO pgferry.touched (run_id, source_table, digest, key)
SELECT $1, $2, digest, key FROM unnest($3::bytea[], $4::text[]) AS touched (digest, key)
ON CONFLICT (run_id, source_table, digest) DO UPDATE SET at = excluded.at

-- name: touched_counts
SELECT source_table, count(*) AS rows FROM pgferry.touched WHERE run_id = $1 GROUP BY 1 ORDER BY source_table COLLATE "C"

-- name: touched_page : rows of a table behind a digest, in its order
SELECT digest, key FROM pgferry.touched
 WHERE run_id = $1 AND source_table = $2 AND digest > $3 ORDER BY digest LIMIT $4

-- name: forget_touched
DELETE FROM pgferry.touched WHERE run_id = $1 AND at <= $2

-- name: forget_position
DELETE FROM pgferry.position WHERE run_id = $1

-- name: forget_capture
DELETE FROM pgferry.capture WHERE run_id = $1

-- name: forget_all_touched
DELETE FROM pgferry.touched WHERE run_id = $1
