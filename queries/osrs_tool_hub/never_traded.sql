-- name: Items without a trade
SELECT i.id, i.name, i.examine, i.created_at
  FROM items i
  LEFT JOIN trades t ON t.item_id = i.id
 WHERE t.id IS NULL
