-- What each block of a log has, step by step, as JSON: a page lays a log out by it without reading lines. It stands
-- apart from the block's data, over whose many pages SQLite would have to walk to reach a column behind it.
CREATE TABLE log_outlines (
    log_id TEXT NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    first_seq BIGINT NOT NULL,
    outline TEXT NOT NULL,
    PRIMARY KEY (log_id, first_seq)
);
