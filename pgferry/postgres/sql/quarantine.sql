-- name: ledger_is_there
SELECT to_regclass('pgferry.quarantine') IS NOT NULL

-- name: open_runs : runs that were not restarted, newest first
SELECT id FROM pgferry.run WHERE status <> 'restarted' ORDER BY id DESC

-- name: reasons : what is kept aside, reasons alike counted together: an ellipsis stands for what a reason quotes of a row
SELECT source_table, column_name, storage_class,
       regexp_replace(
           regexp_replace(
               regexp_replace(regexp_replace(reason, '(: [^:]*row contains .*?\().*', '\1…'), '(^|of |: )(''([^''\\]|\\.)*''|"([^"\\]|\\.)*")…?', '\1…', 'g'),
               '(^|of |: |position |element |become |byte |it has )-?[0-9][0-9.e+-]*', '\1…', 'g'),
           '(=\(|UTF-8: )[^()]*', '\1…', 'g') AS pattern,
       min(reason) AS example, count(*) AS rows
  FROM pgferry.quarantine
 WHERE run_id = $1 AND replayed_at IS NULL AND ($2::text[] = '{}' OR source_table = ANY ($2))
 GROUP BY 1, 2, 3, 4
 ORDER BY source_table COLLATE "C", rows DESC, column_name COLLATE "C", 3, 4

-- name: entries : single rows with the first bytes of their values
SELECT id, source_table, key, column_name, storage_class, substring(value FROM 1 FOR $3) AS head,
       octet_length(value) AS size, reason, created_at
  FROM pgferry.quarantine
 WHERE run_id = $1 AND replayed_at IS NULL AND ($2::text[] = '{}' OR source_table = ANY ($2))
 ORDER BY source_table COLLATE "C", id
 LIMIT $4

-- name: sizes : a page of row numbers and the sizes of their values, to read them in portions
SELECT id, octet_length(value) + octet_length(key) + octet_length(reason) AS size
  FROM pgferry.quarantine
 WHERE run_id = $1 AND id > $3 AND ($4 OR replayed_at IS NULL) AND ($2::text[] = '{}' OR source_table = ANY ($2))
 ORDER BY id LIMIT $5

-- name: whole_rows
SELECT run_id, source_table, key, column_name, storage_class, value, reason, created_at, replayed_at
  FROM pgferry.quarantine WHERE id = ANY ($1::bigint[]) ORDER BY id

-- name: open_rows : a page of rows to be tried again; reasons can be limited to those that begin alike
SELECT id, key, column_name, storage_class, reason
  FROM pgferry.quarantine
 WHERE run_id = $1 AND source_table = $2 AND replayed_at IS NULL AND id > $3 AND starts_with(reason, $4)
 ORDER BY id LIMIT $5

-- name: open_among : those of the keys whose rows are kept aside
SELECT DISTINCT q.key FROM pgferry.quarantine q JOIN unnest($3::text[]) AS given (key) ON given.key = q.key
 WHERE q.run_id = $1 AND q.source_table = $2 AND q.replayed_at IS NULL

-- name: still_open
SELECT id FROM pgferry.quarantine WHERE id = ANY ($1::bigint[]) AND replayed_at IS NULL

-- name: keep_value : another value of the row does not fit now, or it does not fit for another reason
UPDATE pgferry.quarantine SET column_name = $2, storage_class = $3, value = $4, reason = $5
 WHERE id = $1 AND replayed_at IS NULL

-- name: keep_reason
UPDATE pgferry.quarantine SET reason = $2 WHERE id = $1 AND replayed_at IS NULL

-- name: record_replay
INSERT INTO pgferry.replay
    (run_id, source_table, rows, payload_bytes, digest, xid, first_block, last_block, rules)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id

-- name: mark_replayed
UPDATE pgferry.quarantine SET replayed_at = clock_timestamp(), replay_id = $2
 WHERE id = ANY ($1::bigint[]) AND replayed_at IS NULL

-- name: replays
SELECT id, source_table, rows, payload_bytes, digest, xid, first_block, last_block
  FROM pgferry.replay WHERE run_id = $1 ORDER BY id

-- name: accounts : where the rows of each table are by now; kept_aside counts the quarantine itself
SELECT t.source_table, t.source_rows, jsonb_array_length(t.columns) AS columns,
       coalesce(c.loaded, 0)::bigint AS chunk_loaded, coalesce(c.quarantined, 0)::bigint AS chunk_quarantined,
       coalesce(c.bytes, 0)::bigint AS chunk_bytes,
       coalesce(r.rows, 0)::bigint AS replayed, coalesce(r.bytes, 0)::bigint AS replayed_bytes
  FROM pgferry.run_table t
  LEFT JOIN (SELECT source_table, sum(loaded_rows) AS loaded, sum(quarantined) AS quarantined,
                    sum(payload_bytes) AS bytes
               FROM pgferry.chunk WHERE run_id = $1 GROUP BY 1) c USING (source_table)
  LEFT JOIN (SELECT source_table, sum(rows) AS rows, sum(payload_bytes) AS bytes
               FROM pgferry.replay WHERE run_id = $1 GROUP BY 1) r USING (source_table)
 WHERE t.run_id = $1

-- name: write_report
UPDATE pgferry.run SET report = $2::text::jsonb WHERE id = $1
