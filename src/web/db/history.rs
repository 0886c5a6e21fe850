//! Which logs are old enough to go, and their removal.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::logs::LogId;
use super::millis;
use super::open::Database;
use super::row::{count, damaged, parsed};
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::AttemptId;

/// Candidates fetched at once.
const PAGE: i64 = 500;

/// An app, and which of its builds and deploys are asked for: those before `cutoff` that are not among the last
/// `keep_last`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct Old {
    pub namespace: Namespace,
    pub app: AppName,
    pub cutoff: OffsetDateTime,
    pub keep_last: u32,
}

/// What the logs are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::web) enum Of {
    Builds,
    Deploys,
}

/// When a log may go, with the cutoff as $3, of the build `b` by its attempt `a`. One that was claimed late, beside the
/// end of its build, may still come in.
macro_rules! build_is_old {
    () => {
        "coalesce(b.finished_at, b.heard_at, b.created_at) < $3 AND coalesce(b.lease_until, 0) < $3
            AND coalesce(a.ended_at, a.fenced_at, a.claimed_at) < $3"
    };
}

/// The same of the deploy `d`, whose log is `l`. One that is not over is none.
macro_rules! deploy_is_old {
    () => {
        "d.state IN ('done', 'failed', 'cancelled') AND d.reported_at < $3
            AND coalesce((SELECT max(last_at) FROM log_blocks WHERE log_id = l.id), 0) < $3"
    };
}

impl Of {
    /// The last one that is kept, and the logs of those before it.
    fn queries(self) -> (&'static str, &'static str) {
        match self {
            Self::Builds => (
                "SELECT created_at AS at, id FROM builds WHERE namespace = $1 AND app = $2
                    ORDER BY created_at DESC, id DESC LIMIT 1 OFFSET $3",
                concat!(
                    "SELECT b.created_at AS at, b.id, b.reused, b.result, a.id AS attempt,
                        (SELECT count(*) FROM attempts WHERE build_id = b.id) AS attempts,
                        (SELECT coalesce(sum(length(data)), 0) FROM log_blocks WHERE log_id = l.id) AS stored
                    FROM builds b JOIN attempts a ON a.build_id = b.id JOIN logs l ON l.id = 'a:' || a.id
                    WHERE b.namespace = $1 AND b.app = $2 AND (b.created_at, b.id) < ($4, $5)
                        AND l.removed_at IS NULL AND l.next_seq > 0 AND ",
                    build_is_old!(),
                    " ORDER BY b.created_at DESC, b.id DESC LIMIT $6"
                ),
            ),
            Self::Deploys => (
                "SELECT reported_at AS at, id FROM deploys WHERE namespace = $1 AND app = $2
                    ORDER BY reported_at DESC, id DESC LIMIT 1 OFFSET $3",
                concat!(
                    "SELECT d.reported_at AS at, d.id,
                        (SELECT coalesce(sum(length(data)), 0) FROM log_blocks WHERE log_id = l.id) AS stored
                    FROM deploys d JOIN logs l ON l.id = 'd:' || d.namespace || ':' || d.id
                    WHERE d.namespace = $1 AND d.app = $2 AND (d.reported_at, d.id) < ($4, $5)
                        AND l.removed_at IS NULL AND l.next_seq > 0 AND ",
                    deploy_is_old!(),
                    " ORDER BY d.reported_at DESC, d.id DESC LIMIT $6"
                ),
            ),
        }
    }

    /// Marks the log $1 as removed at $2, if it is still old: something may have come meanwhile.
    fn mark(self) -> &'static str {
        match self {
            Self::Builds => concat!(
                "UPDATE logs SET removed_at = $2 WHERE id = $1 AND removed_at IS NULL AND EXISTS (
                    SELECT 1 FROM attempts a JOIN builds b ON b.id = a.build_id
                    WHERE a.id = substr($1, 3) AND ",
                build_is_old!(),
                ")"
            ),
            Self::Deploys => concat!(
                "UPDATE logs SET removed_at = $2 WHERE id = $1 AND removed_at IS NULL AND EXISTS (
                    SELECT 1 FROM logs l JOIN deploys d ON l.id = 'd:' || d.namespace || ':' || d.id
                    WHERE l.id = $1 AND d.namespace = $4 AND d.id = $5 AND ",
                deploy_is_old!(),
                ")"
            ),
        }
    }
}

/// A log that may go.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::web) struct OldLog {
    pub log: LogId,
    pub of: Of,
    pub namespace: Namespace,
    /// The build's or deploy's.
    pub id: String,
    /// What it takes in the database, in bytes.
    pub bytes: u64,
    /// What its build has published, unless the image was there already.
    pub result: Option<ResultEvent>,
}

/// Where a page of candidates ended; they come newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::web) struct Before {
    at: i64,
    id: String,
}

impl Before {
    fn read(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self { at: row.try_get("at")?, id: row.try_get("id")? })
    }
}

impl Database {
    /// All apps that have builds or deploys.
    pub(in crate::web) async fn apps_with_logs(&self) -> sqlx::Result<Vec<(Namespace, AppName)>> {
        let select = "SELECT namespace, app FROM apps UNION SELECT namespace, app FROM deploys
            ORDER BY namespace, app";
        let rows = sqlx::query(select).fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((parsed(row, "namespace")?, parsed(row, "app")?))).collect()
    }

    /// Logs that are old, newest first, and where to go on. That of a build that runs, or that waits for its next
    /// attempt, is not.
    pub(in crate::web) async fn old_logs(
        &self,
        old: &Old,
        of: Of,
        before: Option<Before>,
    ) -> sqlx::Result<(Vec<OldLog>, Option<Before>)> {
        let (last, select) = of.queries();
        let before = match (before, old.keep_last.checked_sub(1)) {
            (Some(before), _) => before,
            (None, None) => Before { at: i64::MAX, id: String::new() },
            (None, Some(others)) => {
                let last = sqlx::query(last).bind(old.namespace.as_str()).bind(old.app.as_str());
                let last = last.bind(i64::from(others)).fetch_optional(&self.readers).await?;
                match last {
                    Some(last) => Before::read(&last)?,
                    // There are fewer.
                    None => return Ok((Vec::new(), None)),
                }
            }
        };
        let rows = sqlx::query(select)
            .bind(old.namespace.as_str())
            .bind(old.app.as_str())
            .bind(millis(old.cutoff))
            .bind(before.at)
            .bind(&before.id)
            .bind(PAGE)
            .fetch_all(&self.readers)
            .await?;
        let logs = rows.iter().map(|row| match of {
            Of::Builds => of_build(row, &old.namespace),
            Of::Deploys => of_deploy(row, &old.namespace),
        });
        let logs = logs.collect::<sqlx::Result<Vec<_>>>()?;
        // A build may have several logs: where a page ends among them, the rest is found in the next round.
        let last = rows.last().filter(|_| rows.len() as i64 == PAGE);
        Ok((logs, last.map(Before::read).transpose()?))
    }
}

fn of_build(row: &SqliteRow, namespace: &Namespace) -> sqlx::Result<OldLog> {
    let (reused, attempts): (i64, i64) = (row.try_get("reused")?, row.try_get("attempts")?);
    let result: Option<String> = row.try_get("result")?;
    // An attempt after a crash finds the image of the one before.
    let result = result.filter(|_| reused == 0 || attempts > 1).map(|json| serde_json::from_str(&json));
    Ok(OldLog {
        log: LogId::of_attempt(parsed::<AttemptId>(row, "attempt")?),
        of: Of::Builds,
        namespace: namespace.clone(),
        id: row.try_get("id")?,
        bytes: count(row, "stored")?,
        result: result.transpose().map_err(|error| damaged("result", &error.to_string()))?,
    })
}

fn of_deploy(row: &SqliteRow, namespace: &Namespace) -> sqlx::Result<OldLog> {
    let id: String = row.try_get("id")?;
    let log = LogId::of_deploy(namespace.as_str(), &id);
    let (of, namespace) = (Of::Deploys, namespace.clone());
    Ok(OldLog { log, of, namespace, id, bytes: count(row, "stored")?, result: None })
}

/// Removes the lines of a log that is still old, of which stays how many there were. Answers whether it was.
pub(in crate::web) async fn remove(
    connection: &mut SqliteConnection,
    old: &OldLog,
    cutoff: OffsetDateTime,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let log = old.log.to_string();
    let marked = sqlx::query(old.of.mark())
        .bind(&log)
        .bind(millis(now))
        .bind(millis(cutoff))
        .bind(old.namespace.as_str())
        .bind(&old.id)
        .execute(&mut *connection)
        .await?;
    if marked.rows_affected() == 0 {
        return Ok(false);
    }
    for delete in ["DELETE FROM log_blocks WHERE log_id = $1", "DELETE FROM log_outlines WHERE log_id = $1"] {
        sqlx::query(delete).bind(&log).execute(&mut *connection).await?;
    }
    Ok(true)
}

/// Gives free pages of the file back to the file system, some at a time; answers whether there are more. SQLite's own:
/// PostgreSQL does it by itself.
pub(in crate::web) async fn give_back(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    // 8 MiB: a transaction that others wait for.
    sqlx::query("PRAGMA incremental_vacuum(2048)").execute(&mut *connection).await?;
    let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(connection).await?;
    Ok(free > 0)
}
