-- name: is_kept : with the privilege, for a role that may not read it is none the wiser
SELECT coalesce(has_table_privilege(to_regclass('pgferry.metric'), 'SELECT'), false)

-- name: insert
INSERT INTO pgferry.metric (at, name, label, value, unit)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::float8[], $5::text[])

-- name: forget : what is older than so many days
DELETE FROM pgferry.metric WHERE at < $1::timestamptz - make_interval(secs => $2 * 86400)

-- name: latest : the numbers of the last look before this moment
SELECT name, label, value, unit, at FROM pgferry.metric
 WHERE at = (SELECT max(at) FROM pgferry.metric WHERE at < $1)

-- name: first : the first look since then
SELECT min(at) FROM pgferry.metric WHERE at >= $1

-- name: series : the mean of each number in each span of so many seconds
SELECT name, label, date_bin(make_interval(secs => $4), at, $2) AS at, avg(value) AS value
  FROM pgferry.metric
 WHERE name = ANY ($1::text[]) AND at >= $2 AND at <= $3
 GROUP BY 1, 2, 3
 ORDER BY 1, 2, 3
