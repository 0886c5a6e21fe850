//! The worker's side: claims and reports.

use std::sync::Arc;

use axum::extract::State;
use time::OffsetDateTime;

use super::extract::{Json, Parameter, shortened};
use crate::event::deploy::{BuildId, DeployEvent};
use crate::timeline::protocol::{AttemptId, Claim, ClaimAnswer, Problem, Progress, StateReport};
use crate::web::access::{Principal, Scope};
use crate::web::claims::{self, Claimed};
use crate::web::db::logs::LogId;
use crate::web::log::read;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// The longest name of a worker, in bytes.
const MAX_WORKER: usize = 256;

/// Claim a build
///
/// `go`: build it, as this attempt, which holds a lease of 30 s from each word on. `wait`: another attempt is
/// at it, or it is not its turn by the app's policy or the namespace's limit; ask again in ten seconds. `done`:
/// it has ended, with this result. `cancelled`: it is not to be built. `conflict`: the id belongs to another
/// event. Repeating it gives the same answer, but for one that had to wait.
#[utoipa::path(put, path = "/builds/{id}", params(("id" = String, Path)), tag = "workers",
    request_body = Claim,
    responses(
        (status = 200, body = ClaimAnswer),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Another attempt has taken the place of this one"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "An event that would be rejected, or not this id's"),
    ))]
pub(super) async fn claim(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Json(claim): Json<Claim>,
) -> Result<Json<ClaimAnswer>, Refusal> {
    principal.must(Scope::Work)?;
    let (event, _) = DeployEvent::parse(claim.event.as_bytes())
        .map_err(|rejected| Refusal::Unprocessable(format!("event: {}", rejected.reason)))?;
    principal.must_see(&event.namespace, || format!("build {:?}", shortened(&id)))?;
    if event.id.as_str() != id {
        let detail = format!("the event's id is {}, the address names {:?}", event.id, shortened(&id));
        return Err(Refusal::Unprocessable(detail));
    }
    if claim.worker.is_empty() || claim.worker.len() > MAX_WORKER {
        let detail = format!("worker: {} bytes long; 1 to {MAX_WORKER} are taken", claim.worker.len());
        return Err(Refusal::Unprocessable(detail));
    }
    let (now, attempt, worker) = (OffsetDateTime::now_utc(), claim.attempt, claim.worker.clone());
    let policy = timeline.policy();
    let Claimed { answer, others } = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move { claims::claim(connection, &event, &claim, &policy, now).await })
        }))
        .await?;
    tracing::debug!(build_id = id, %attempt, worker, ?answer, "claim");
    metrics::counter!("buildgrid_claims_total", "answer" => answer.as_str()).increment(1);
    timeline.live.changed(&id);
    others.iter().for_each(|other| timeline.live.changed(other.as_str()));
    Ok(Json(answer))
}

/// Report where an attempt stands
///
/// The states in their order, never back; repeating one changes nothing. An end carries the result and,
/// unless the attempt was released, the log's count and checksum, which must be those of the stored log.
#[utoipa::path(post, path = "/builds/{id}/attempts/{attempt}/state", tag = "workers",
    params(("id" = String, Path), ("attempt" = String, Path)),
    request_body = StateReport,
    responses(
        (status = 200, body = Progress),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "The attempt was not claimed here"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Fenced, backwards, or a log that is not whole"),
        (status = 422, body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn report(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter((id, attempt)): Parameter<(String, String)>,
    Json(report): Json<StateReport>,
) -> Result<Json<Progress>, Refusal> {
    let (id, attempt) = addressed(&timeline, &principal, &id, &attempt).await?;
    check(&id, &report)?;
    // Read outside of the writer's transaction: a log of a hundred megabytes takes its time. What is stored
    // is only added to, and the transaction sees whether it was.
    let stored = match report.log {
        Some(_) => Some(read::sum(&timeline.database, &LogId::of_attempt(attempt)).await?),
        None => None,
    };
    let (target, policy, now) = (id.clone(), timeline.policy(), OffsetDateTime::now_utc());
    let progress = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move {
                claims::report(connection, &target, attempt, &report, stored, &policy, now).await
            })
        }))
        .await
        .inspect_err(|refusal| {
            if *refusal == Refusal::Checksum {
                tracing::error!(build_id = %id, %attempt, ?stored, "a stored log is not the one that its worker has");
            }
        })?;
    timeline.live.changed(id.as_str());
    Ok(Json(progress))
}

/// What a report must have.
fn check(id: &BuildId, report: &StateReport) -> Result<(), Refusal> {
    use crate::timeline::protocol::AttemptState as S;
    let refuse = |detail: String| Err(Refusal::Unprocessable(detail));
    let state = report.state.as_str();
    match (report.state, &report.result, report.log) {
        (S::Released, ..) => Ok(()),
        (end, None, _) if end.is_end() => refuse(format!("result: {state} needs the result event")),
        (end, _, None) if end.is_end() => refuse(format!("log: {state} needs the log's count and checksum")),
        (_, Some(result), _) if result.id != *id => {
            refuse(format!("result: it is of build {}, not of {id}", result.id))
        }
        (_, Some(result), _) if result.state.as_str() != state => {
            refuse(format!("result: it says {}, the report says {state}", result.state))
        }
        (open, result, log) if !open.is_end() && (result.is_some() || log.is_some()) => {
            refuse(format!("{state} is no end: it has neither result nor log"))
        }
        _ => Ok(()),
    }
}

/// The build and attempt of the address, which the worker may speak for.
pub(super) async fn addressed(
    timeline: &Timeline,
    principal: &Principal,
    id: &str,
    attempt: &str,
) -> Result<(BuildId, AttemptId), Refusal> {
    principal.must(Scope::Work)?;
    let id: BuildId = id.parse().map_err(|_| Refusal::UnknownAttempt)?;
    let attempt: AttemptId = attempt.parse().map_err(|_| Refusal::UnknownAttempt)?;
    let row = timeline.database.build(&id).await?.ok_or(Refusal::UnknownAttempt)?;
    match principal.namespaces.hold(&row.build.namespace) {
        true => Ok((id, attempt)),
        false => Err(Refusal::UnknownAttempt),
    }
}
