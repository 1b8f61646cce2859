-- name: What someone watches
-- :owner = 'O''Malley'
SELECT w.id, i.name, w.target_price, i.guide_price, w.notify, w.note, w.preferences, w.last_alert_at
  FROM watchlist w
  JOIN items i ON i.id = w.item_id
 WHERE w.owner = :owner
 ORDER BY w.created_at, w.id
