//! Whose a build is: the attempt that counts and its lease, and what ends or begins anew with it.

use std::time::Duration;

use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::builds::BuildRow;
use super::open::Database;
use super::writer::{Job, WriteError};
use super::{millis, row};
use crate::event::deploy::BuildId;
use crate::event::result::ResultEvent;
use crate::timeline::protocol::{AttemptId, BuildState, LEASE};

/// What of a build changes after it was taken down.
pub(in crate::web) struct Change<'a> {
    pub state: BuildState,
    pub attempt: Option<AttemptId>,
    pub lease_until: Option<OffsetDateTime>,
    pub heard_at: Option<OffsetDateTime>,
    pub requeued: Option<&'a str>,
    pub result: Option<&'a ResultEvent>,
    /// Why the service has ended it, where no result says so.
    pub ended_because: Option<&'a str>,
    /// Where it waits for its turn; it is not said for what.
    pub in_line_at: Option<OffsetDateTime>,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
}

impl<'a> Change<'a> {
    /// Nothing but that no attempt holds a lease, and that no result says how it stands.
    pub(in crate::web) fn unleased(row: &'a BuildRow) -> Self {
        Self {
            state: row.build.state,
            attempt: row.build.attempt,
            lease_until: None,
            heard_at: row.build.heard_at,
            requeued: row.requeued.as_deref(),
            result: None,
            ended_because: None,
            in_line_at: None,
            started_at: row.build.started_at,
            finished_at: None,
        }
    }
}

/// Keeps a build's new state.
pub(in crate::web) async fn change(
    connection: &mut SqliteConnection,
    id: &BuildId,
    change: Change<'_>,
) -> sqlx::Result<()> {
    let update = "UPDATE builds SET state = $2, attempt = $3, lease_until = $4, heard_at = $5, requeued = $6,
            result = $7, reused = $8, started_at = $9, finished_at = $10, ended_because = $11, in_line_at = $12,
            waiting = NULL, digest = $13, variant = $14
        WHERE id = $1";
    let json = change.result.map(row::json).transpose()?;
    sqlx::query(update)
        .bind(id.as_str())
        .bind(change.state.as_str())
        .bind(change.attempt.map(|attempt| attempt.to_string()))
        .bind(change.lease_until.map(millis))
        .bind(change.heard_at.map(millis))
        .bind(change.requeued)
        .bind(json)
        .bind(i64::from(change.result.is_some_and(|result| result.reused)))
        .bind(change.started_at.map(millis))
        .bind(change.finished_at.map(millis))
        .bind(change.ended_because)
        .bind(change.in_line_at.map(millis))
        .bind(change.result.and_then(|result| result.digest).map(|digest| digest.to_string()))
        .bind(change.result.and_then(variant))
        .execute(connection)
        .await
        .map(drop)
}

/// What follows the commit in the tag of the image that a build ended with.
fn variant(result: &ResultEvent) -> Option<&str> {
    result.digest?;
    let (_, tag) = result.image.as_deref()?.rsplit_once(':')?;
    tag.strip_prefix(result.commit.as_ref()?.as_str())
}

/// Renews the lease of a build whose attempt was heard of.
pub(in crate::web) async fn renew(
    connection: &mut SqliteConnection,
    id: &BuildId,
    now: OffsetDateTime,
    lease: Duration,
) -> sqlx::Result<()> {
    let update = "UPDATE builds SET heard_at = $2, lease_until = $3, in_line_at = NULL, waiting = NULL
        WHERE id = $1";
    sqlx::query(update)
        .bind(id.as_str())
        .bind(millis(now))
        .bind(millis(now + lease))
        .execute(connection)
        .await
        .map(drop)
}

/// After the clock was set forwards (or, with a negative `by`, back) to `now`: the leases that were live before,
/// and those that lie further ahead than a new one, begin anew. Answers how many.
pub(in crate::web) async fn begin_leases_anew(
    connection: &mut SqliteConnection,
    now: OffsetDateTime,
    by: time::Duration,
    lease: Duration,
) -> sqlx::Result<u64> {
    let (fresh, live) = (millis(now + lease), millis(now - by.max(time::Duration::ZERO)));
    let update = "UPDATE builds SET lease_until = $1 WHERE lease_until > $1 OR ($3 AND lease_until > $2)";
    let update = sqlx::query(update).bind(fresh).bind(live).bind(by.is_positive());
    let begun = update.execute(&mut *connection).await?.rows_affected();
    // Nor has anybody asked for a turn in what is the future now.
    let update = "UPDATE builds SET in_line_at = $1 WHERE in_line_at > $1";
    sqlx::query(update).bind(millis(now)).execute(connection).await?;
    Ok(begun)
}

/// Notes that somebody asked for the build's end; the first one's time stays.
pub(in crate::web) async fn ask_for_cancel(
    connection: &mut SqliteConnection,
    id: &BuildId,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let update = "UPDATE builds SET cancel_requested_at = coalesce(cancel_requested_at, $2) WHERE id = $1";
    sqlx::query(update).bind(id.as_str()).bind(millis(now)).execute(connection).await.map(drop)
}

/// A build that has ended comes again: with a place in line of its own, and whatever was asked for before is
/// forgotten.
pub(in crate::web) async fn comes_again(
    connection: &mut SqliteConnection,
    id: &BuildId,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let update =
        "UPDATE builds SET cancel_requested_at = NULL, ended_because = NULL, arrived_at = $2 WHERE id = $1";
    sqlx::query(update).bind(id.as_str()).bind(millis(now)).execute(connection).await.map(drop)
}

impl Database {
    /// Renews the leases that nobody could renew while the service was away: those that held when it last
    /// heard of any build.
    pub(in crate::web) async fn renew_all(&self, now: OffsetDateTime) -> Result<(), WriteError> {
        let update = "UPDATE builds SET lease_until = $1
            WHERE lease_until < $1 AND lease_until >= (SELECT coalesce(max(heard_at), 0) FROM builds)";
        let renew: Job<(), WriteError> = Box::new(move |connection| {
            Box::pin(async move {
                sqlx::query(update).bind(millis(now + LEASE)).execute(connection).await?;
                Ok(())
            })
        });
        self.write(renew).await
    }
}
