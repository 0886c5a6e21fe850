-- Whose turn it is. When a build that nobody builds was last heard of, and why it waits.
ALTER TABLE builds ADD COLUMN in_line_at BIGINT;
ALTER TABLE builds ADD COLUMN waiting TEXT;
-- When an operator put it back: from then on its place in line counts.
ALTER TABLE builds ADD COLUMN arrived_at BIGINT;
-- 1 where the event asks for an image once more.
ALTER TABLE builds ADD COLUMN rebuild BIGINT NOT NULL DEFAULT 0;
-- Why the service itself has ended it.
ALTER TABLE builds ADD COLUMN ended_because TEXT;
-- Few at a time, of the many builds that there are.
CREATE INDEX builds_in_line ON builds (namespace, app) WHERE in_line_at IS NOT NULL;
CREATE INDEX builds_leased ON builds (namespace, app) WHERE lease_until IS NOT NULL;
