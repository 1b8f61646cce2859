SELECT id, trunc(extract(epoch FROM last_alert_at - created_at) / 86400)::bigint AS days
  FROM watchlist
 WHERE last_alert_at IS NOT NULL
 ORDER BY id
