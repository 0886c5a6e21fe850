//! Appending to the logs of attempts and deploys.

use std::sync::Arc;

use axum::extract::{Request, State};
use http::{HeaderValue, header};
use time::OffsetDateTime;

use super::attempts::addressed;
use super::deploys::{self, visible_deploy};
use super::extract::{Json, Parameter, Parameters, body};
use crate::timeline::protocol::{MAX_APPEND, Problem, Progress};
use crate::web::access::{Principal, Scope};
use crate::web::claims;
use crate::web::db::logs::{self, Appended, LogId};
use crate::web::log::batch::{Batch, BatchError, Encoding};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// Append to the log of an attempt
///
/// Log entries as NDJSON, each with its seq from 0, compressed by gzip or zstd as `Content-Encoding` says, at
/// most 4 MiB without compression. What is stored already is dropped; an append that leaves a gap is refused
/// with the seq to go on from. An empty one renews the lease.
#[utoipa::path(post, path = "/builds/{id}/attempts/{attempt}/log", tag = "workers",
    params(("id" = String, Path), ("attempt" = String, Path)),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses(
        (status = 200, body = Progress, description = "It is stored, durably"),
        (status = 404, body = Problem, content_type = "application/problem+json", description = "The attempt was not claimed here"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "Fenced, a gap, or an ended log"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 415, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "A line that is no entry"),
    ))]
pub(super) async fn append(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter((id, attempt)): Parameter<(String, String)>,
    request: Request,
) -> Result<Json<Progress>, Refusal> {
    let (id, attempt) = addressed(&timeline, &principal, &id, &attempt).await?;
    let batch = batch(request).await?;
    let (target, entries) = (id.clone(), batch.len());
    let now = OffsetDateTime::now_utc();
    let progress = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move { claims::append(connection, &target, attempt, batch, now).await })
        }))
        .await?;
    metrics::counter!("buildgrid_timeline_entries_total").increment(entries as u64);
    timeline.live.changed(id.as_str());
    Ok(Json(progress))
}

/// Append to the log of a deploy
///
/// As for an attempt; `server`, `service` and `pod` say where each line comes from.
#[utoipa::path(post, path = "/deploys/{id}/log", tag = "deploys",
    params(("id" = String, Path), deploys::Whose),
    request_body(content = String, content_type = "application/x-ndjson"),
    responses(
        (status = 200, body = Progress, description = "It is stored, durably"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 409, body = Problem, content_type = "application/problem+json", description = "A gap"),
        (status = 413, body = Problem, content_type = "application/problem+json"),
        (status = 422, body = Problem, content_type = "application/problem+json", description = "A line that is no entry"),
    ))]
pub(super) async fn append_to_deploy(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(whose): Parameters<deploys::Whose>,
    request: Request,
) -> Result<Json<Progress>, Refusal> {
    principal.must(Scope::Deploy)?;
    let deploy = visible_deploy(&timeline, &principal, &id, &whose).await?;
    let batch = batch(request).await?;
    let log = LogId::of_deploy(deploy.report.namespace.as_str(), &id);
    let name = log.to_string();
    let appended = timeline
        .database
        .write::<_, Refusal>(Box::new(move |connection| {
            Box::pin(async move { Ok(logs::append(connection, &log, batch).await?) })
        }))
        .await?;
    timeline.live.changed(&name);
    match appended {
        Appended::Stored { next_seq } => Ok(Json(Progress { next_seq, cancel: false })),
        Appended::Gap { next_seq } => Err(Refusal::Gap { next_seq }),
        Appended::Sealed => Err(Refusal::Conflict("the log has ended".to_owned())),
    }
}

/// Reads an append: bounded as it comes, and bounded when it is decompressed.
async fn batch(request: Request) -> Result<Batch, Refusal> {
    let encoding = match request.headers().get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(b"zstd") => Encoding::Zstd,
        Some(_) => {
            let detail = "Content-Encoding: gzip, zstd and identity are known".to_owned();
            return Err(Refusal::MediaType(detail));
        }
    };
    let bytes = body(request, MAX_APPEND).await?;
    let read = tokio::task::spawn_blocking(move || Batch::read(&bytes, encoding)).await;
    let read = read.map_err(|error| {
        tracing::error!(%error, "reading an append failed");
        Refusal::Internal
    })?;
    read.map_err(|error| match error {
        BatchError::TooLarge { .. } => Refusal::TooLarge(error.to_string()),
        BatchError::Compression(_) => Refusal::Malformed(error.to_string()),
        BatchError::Line { .. } => Refusal::Unprocessable(error.to_string()),
    })
}
