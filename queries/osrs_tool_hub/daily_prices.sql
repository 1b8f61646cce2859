-- name: Prices of an item, day by day
-- :item = 5
-- :since = '2021-06-01 00:00:00.000000'
SELECT strftime('%Y-%m-%d', timestamp) AS day, count(*) AS trades, avg(high_price) AS average,
       min(low_price) AS lowest, max(high_price) AS highest, sum(turnover) AS turnover
  FROM trades
 WHERE item_id = :item AND timestamp >= :since
 GROUP BY day
 ORDER BY day
