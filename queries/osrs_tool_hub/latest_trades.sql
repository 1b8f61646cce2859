-- name: The latest trades of an item
-- :item = 2
SELECT id, timestamp, kind, high_price, low_price, high_volume, low_volume, is_flip, source, note
  FROM trades
 WHERE item_id = :item
 ORDER BY timestamp DESC, id DESC
 LIMIT 100
