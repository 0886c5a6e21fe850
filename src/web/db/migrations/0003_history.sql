-- When the lines of a log were removed; how many there were stays in next_seq.
ALTER TABLE logs ADD COLUMN removed_at BIGINT;
CREATE INDEX deploys_by_app ON deploys (namespace, app, reported_at, id);
