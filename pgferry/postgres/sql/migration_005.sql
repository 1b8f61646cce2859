-- What the entry of SQLite's outbox at the position is, so that a file that fell back behind it is noticed.

-- "ID:DIGEST"; it counts only while ID is outbox_id. NULL: not known.
ALTER TABLE pgferry.position ADD COLUMN mark text;
