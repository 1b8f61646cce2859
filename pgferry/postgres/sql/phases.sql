-- name: current : the last phase of a run; one without any is in phase none since it was begun
SELECT coalesce(p.phase, 'none') AS phase, coalesce(p.since, r.started_at) AS since, coalesce(p.reason, '') AS reason,
       coalesce(p.details, '{}')::text AS details
  FROM pgferry.run r
  LEFT JOIN LATERAL (SELECT * FROM pgferry.phase WHERE run_id = r.id ORDER BY id DESC LIMIT 1) p ON true
 WHERE r.id = $1

-- name: history
SELECT phase, since, reason, details::text AS details FROM pgferry.phase WHERE run_id = $1 ORDER BY id

-- name: lock_run : a statement of its own, so that the next one sees what was committed while this one waited
SELECT id FROM pgferry.run WHERE id = $1 FOR UPDATE

-- name: enter
INSERT INTO pgferry.phase (run_id, phase, reason, details) VALUES ($1, $2, $3, $4::text::jsonb)
RETURNING phase, since, reason, details::text AS details

-- name: amend
UPDATE pgferry.phase SET details = details || $2::text::jsonb
 WHERE id = (SELECT id FROM pgferry.phase WHERE run_id = $1 ORDER BY id DESC LIMIT 1)
RETURNING phase, since, reason, details::text AS details
