//! The arbiter: which attempt builds, which waits, which is fenced, and what their reports change.
//!
//! Every decision is made within one write transaction, so that of two workers that claim at once one
//! goes and one waits.

use sqlx::SqliteConnection;
use time::OffsetDateTime;

use super::db::attempts::{self, AttemptRow};
use super::db::builds::{self, BuildRow};
use super::db::leases::{self, Change};
use super::db::line;
use super::db::logs::{self, Appended, LogId};
use super::log::batch::Batch;
use super::policy::PolicyConfig;
use super::refusal::Refusal;
use super::turn;
use crate::event::deploy::{BuildId, DeployEvent};
use crate::event::result::Kind;
use crate::timeline::protocol::{
    AttemptId, AttemptState, BuildState, Claim, ClaimAnswer, LEASE, LogSum, Progress, StateReport,
};

/// What became of a claim.
#[derive(Debug)]
pub(super) struct Claimed {
    pub answer: ClaimAnswer,
    /// Other builds that are not what they were.
    pub others: Vec<BuildId>,
}

/// Answers a claim.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    claim: &Claim,
    policy: &PolicyConfig,
    now: OffsetDateTime,
) -> Result<Claimed, Refusal> {
    // One that asked nobody came when its worker took it: what came since is later.
    let made = claim.late.then(|| claim.attempt.made_at()).flatten();
    let came = made.map_or(now, |made| made.min(now));
    let mut others = turn::arrive(connection, event, &claim.event, policy, came, now).await?;
    let answer = answer(connection, event, claim, policy, now, &mut others).await?;
    Ok(Claimed { answer, others })
}

async fn answer(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    claim: &Claim,
    policy: &PolicyConfig,
    now: OffsetDateTime,
    others: &mut Vec<BuildId>,
) -> Result<ClaimAnswer, Refusal> {
    let mut row = find(connection, &event.id).await?;
    if row.body != event.body {
        return Ok(ClaimAnswer::Conflict);
    }
    if attempts::is_foreign(connection, &event.id, claim.attempt).await? {
        return Err(Refusal::Unprocessable(format!("attempt {} is another build's", claim.attempt)));
    }
    if row.build.state.is_final() && may_reopen(&row, claim) {
        row.build.state = BuildState::Queued;
        row.build.finished_at = None;
        // Whoever puts it back wants it built, whatever was wished before.
        row.build.cancel_requested_at = None;
        leases::comes_again(connection, &event.id, now).await?;
        row.arrived_at = now;
        row.requeued.clone_from(&claim.requeue);
        row.result = None;
        leases::change(connection, &event.id, Change::unleased(&row)).await?;
    }
    let known = attempts::get(connection, &event.id, claim.attempt).await?;
    let next_seq = logs::state(connection, &LogId::of_attempt(claim.attempt)).await?.next_seq;
    let go = ClaimAnswer::Go { next_seq };
    match known {
        Some(AttemptRow { fenced: true, .. }) => return Err(Refusal::Fenced),
        // The answer was lost: the same one again.
        Some(known) if claim.late || (row.build.attempt == Some(claim.attempt) && !known.state.is_end()) => {
            renew(connection, &row, claim.attempt, now).await?;
            return Ok(go);
        }
        Some(_) | None => {}
    }
    if row.build.state.is_final() {
        if claim.late {
            register(connection, event, claim, now).await?;
            return Ok(go);
        }
        return Ok(match row.result {
            Some(result) => ClaimAnswer::Done { result: Box::new(result) },
            // Ended from here, before any worker could.
            None => ClaimAnswer::Cancelled { reason: row.build.reason },
        });
    }
    let is_leased = row.is_leased(now);
    if row.build.cancel_requested_at.is_some() && !is_leased {
        if claim.late {
            register(connection, event, claim, now).await?;
            take_over(connection, row, claim.attempt, BuildState::Claimed, now).await?;
            return Ok(go);
        }
        // The worker that was to end it has fallen silent before it could.
        turn::end(connection, &row, None, now).await?;
        return Ok(ClaimAnswer::Cancelled { reason: None });
    }
    let replaced = row.build.attempt.is_some() && row.build.attempt == claim.replaces;
    if is_leased && !replaced {
        if claim.late {
            // Beside the one that counts.
            register(connection, event, claim, now).await?;
            return Ok(go);
        }
        let worker = row.build.worker.as_deref().unwrap_or("another worker");
        let number = row.build.number.unwrap_or_default();
        return Ok(ClaimAnswer::Wait { reason: format!("attempt {number} is at it, on {worker}") });
    }
    if !claim.late {
        if let Some(reason) = turn::overtaken(connection, &row, policy).await? {
            turn::end(connection, &row, Some(&reason), now).await?;
            return Ok(ClaimAnswer::Cancelled { reason: Some(reason) });
        }
        // One that still holds its lease has had its turn.
        if !is_leased && let Some(reason) = turn::must_wait(connection, &row, policy, now).await? {
            line::wait(connection, &event.id, &reason, now).await?;
            return Ok(ClaimAnswer::Wait { reason });
        }
        others.extend(turn::alone(connection, &row, policy, now).await?);
    }
    if known.is_none() {
        register(connection, event, claim, now).await?;
    }
    // A late one has asked nobody: the one before it may still be at it, and is not to lose its log.
    if let Some(before) = row.build.attempt.filter(|_| !claim.late) {
        attempts::fence(connection, before, now).await?;
    }
    take_over(connection, row, claim.attempt, BuildState::Claimed, now).await?;
    Ok(go)
}

/// Whether an operator wants an ended build tried again, and that can change anything.
fn may_reopen(row: &BuildRow, claim: &Claim) -> bool {
    claim.requeue.is_some()
        && claim.requeue != row.requeued
        && matches!(row.build.kind, Some(Kind::Infrastructure | Kind::Event))
}

async fn register(
    connection: &mut SqliteConnection,
    event: &DeployEvent,
    claim: &Claim,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    attempts::insert(connection, &event.id, claim.attempt, claim.number, &claim.worker, now).await?;
    Ok(())
}

/// Makes `attempt`, which stands at `state`, the one that counts.
async fn take_over(
    connection: &mut SqliteConnection,
    row: BuildRow,
    attempt: AttemptId,
    state: BuildState,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let change = Change {
        state,
        attempt: Some(attempt),
        lease_until: Some(now + LEASE),
        heard_at: Some(now),
        ..Change::unleased(&row)
    };
    leases::change(connection, &row.build.id, change).await?;
    Ok(())
}

/// One that runs beside the attempt that counts takes its place when that one has fallen silent.
async fn step_in(
    connection: &mut SqliteConnection,
    row: BuildRow,
    attempt: &AttemptRow,
    now: OffsetDateTime,
) -> Result<BuildRow, Refusal> {
    let counts = row.build.attempt == Some(attempt.id);
    if counts || attempt.state.is_end() || row.is_leased(now) || row.build.state.is_final() {
        return Ok(row);
    }
    let id = row.build.id.clone();
    take_over(connection, row, attempt.id, brought_to(attempt.state), now).await?;
    find(connection, &id).await
}

/// Whether what an attempt reports is the build's state as well.
fn decides(row: &BuildRow, attempt: AttemptId, state: AttemptState) -> bool {
    let counts = row.build.attempt == Some(attempt);
    let told = brought_to(state);
    match row.build.state.is_final() {
        // The end of one beside it is an end all the same: the one that counts may have no more to say.
        false => counts || told.is_final(),
        // Ended from here, while its worker was silent: it may have ended in another way.
        true if row.result.is_none() => told.is_final(),
        // Of two that ran at once, one has made the image.
        true => !counts && told == BuildState::Published && row.build.state != BuildState::Published,
    }
}

/// Keeps a report. `stored` is what was read of the attempt's log just before, where the report is of an end.
pub(super) async fn report(
    connection: &mut SqliteConnection,
    id: &BuildId,
    attempt: AttemptId,
    report: &StateReport,
    stored: Option<LogSum>,
    policy: &PolicyConfig,
    now: OffsetDateTime,
) -> Result<Progress, Refusal> {
    let (row, known) = attempt_of(connection, id, attempt).await?;
    let row = step_in(connection, row, &known, now).await?;
    let log = LogId::of_attempt(attempt);
    let state = logs::state(connection, &log).await?;
    if known.state != report.state {
        if known.state.rank() >= report.state.rank() {
            return Err(Refusal::Backwards { from: known.state, to: report.state });
        }
        if let Some(sum) = report.log {
            if stored.is_none_or(|stored| stored.count < sum.count) {
                return Err(Refusal::Incomplete { next_seq: state.next_seq });
            }
            // Nor has it grown since it was read.
            if stored != Some(sum) || state.next_seq != sum.count {
                return Err(Refusal::Checksum);
            }
            logs::seal(connection, &log, &sum.checksum).await?;
        }
        attempts::enter(connection, attempt, report.state, report.at).await?;
        if let Some(commit) = &report.commit {
            builds::describe(connection, id, commit).await?;
        }
        if decides(&row, attempt, report.state) {
            advance(connection, &row, attempt, report, policy, now).await?;
        }
    } else {
        renew(connection, &row, attempt, now).await?;
    }
    Ok(Progress { next_seq: state.next_seq, cancel: row.build.cancel_requested_at.is_some() })
}

/// Where an attempt's state brings its build.
fn brought_to(state: AttemptState) -> BuildState {
    match state {
        AttemptState::Claimed => BuildState::Claimed,
        AttemptState::Fetching => BuildState::Fetching,
        AttemptState::Building => BuildState::Building,
        AttemptState::Publishing => BuildState::Publishing,
        AttemptState::Retrying => BuildState::Retrying,
        AttemptState::Released => BuildState::Queued,
        AttemptState::Published => BuildState::Published,
        AttemptState::Failed => BuildState::Failed,
        AttemptState::Rejected => BuildState::Rejected,
        AttemptState::Cancelled => BuildState::Cancelled,
    }
}

/// Brings the build to where an attempt has come.
async fn advance(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    attempt: AttemptId,
    report: &StateReport,
    policy: &PolicyConfig,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let state = brought_to(report.state);
    // Another attempt would follow, perhaps long after: what is not to be built any more ends now.
    if report.state.is_end() && !state.is_final() {
        let because = turn::overtaken(connection, row, policy).await?;
        if row.build.cancel_requested_at.is_some() || because.is_some() {
            return turn::end(connection, row, because.as_deref(), now).await;
        }
    }
    let change = Change {
        state,
        attempt: Some(attempt),
        lease_until: (!report.state.is_end()).then_some(now + LEASE),
        heard_at: Some(now),
        requeued: row.requeued.as_deref(),
        result: report.result.as_deref(),
        ended_because: None,
        // Given back, it comes at once, and to the place that it had.
        in_line_at: (state == BuildState::Queued).then_some(now),
        // By the worker's clock, both: a report may come long after.
        started_at: row.build.started_at.or(Some(report.at)),
        finished_at: state.is_final().then_some(report.at),
    };
    leases::change(connection, &row.build.id, change).await?;
    Ok(())
}

/// Appends to an attempt's log.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    id: &BuildId,
    attempt: AttemptId,
    batch: Batch,
    now: OffsetDateTime,
) -> Result<Progress, Refusal> {
    let (row, known) = attempt_of(connection, id, attempt).await?;
    let row = step_in(connection, row, &known, now).await?;
    match logs::append(connection, &LogId::of_attempt(attempt), batch).await? {
        Appended::Stored { next_seq } => {
            renew(connection, &row, attempt, now).await?;
            Ok(Progress { next_seq, cancel: row.build.cancel_requested_at.is_some() })
        }
        Appended::Gap { next_seq } => Err(Refusal::Gap { next_seq }),
        Appended::Sealed => {
            Err(Refusal::Conflict("the log has ended; nothing can be added to it".to_owned()))
        }
    }
}

/// What became of the wish to end a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cancel {
    /// Its worker is told with the next answer; or nobody has it, and nobody will build it.
    Asked,
    /// It has ended before.
    Over,
}

/// Notes that a build is to be ended. One that no worker has ends at once.
pub(super) async fn cancel(
    connection: &mut SqliteConnection,
    id: &BuildId,
    now: OffsetDateTime,
) -> Result<Cancel, Refusal> {
    let row = find(connection, id).await?;
    if row.build.state.is_final() {
        return Ok(Cancel::Over);
    }
    leases::ask_for_cancel(connection, id, now).await?;
    if !row.is_leased(now) {
        turn::end(connection, &row, None, now).await?;
    }
    Ok(Cancel::Asked)
}

async fn find(connection: &mut SqliteConnection, id: &BuildId) -> Result<BuildRow, Refusal> {
    let row = builds::get(connection, id).await?;
    row.ok_or_else(|| Refusal::NotFound(format!("build {id}")))
}

/// The build and an attempt at it that may still speak.
async fn attempt_of(
    connection: &mut SqliteConnection,
    id: &BuildId,
    attempt: AttemptId,
) -> Result<(BuildRow, AttemptRow), Refusal> {
    let row = builds::get(connection, id).await?.ok_or(Refusal::UnknownAttempt)?;
    let known = attempts::get(connection, id, attempt).await?.ok_or(Refusal::UnknownAttempt)?;
    match known.fenced {
        true => Err(Refusal::Fenced),
        false => Ok((row, known)),
    }
}

/// A word from the attempt that counts, while it runs, is good for another lease.
async fn renew(
    connection: &mut SqliteConnection,
    row: &BuildRow,
    attempt: AttemptId,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    if row.build.attempt == Some(attempt) && row.build.state.is_running() {
        leases::renew(connection, &row.build.id, now, LEASE).await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
