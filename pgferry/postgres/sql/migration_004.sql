-- What the monitor measures, so that it can be drawn over time.

-- One number of one look; label says of what (a connection's state, a table, a SQLite file), empty where name says all.
-- PGFERRY_METRIC_DAYS later it is deleted.
CREATE TABLE pgferry.metric (
    at    timestamptz NOT NULL,
    name  text NOT NULL,
    label text NOT NULL DEFAULT '',
    value double precision NOT NULL,
    unit  text NOT NULL
);
CREATE INDEX metric_at ON pgferry.metric (at);
