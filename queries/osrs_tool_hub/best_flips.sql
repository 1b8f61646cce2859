-- name: The best flips
SELECT t.id, i.name, t.margin, t.high_price - t.low_price AS profit, t.timestamp
  FROM trades t
  JOIN items i ON i.id = t.item_id
 WHERE t.is_flip AND t.margin > 0.05
 ORDER BY t.margin DESC, t.id
 LIMIT 25
