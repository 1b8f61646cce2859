-- name: Weight and slot, out of the JSON
SELECT id, json_extract(attributes, '$.slot') AS slot, json_extract(attributes, '$.weight') AS weight, attributes
  FROM items
 WHERE attributes IS NOT NULL
 ORDER BY id
 LIMIT 200
