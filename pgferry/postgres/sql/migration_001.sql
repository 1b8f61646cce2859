-- The first version of pgferry's own schema: what a move has planned, done and still owes.

-- One move of one source into this database. A source has at most one run that is not restarted.
CREATE TABLE pgferry.run (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source                 text NOT NULL,
    fingerprint            text NOT NULL,
    status                 text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'finished', 'restarted')),
    snapshot_path          text,
    snapshot_sha256        text,
    snapshot_bytes         bigint,
    snapshot_source        text,
    taken_at               timestamptz,
    foreign_key_violations bigint,
    started_at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at            timestamptz,
    report                 jsonb
);
CREATE UNIQUE INDEX run_of_source ON pgferry.run (source) WHERE status <> 'restarted';

-- A source table of a run and the target table that takes its rows; columns is a JSON array of [source, target] names.
CREATE TABLE pgferry.run_table (
    run_id        bigint NOT NULL REFERENCES pgferry.run,
    source_table  text NOT NULL,
    target_schema text NOT NULL,
    target_table  text NOT NULL,
    source_rows   bigint NOT NULL,
    excluded_rows bigint NOT NULL DEFAULT 0,
    columns       jsonb NOT NULL,
    fingerprint   text NOT NULL,
    PRIMARY KEY (run_id, source_table)
);

-- A key range of a source table; low and high are keys as pgferry/keys.py writes them, NULL where the range is open.
-- What follows loaded_at commits with the rows themselves.
CREATE TABLE pgferry.chunk (
    run_id        bigint NOT NULL,
    source_table  text NOT NULL,
    number        integer NOT NULL,
    low           text,
    high          text,
    rows          bigint NOT NULL,
    loaded_at     timestamptz,
    loaded_rows   bigint,
    quarantined   bigint,
    payload_bytes bigint,
    digest        text,
    xid           bigint,
    first_block   bigint,
    last_block    bigint,
    verified_at   timestamptz,
    differences   bigint,
    PRIMARY KEY (run_id, source_table, number),
    FOREIGN KEY (run_id, source_table) REFERENCES pgferry.run_table
);

-- One step on the way back to the target's own indexes and constraints. dropped_at without rebuilt_at: still owed.
-- kept says why an object could not be dropped and stayed in place during the load; such a row owes nothing.
CREATE TABLE pgferry.deferred (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        bigint NOT NULL REFERENCES pgferry.run,
    target_schema text NOT NULL,
    target_table  text NOT NULL,
    kind          text NOT NULL,
    name          text NOT NULL,
    definition    text NOT NULL,
    drop_order    integer NOT NULL,
    build_order   integer NOT NULL,
    comment       text,
    tablespace    text NOT NULL DEFAULT '',
    also          text[] NOT NULL DEFAULT '{}',
    key_columns   text[] NOT NULL DEFAULT '{}',
    kept          text,
    dropped_at    timestamptz,
    rebuilt_at    timestamptz,
    error         text,
    UNIQUE (run_id, target_schema, target_table, kind, name)
);
CREATE INDEX deferred_owed ON pgferry.deferred (run_id) WHERE dropped_at IS NOT NULL AND rebuilt_at IS NULL;

-- A source row that the target cannot hold as it is. No foreign key: a check per row would slow a dirty load.
CREATE TABLE pgferry.quarantine (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        bigint NOT NULL,
    source_table  text NOT NULL,
    key           text NOT NULL,
    column_name   text NOT NULL,
    storage_class text NOT NULL,
    value         bytea NOT NULL,
    reason        text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    replayed_at   timestamptz
);
CREATE INDEX quarantine_of_table ON pgferry.quarantine (run_id, source_table);

-- A name that the target cannot hold as the source writes it; source_column is NULL where the table itself is renamed.
CREATE TABLE pgferry.rename (
    run_id        bigint NOT NULL REFERENCES pgferry.run,
    source_table  text NOT NULL,
    source_column text,
    source_name   text NOT NULL,
    target_name   text NOT NULL,
    reason        text NOT NULL
);
CREATE INDEX rename_of_run ON pgferry.rename (run_id, source_table);
