-- name: Watched items whose last price is low enough
SELECT w.id, w.owner, w.target_price, t.low_price
  FROM watchlist w
  JOIN trades t ON t.id = (SELECT max(latest.id) FROM trades latest WHERE latest.item_id = w.item_id)
 WHERE w.notify = 1 AND t.low_price <= w.target_price
