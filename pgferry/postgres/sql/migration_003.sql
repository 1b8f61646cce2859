-- The move without downtime: phases, capture, position, validations.

-- The history of phases; the last row of a run is where it stands. details is what the way back from it must know.
CREATE TABLE pgferry.phase (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id  bigint NOT NULL REFERENCES pgferry.run,
    phase   text NOT NULL,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason  text NOT NULL DEFAULT '',
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX phase_of_run ON pgferry.phase (run_id, id);

-- The capture installed in the SQLite file: its token, and the tables as they were when last looked at (JSON).
-- installed_at is NULL as long as only the token is reserved. forms says in which lexical form each column's values go
-- back to SQLite.
CREATE TABLE pgferry.capture (
    run_id         bigint PRIMARY KEY REFERENCES pgferry.run,
    token          text NOT NULL,
    schema_version bigint NOT NULL DEFAULT 0,
    tables         jsonb NOT NULL DEFAULT '[]',
    forms          jsonb NOT NULL DEFAULT '{}',
    installed_at   timestamptz,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- How far the sync has come; commits with the rows that it speaks of.
CREATE TABLE pgferry.position (
    run_id     bigint PRIMARY KEY REFERENCES pgferry.run,
    outbox_id  bigint NOT NULL,
    moment     timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    cycles     bigint NOT NULL DEFAULT 0,
    rows       bigint NOT NULL DEFAULT 0
);

-- Rows that were carried since the last validation of every cell; key is the target's, as pgferry/keys.py writes it.
-- digest stands for the key in the index, which takes no value of more than 2.7 kB.
CREATE TABLE pgferry.touched (
    run_id       bigint NOT NULL,
    source_table text NOT NULL,
    digest       bytea NOT NULL,
    key          text NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run_id, source_table, digest)
);

-- One validation. level is counts, sample or cells; detail holds the tables' verdicts and the first differences.
CREATE TABLE pgferry.validation (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id         bigint NOT NULL REFERENCES pgferry.run,
    direction      text NOT NULL,
    level          text NOT NULL,
    sample_percent double precision,
    started_at     timestamptz NOT NULL,
    finished_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    moment         timestamptz NOT NULL,
    passed         boolean NOT NULL,
    tables         integer NOT NULL,
    rows           bigint NOT NULL,
    cells          bigint NOT NULL,
    differences    bigint NOT NULL,
    orphans        bigint NOT NULL DEFAULT 0,
    quarantined    bigint NOT NULL DEFAULT 0,
    seconds        double precision NOT NULL,
    detail         jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX validation_of_run ON pgferry.validation (run_id, id);

-- A row that a validation found to differ and that was mended from the side in front.
CREATE TABLE pgferry.repair (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    validation_id bigint NOT NULL REFERENCES pgferry.validation,
    source_table  text NOT NULL,
    key           text NOT NULL,
    action        text NOT NULL,
    repaired_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- A row of PostgreSQL that an emergency rollback left behind, until it is carried or given up.
CREATE TABLE pgferry.uncarried (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id       bigint NOT NULL REFERENCES pgferry.run,
    source_table text NOT NULL,
    digest       bytea NOT NULL,
    key          text NOT NULL,
    reason       text NOT NULL,
    found_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled      text,
    settled_at   timestamptz,
    UNIQUE (run_id, source_table, digest)
);
