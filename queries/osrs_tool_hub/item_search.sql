-- name: Items by a part of their name
-- :pattern = '%rune%'
SELECT id, name, wiki_slug, members, "limit", guide_price
  FROM items
 WHERE name LIKE :pattern AND members = 1
 ORDER BY name, id
 LIMIT 50
