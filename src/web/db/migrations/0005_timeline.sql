-- When a deploy was first reported: its place in the timeline of its app. Of those from before, when last.
ALTER TABLE deploys ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
UPDATE deploys SET created_at = reported_at;
-- The image that it runs, where that was reported.
ALTER TABLE deploys ADD COLUMN image TEXT;
-- 1 where no build of its app is for it.
ALTER TABLE deploys ADD COLUMN alone BIGINT NOT NULL DEFAULT 1;
UPDATE deploys SET alone = 0 WHERE (namespace, app, id) IN (SELECT namespace, app, deploy_id FROM builds);
CREATE INDEX deploys_alone ON deploys (namespace, app, created_at, id) WHERE alone = 1;
CREATE INDEX deploys_by_app_and_state ON deploys (namespace, app, state, created_at, id);
CREATE INDEX deploys_by_image ON deploys (namespace, image) WHERE image IS NOT NULL;

-- The refs of an app's builds, and when each was last built.
CREATE TABLE refs (
    namespace TEXT NOT NULL,
    app TEXT NOT NULL,
    git_ref TEXT NOT NULL,
    built_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, app, git_ref)
);
INSERT INTO refs (namespace, app, git_ref, built_at)
    SELECT namespace, app, git_ref, max(created_at) FROM builds WHERE git_ref IS NOT NULL
    GROUP BY namespace, app, git_ref;
CREATE INDEX refs_by_time ON refs (namespace, app, built_at);
CREATE INDEX refs_by_name ON refs (git_ref, namespace, app);
CREATE INDEX builds_by_app_and_commit ON builds (namespace, app, commit_id, created_at, id);
CREATE INDEX builds_by_ref ON builds (namespace, app, git_ref, created_at, id);

-- Of one commit, or one ref of an app, the newest builds.
DROP INDEX builds_by_commit;
CREATE INDEX builds_by_commit ON builds (commit_id, created_at, id);

-- The image's digest, by which it is looked for. It stands in the result as well.
ALTER TABLE builds ADD COLUMN digest TEXT;
UPDATE builds SET digest = json_extract(result, '$.digest') WHERE result IS NOT NULL;
CREATE INDEX builds_by_digest ON builds (digest, id);
