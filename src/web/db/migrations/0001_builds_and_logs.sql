-- Times are milliseconds since the epoch. Only types and clauses that SQLite and PostgreSQL share, but for
-- BLOB, which is BYTEA there.

CREATE TABLE apps (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    PRIMARY KEY (namespace, app)
);

CREATE TABLE builds (
    id TEXT NOT NULL PRIMARY KEY,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    -- The deploy event, byte for byte.
    event TEXT NOT NULL,
    deploy_id TEXT,
    -- A JSON array of their names.
    services TEXT NOT NULL,
    repository TEXT NOT NULL,
    commit_id TEXT NOT NULL,
    git_ref TEXT,
    requested_by TEXT,
    fake BIGINT NOT NULL,
    state TEXT NOT NULL,
    -- The attempt that counts. It may hold a lease: until then nobody else builds.
    attempt TEXT,
    lease_until BIGINT,
    heard_at BIGINT,
    cancel_requested_at BIGINT,
    -- The last requeue out of the dead letters that was obeyed.
    requeued TEXT,
    -- The result event, once it has ended or is to be tried again.
    result TEXT,
    -- 1 where the image was there already.
    reused BIGINT NOT NULL DEFAULT 0,
    subject TEXT,
    author TEXT,
    committed_at BIGINT,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX builds_by_time ON builds (created_at, id);
CREATE INDEX builds_by_app ON builds (namespace, app, created_at, id);
CREATE INDEX builds_by_app_and_state ON builds (namespace, app, state, created_at, id);
CREATE INDEX builds_by_deploy ON builds (namespace, deploy_id);
CREATE INDEX builds_by_commit ON builds (commit_id);

CREATE TABLE build_services (
    build_id TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    service TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (build_id, service)
);
CREATE INDEX build_services_by_name ON build_services (namespace, app, service, created_at, build_id);

CREATE TABLE attempts (
    id TEXT NOT NULL PRIMARY KEY,
    build_id TEXT NOT NULL REFERENCES builds (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    worker TEXT NOT NULL,
    state TEXT NOT NULL,
    -- When another attempt took its place.
    fenced_at BIGINT,
    claimed_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX attempts_by_build ON attempts (build_id, claimed_at, id);

CREATE TABLE attempt_stages (
    attempt_id TEXT NOT NULL REFERENCES attempts (id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (attempt_id, state)
);

CREATE TABLE deploys (
    namespace TEXT NOT NULL,
    id TEXT NOT NULL,
    app TEXT NOT NULL,
    state TEXT NOT NULL,
    -- What was reported, as JSON.
    report TEXT NOT NULL,
    reported_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, id)
);
CREATE INDEX deploys_by_id ON deploys (id);

-- One log for each attempt ("a:<attempt>") and each deploy ("d:<namespace>:<deploy>").
CREATE TABLE logs (
    id TEXT NOT NULL PRIMARY KEY,
    next_seq BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    -- The checksum that its writer has confirmed it by: nothing comes after that.
    checksum TEXT
);

-- Entries as NDJSON, compressed with zstd. The summaries say what a block can hold: each a JSON array of
-- all values, or NULL where there are too many to list.
CREATE TABLE log_blocks (
    log_id TEXT NOT NULL REFERENCES logs (id) ON DELETE CASCADE,
    first_seq BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    steps TEXT,
    servers TEXT,
    services TEXT,
    pods TEXT,
    data BLOB NOT NULL,
    PRIMARY KEY (log_id, first_seq)
);

CREATE TABLE users (
    name TEXT NOT NULL PRIMARY KEY,
    -- A PHC string: argon2id with its parameters and salt.
    password TEXT NOT NULL,
    role TEXT NOT NULL,
    -- Names separated by a space; '*' for all.
    namespaces TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE sessions (
    -- The SHA-256 of what the browser holds.
    digest TEXT NOT NULL PRIMARY KEY,
    user_name TEXT NOT NULL REFERENCES users (name) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);

CREATE TABLE tokens (
    name TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    role TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
