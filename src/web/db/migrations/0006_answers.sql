-- What pages and searches ask for, each by an index of its own, however long the history is.

-- Builds of all apps and of one namespace, and those in one state or of one ref in one state.
CREATE INDEX builds_by_namespace ON builds (namespace, created_at, id);
CREATE INDEX builds_by_state ON builds (state, created_at, id);
CREATE INDEX builds_by_namespace_and_state ON builds (namespace, state, created_at, id);
CREATE INDEX builds_by_ref_and_state ON builds (namespace, app, git_ref, state, created_at, id);
-- What ended since some time.
CREATE INDEX builds_by_end ON builds (finished_at, state, namespace) WHERE finished_at IS NOT NULL;
-- A search among the namespaces of a login, whatever the others have.
CREATE INDEX builds_by_namespace_and_commit ON builds (namespace, commit_id, created_at, id);
CREATE INDEX builds_by_namespace_and_digest ON builds (namespace, digest, id) WHERE digest IS NOT NULL;
CREATE INDEX builds_by_any_deploy ON builds (deploy_id, created_at, id, namespace) WHERE deploy_id IS NOT NULL;

-- What follows the commit in the tag of a build's image; NULL where it made none. The images of one repository under
-- one variant are a line, of which each has a predecessor.
ALTER TABLE builds ADD COLUMN variant TEXT;
UPDATE builds SET variant = substr(json_extract(result, '$.image'),
        instr(json_extract(result, '$.image'), ':' || commit_id) + 41)
    WHERE digest IS NOT NULL AND instr(json_extract(result, '$.image'), ':' || commit_id) > 0;
CREATE INDEX builds_by_line ON builds (namespace, app, repository, variant, created_at, id, digest)
    WHERE variant IS NOT NULL;

-- The services that each deploy names, '' for one that names none and is for all; and since when it is done, NULL
-- while it is not.
CREATE TABLE deploy_services (
    namespace TEXT NOT NULL,
    deploy_id TEXT NOT NULL,
    app TEXT NOT NULL,
    service TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (namespace, deploy_id, service)
);
INSERT INTO deploy_services (namespace, deploy_id, app, service, created_at, done_at)
    SELECT DISTINCT d.namespace, d.id, d.app, coalesce(s.value, ''), d.created_at,
        CASE d.state WHEN 'done' THEN coalesce(CAST(round((julianday(json_extract(d.report, '$.finished_at'))
            - 2440587.5) * 86400000) AS BIGINT), d.reported_at) END
    FROM deploys d LEFT JOIN json_each(d.report, '$.services') s;
CREATE INDEX deploy_services_done ON deploy_services (namespace, app, service, done_at, deploy_id)
    WHERE done_at IS NOT NULL;
CREATE INDEX deploy_services_by_name ON deploy_services (namespace, app, service, created_at);
