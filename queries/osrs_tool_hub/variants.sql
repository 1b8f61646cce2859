-- name: An item and its variants
-- :item = 2
WITH RECURSIVE family (id, name, depth) AS (
    SELECT id, name, 0 FROM items WHERE id = :item
    UNION ALL
    SELECT v.id, v.name, f.depth + 1 FROM items v JOIN family f ON v.variant_of = f.id
)
SELECT id, name, depth FROM family ORDER BY depth, id
