//! Whose turn it is: an app's policy and a namespace's limit, applied to a claim within its transaction.
//!
//! Who comes first goes first, by when the service first knew of the event: a build waits for those that run,
//! and for those in line before it that could go instead of it.
//!
//! A place in line is kept however long all slots are busy: of an event that was told to wait and does not come
//! again, nobody knows then whether it ever will. That another one has come, which was told to wait later, is a sign:
//! both went the same way, ten seconds in a retry queue and then to the end of the builds queue, which keeps the
//! order. Whoever did not come before that one, although told to wait [`PATIENCE`] earlier, is out of line until it
//! does.

use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::db::attempts;
use super::db::builds::{self, BuildRow};
use super::db::leases::{self, Change};
use super::db::line::{self, Before, PATIENCE, Running};
use super::policy::{Policy, PolicyConfig};
use super::refusal::Refusal;
use crate::event::deploy::{BuildId, DeployEvent};
use crate::publish::name::Namespace;
use crate::timeline::protocol::BuildState;

/// Takes an event down that `came` then. The first time it is known, it takes the place of those of its ref that no worker
/// is at, where the policy is `latest-only`; answers which these were.
pub(super) async fn arrive(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    text: &str,
    policy: &PolicyConfig,
    came: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Vec<BuildId>, Refusal> {
    let is_new = builds::insert(connection, event, text, came).await?;
    let replaces = policy.of(&event.namespace, &event.app) == Policy::LatestOnly && !event.options.rebuild;
    let Some(name) = event.git_ref.as_deref().filter(|_| is_new && replaces) else { return Ok(Vec::new()) };
    let replaced = line::earlier(connection, event, came, now).await?;
    for id in &replaced {
        if let Some(row) = builds::get(connection, id).await? {
            end(connection, &row, Some(&replacement(&event.id, name)), now).await?;
        }
    }
    Ok(replaced)
}

/// Why a build that no worker is at is not to be built any more, if a later event has taken its place.
pub(super) async fn overtaken(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    policy: &PolicyConfig,
) -> Result<Option<String>, Refusal> {
    let build = &row.build;
    let Some(name) = build.git_ref.as_deref() else { return Ok(None) };
    if policy.of(&build.namespace, &build.app) != Policy::LatestOnly {
        return Ok(None);
    }
    Ok(line::later(connection, row).await?.map(|later| replacement(&later, name)))
}

fn replacement(later: &BuildId, git_ref: &str) -> String {
    format!("a later event of {git_ref} replaced it: build {later} (policy latest-only)")
}

/// Why it is not this build's turn, if it is not.
pub(super) async fn must_wait(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    policy: &PolicyConfig,
    now: OffsetDateTime,
) -> Result<Option<String>, Refusal> {
    let (namespace, app) = (&row.build.namespace, &row.build.app);
    let (of_app, limit) = (policy.of(namespace, app), policy.limit(namespace));
    if !of_app.is_serial() && limit.is_none() {
        return Ok(None);
    }
    if let Some(put_off) = row.put_off_at() {
        line::forget(connection, namespace, put_off - PATIENCE).await?;
    }
    let running = line::running(connection, namespace, &row.build.id, now).await?;
    let same_app = running.iter().find(|other| other.app == *app);
    if let Some(other) = same_app.filter(|_| of_app.is_serial()) {
        return Ok(Some(format!("build {} of the same app is running (policy {of_app})", other.id)));
    }
    let most = limit.map(|(most, key)| (usize::try_from(most).unwrap_or(usize::MAX), key));
    if let Some((most, key)) = most.filter(|(most, _)| running.len() >= *most) {
        return Ok(Some(full(namespace, &running, most, key)));
    }
    let before = line::before(connection, row).await?;
    let same_app = before.iter().find(|before| before.app == *app);
    if let Some(other) = same_app.filter(|_| of_app.is_serial()) {
        return Ok(Some(format!("build {} of the same app comes before it (policy {of_app})", other.id)));
    }
    let Some((most, key)) = most else { return Ok(None) };
    // Whoever waits for a build of its own app leaves the free places to others.
    let could_go = |before: &Before| match policy.of(namespace, &before.app).is_serial() {
        true => usize::from(running.iter().all(|running| running.app != before.app)),
        false => before.count,
    };
    let ahead: usize = before.iter().map(could_go).sum();
    let first = before.iter().filter(|before| could_go(before) > 0).map(|before| &before.id).min();
    match first {
        Some(first) if ahead >= most - running.len() => Ok(Some(format!(
            "build {first} of namespace {namespace} comes before it, and no more than {most} run at once ({key})"
        ))),
        _ => Ok(None),
    }
}

fn full(namespace: &Namespace, running: &[Running], most: usize, key: &str) -> String {
    let one = running.first().map(|running| running.id.as_str()).unwrap_or_default();
    let more = match running.len().saturating_sub(1) {
        0 => String::new(),
        1 => " and 1 other".to_owned(),
        others => format!(" and {others} others"),
    };
    let run = if more.is_empty() { "is" } else { "are" };
    format!(
        "build {one}{more} of namespace {namespace} {run} running, and no more than {most} run at once ({key})"
    )
}

/// Makes sure that a build of a serial app, which goes now, is alone: what has fallen silent in the app is
/// fenced, and comes again from its beginning. Answers which builds these are.
pub(super) async fn alone(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    policy: &PolicyConfig,
    now: OffsetDateTime,
) -> Result<Vec<BuildId>, Refusal> {
    if !policy.of(&row.build.namespace, &row.build.app).is_serial() {
        return Ok(Vec::new());
    }
    let mut fenced = Vec::new();
    for silent in line::silent(connection, row, now).await? {
        let Some(other) = builds::get(connection, &silent.id).await? else { continue };
        if let Some(attempt) = silent.attempt {
            attempts::fence(connection, attempt, now).await?;
        }
        match other.build.cancel_requested_at {
            Some(_) => end(connection, &other, None, now).await?,
            None => {
                let queued = Change { state: BuildState::Queued, ..Change::unleased(&other) };
                leases::change(connection, &silent.id, queued).await?;
            }
        }
        fenced.push(silent.id);
    }
    Ok(fenced)
}

/// Ends a build that no worker is at, for this reason; without one, since somebody asked for it.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    because: Option<&str>,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let ended = Change {
        state: BuildState::Cancelled,
        ended_because: because,
        finished_at: Some(now),
        ..Change::unleased(row)
    };
    leases::change(connection, &row.build.id, ended).await?;
    Ok(())
}

#[cfg(test)]
#[path = "turn_tests/mod.rs"]
mod tests;
