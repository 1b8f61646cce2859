-- Rows that were quarantined and then loaded, after a rule was changed.

-- One batch of them. It is to its rows what a chunk is to those of the move: what commits with them, and by what they
-- are found and compared again. Such rows count as loaded here, and no longer as quarantined in their chunk.
CREATE TABLE pgferry.replay (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id        bigint NOT NULL,
    source_table  text NOT NULL,
    rows          bigint NOT NULL CHECK (rows > 0),
    payload_bytes bigint NOT NULL,
    digest        text NOT NULL,
    xid           bigint NOT NULL,
    first_block   bigint NOT NULL,
    last_block    bigint NOT NULL,
    rules         text NOT NULL,
    loaded_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (run_id, source_table) REFERENCES pgferry.run_table
);
CREATE INDEX replay_of_table ON pgferry.replay (run_id, source_table);

ALTER TABLE pgferry.quarantine ADD COLUMN replay_id bigint;
