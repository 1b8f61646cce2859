-- name: record_validation
INSERT INTO pgferry.validation
    (run_id, direction, level, sample_percent, started_at, finished_at, moment, passed, tables, rows, cells,
     differences, orphans, quarantined, seconds, detail)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16::text::jsonb)
RETURNING id

-- name: validations : newest first
SELECT id, direction, level, sample_percent, started_at, finished_at, moment, passed, tables, rows, cells, differences,
       orphans, quarantined, seconds, detail::text AS detail
  FROM pgferry.validation WHERE run_id = $1 AND ($2 = '' OR level = $2) ORDER BY id DESC LIMIT $3

-- name: record_repair
INSERT INTO pgferry.repair (validation_id, source_table, key, action)
SELECT $1, $2, key, $4 FROM unnest($3::text[]) AS repaired (key)

-- name: repairs
SELECT source_table, key, action, repaired_at FROM pgferry.repair WHERE validation_id = $1 ORDER BY id

-- name: drop_open_entries
DELETE FROM pgferry.quarantine WHERE run_id = $1 AND source_table = $2 AND replayed_at IS NULL

-- name: drop_open_entries_of : a join, so that many keys are hashed once
DELETE FROM pgferry.quarantine q USING (SELECT DISTINCT key FROM unnest($3::text[]) AS given (key)) a
 WHERE q.run_id = $1 AND q.source_table = $2 AND q.replayed_at IS NULL AND q.key = a.key

-- name: record_uncarried : a row that was settled once can be left behind again
INSERT INTO pgferry.uncarried (run_id, source_table, digest, key, reason)
SELECT $1, $2, digest, key, $5 FROM unnest($3::bytea[], $4::text[]) AS left_behind (digest, key)
ON CONFLICT (run_id, source_table, digest) DO UPDATE
   SET reason = excluded.reason, found_at = excluded.found_at, settled = NULL, settled_at = NULL
 WHERE pgferry.uncarried.settled_at IS NOT NULL

-- name: open_uncarried
SELECT source_table, key FROM pgferry.uncarried
 WHERE run_id = $1 AND settled_at IS NULL ORDER BY source_table COLLATE "C", id

-- name: uncarried_count
SELECT count(*) FROM pgferry.uncarried WHERE run_id = $1 AND settled_at IS NULL

-- name: settle_uncarried
UPDATE pgferry.uncarried SET settled = $4, settled_at = clock_timestamp()
 WHERE run_id = $1 AND source_table = $2 AND digest = ANY ($3::bytea[]) AND settled_at IS NULL
