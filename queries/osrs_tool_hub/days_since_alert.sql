-- name: Whole days from an entry to its last alert
SELECT id, CAST(julianday(last_alert_at) - julianday(created_at) AS INTEGER) AS days
  FROM watchlist
 WHERE last_alert_at IS NOT NULL
 ORDER BY id
