//! The line before an app or a namespace: which builds run, which are told to wait, and which come before which.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use super::builds::BuildRow;
use super::millis;
use super::row::{optional, parsed};
use crate::event::deploy::{BuildId, DeployEvent};
use crate::publish::name::{AppName, Namespace};
use crate::timeline::protocol::AttemptId;

/// How long a build that waits is believed in without a word of it, where others are heard of: six times as long as
/// it is deferred for. Its event may have been lost, or lie in the dead letters; or it may be at a worker that is
/// slow, or whose connection is gone.
pub(in crate::web) const PATIENCE: Duration = Duration::from_secs(60);

/// A build that holds a lease.
pub(in crate::web) struct Running {
    pub id: BuildId,
    pub app: AppName,
}

/// The builds of a namespace that hold a lease, but for `id`.
pub(in crate::web) async fn running(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    id: &BuildId,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Running>> {
    let select =
        "SELECT id, app FROM builds WHERE namespace = $1 AND id <> $2 AND lease_until > $3 ORDER BY id";
    let select = sqlx::query(select).bind(namespace.as_str()).bind(id.as_str()).bind(millis(now));
    let read = |row: &SqliteRow| Ok(Running { id: parsed(row, "id")?, app: parsed(row, "app")? });
    select.fetch_all(connection).await?.iter().map(read).collect()
}

/// A build of which nothing was heard for longer than its lease.
pub(in crate::web) struct Silent {
    pub id: BuildId,
    pub attempt: Option<AttemptId>,
}

/// The silent builds of the app of `row`, but for that one.
pub(in crate::web) async fn silent(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<Silent>> {
    let select = "SELECT id, attempt FROM builds
        WHERE namespace = $1 AND app = $2 AND id <> $3 AND lease_until <= $4";
    let select = sqlx::query(select)
        .bind(row.build.namespace.as_str())
        .bind(row.build.app.as_str())
        .bind(row.build.id.as_str())
        .bind(millis(now));
    let read = |row: &SqliteRow| Ok(Silent { id: parsed(row, "id")?, attempt: optional(row, "attempt")? });
    select.fetch_all(connection).await?.iter().map(read).collect()
}

/// Builds of one app that are in line before another build.
pub(in crate::web) struct Before {
    pub app: AppName,
    pub count: usize,
    /// One of them.
    pub id: BuildId,
}

/// Puts out of line what waits in the namespace and was not heard of since then: nobody waits for it any more.
pub(in crate::web) async fn forget(
    connection: &mut SqliteConnection,
    namespace: &Namespace,
    since: OffsetDateTime,
) -> sqlx::Result<()> {
    let update =
        "UPDATE builds SET in_line_at = NULL, waiting = NULL WHERE namespace = $1 AND in_line_at < $2";
    sqlx::query(update).bind(namespace.as_str()).bind(millis(since)).execute(connection).await.map(drop)
}

/// Who is in line before a build of this namespace, by app: those that have come before it.
pub(in crate::web) async fn before(
    connection: &mut SqliteConnection,
    row: &BuildRow,
) -> sqlx::Result<Vec<Before>> {
    let select = "SELECT app, count(*) AS builds, min(id) AS id FROM builds
        WHERE namespace = $1 AND in_line_at IS NOT NULL AND id <> $2
            AND (coalesce(arrived_at, created_at), id) < ($3, $2)
        GROUP BY app ORDER BY app";
    let select = sqlx::query(select)
        .bind(row.build.namespace.as_str())
        .bind(row.build.id.as_str())
        .bind(millis(row.arrived_at));
    let read = |row: &SqliteRow| {
        let count: i64 = row.try_get("builds")?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Before { app: parsed(row, "app")?, count, id: parsed(row, "id")? })
    };
    select.fetch_all(connection).await?.iter().map(read).collect()
}

/// Lets a build wait, for this reason.
pub(in crate::web) async fn wait(
    connection: &mut SqliteConnection,
    id: &BuildId,
    reason: &str,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let update = "UPDATE builds SET in_line_at = $2, waiting = $3 WHERE id = $1";
    sqlx::query(update).bind(id.as_str()).bind(millis(now)).bind(reason).execute(connection).await.map(drop)
}

/// The last event of the app that is later than this build, for the same ref, unless it was withdrawn. A
/// rebuild is of an old commit, and so later than nothing.
pub(in crate::web) async fn later(
    connection: &mut SqliteConnection,
    row: &BuildRow,
) -> sqlx::Result<Option<BuildId>> {
    let select = "SELECT id FROM builds
        WHERE namespace = $1 AND app = $2 AND (created_at, id) > ($3, $4) AND git_ref = $5 AND rebuild = 0
            AND state NOT IN ('cancelled', 'rejected')
        ORDER BY created_at DESC, id DESC LIMIT 1";
    let select = sqlx::query(select)
        .bind(row.build.namespace.as_str())
        .bind(row.build.app.as_str())
        .bind(millis(row.build.created_at))
        .bind(row.build.id.as_str())
        .bind(row.build.git_ref.as_deref());
    select.fetch_optional(connection).await?.as_ref().map(|row| parsed(row, "id")).transpose()
}

/// The other builds of the event's app and ref that came no later, have not ended, and that no worker is at.
pub(in crate::web) async fn earlier(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    came: OffsetDateTime,
    now: OffsetDateTime,
) -> sqlx::Result<Vec<BuildId>> {
    let select = "SELECT id FROM builds
        WHERE namespace = $1 AND app = $2 AND git_ref = $3 AND id <> $4 AND created_at <= $6
            AND state IN ('queued', 'claimed', 'fetching', 'building', 'publishing', 'retrying')
            AND coalesce(lease_until, 0) <= $5
        ORDER BY created_at, id";
    let select = sqlx::query(select)
        .bind(event.namespace.as_str())
        .bind(event.app.as_str())
        .bind(event.git_ref.as_deref())
        .bind(event.id.as_str())
        .bind(millis(now))
        .bind(millis(came));
    select.fetch_all(connection).await?.iter().map(|row| parsed(row, "id")).collect()
}
