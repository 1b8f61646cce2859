-- name: Trades by category
SELECT i.category, count(*) AS trades, sum(t.is_flip) AS flips, avg(t.margin) AS margin,
       sum(t.margin > 0.1) AS good, total(t.high_volume) AS volume
  FROM trades t
  JOIN items i ON i.id = t.item_id
 GROUP BY i.category
 ORDER BY trades DESC, volume
