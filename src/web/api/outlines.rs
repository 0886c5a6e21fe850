//! What a page needs of a log beside its lines: the outline that it is laid out by, and the lines that words
//! are in.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::{Json, Parameter, Parameters};
use super::log_query::{Format, LogQuery};
use super::logs::{BuildLog, DeployLog};
use crate::timeline::protocol::{AttemptId, Problem};
use crate::web::access::Principal;
use crate::web::db::logs::LogId;
use crate::web::follow::Told;
use crate::web::log::outline::{End, Part};
use crate::web::log::read::{self, Counted};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// Hits that are told at once, unless `limit` asks for fewer.
const HITS: usize = 10_000;

/// An outline is told in several answers, each of which ends with the block whose steps, servers and pods make its
/// names longer, in bytes: no build's are, but it is made in memory.
const NAMES: usize = 4 << 20;

/// A log by its steps, from the block on that has the entry after `after`. Where the last block ends before
/// `next_seq`, there is more to ask for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogOutline {
    /// Whose log it is; none of a deploy's, and while no worker has the build.
    #[schema(value_type = Option<String>)]
    attempt: Option<AttemptId>,
    /// How many entries are stored.
    next_seq: u64,
    /// Whether nothing can come any more: its writer has confirmed it.
    complete: bool,
    blocks: Vec<OutlineBlock>,
}

/// Consecutive entries, of which the last ones of a log may still become more.
#[derive(Debug, Serialize, ToSchema)]
struct OutlineBlock {
    first_seq: u64,
    entries: u64,
    /// A part for each step, in the order of their first entries.
    parts: Vec<OutlinePart>,
}

/// The entries of a block that belong to one step.
#[derive(Debug, Serialize, ToSchema)]
struct OutlinePart {
    /// None: entries of no step, between the beginning of a step and that of the next.
    step: Option<String>,
    first_seq: u64,
    last_seq: u64,
    entries: u64,
    /// How many of them the query asks for.
    matching: u64,
    /// The times of the first and the last, in milliseconds since 1970.
    first_at: i64,
    last_at: i64,
    /// What became of the step, where a status line says so.
    end: Option<End>,
    /// The seqs of those that say that the step failed.
    failed: Vec<u64>,
    /// There was no room for more parts: it has all entries of steps without one, and of none, that follow it.
    rest: bool,
}

impl From<Counted> for OutlineBlock {
    fn from(Counted { first_seq, entries, parts }: Counted) -> Self {
        let part = |(part, matching): (Part, u64)| OutlinePart {
            step: part.step,
            first_seq: part.first_seq,
            last_seq: part.last_seq,
            entries: part.lines,
            matching,
            first_at: part.first_at,
            last_at: part.last_at,
            end: part.end,
            failed: part.failed,
            rest: part.rest,
        };
        Self { first_seq, entries, parts: parts.into_iter().map(part).collect() }
    }
}

/// Where words stand in a log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LogHits {
    /// How many entries after `after` have them.
    count: u64,
    /// The seqs of the first of these, as many as `limit` says, 10000 at most.
    seqs: Vec<u64>,
    /// The entries before this seq have been searched.
    next_seq: u64,
}

/// Outline the log of a build
///
/// Its blocks, and in each the steps that have entries in it, with how many of them the query asks for: a log of
/// any length is laid out by it, and read, by `after` and `before`, where somebody looks. With `Accept:
/// text/event-stream`, live: events `grown` (data `attempt` and `next_seq`), `state` and `end`.
#[utoipa::path(get, path = "/builds/{id}/log/outline", params(("id" = String, Path), LogQuery), tag = "builds", responses(
    (status = 200, body = LogOutline),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none, or q"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
))]
pub(super) async fn of_build(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = BuildLog::asked(&timeline, &principal, &id, query, &headers).await?;
    if asked.query.format(&headers)? == Format::Events {
        return Ok(asked.followed(timeline, Told::Growth));
    }
    let attempt = asked.attempt();
    let log = attempt.map(LogId::of_attempt);
    outline(&timeline, log, attempt, &asked.query).await.map(IntoResponse::into_response)
}

/// Outline the log of a deploy
///
/// As of a build's.
#[utoipa::path(get, path = "/deploys/{id}/log/outline", params(("id" = String, Path), LogQuery), tag = "deploys", responses(
    (status = 200, body = LogOutline),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none, or q"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
))]
pub(super) async fn of_deploy(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = DeployLog::asked(&timeline, &principal, id, query).await?;
    if asked.query.format(&headers)? == Format::Events {
        return asked.followed(timeline, &headers, Told::Growth);
    }
    outline(&timeline, Some(asked.log()), None, &asked.query).await.map(IntoResponse::into_response)
}

/// Find words in the log of a build
#[utoipa::path(get, path = "/builds/{id}/log/hits", params(("id" = String, Path), LogQuery), tag = "builds", responses(
    (status = 200, body = LogHits),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "No q, or a filter that is none"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
))]
pub(super) async fn hits_of_build(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
) -> Result<Json<LogHits>, Refusal> {
    let asked = BuildLog::asked(&timeline, &principal, &id, query, &HeaderMap::new()).await?;
    hits(&timeline, asked.attempt().map(LogId::of_attempt), &asked.query).await
}

/// Find words in the log of a deploy
#[utoipa::path(get, path = "/deploys/{id}/log/hits", params(("id" = String, Path), LogQuery), tag = "deploys", responses(
    (status = 200, body = LogHits),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "No q, or a filter that is none"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
))]
pub(super) async fn hits_of_deploy(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
) -> Result<Json<LogHits>, Refusal> {
    let asked = DeployLog::asked(&timeline, &principal, id, query).await?;
    hits(&timeline, Some(asked.log()), &asked.query).await
}

async fn outline(
    timeline: &Timeline,
    log: Option<LogId>,
    attempt: Option<AttemptId>,
    query: &LogQuery,
) -> Result<Json<LogOutline>, Refusal> {
    if query.q.is_some() {
        return Err(Refusal::Malformed("q: an outline does not look for words; ask for hits".to_owned()));
    }
    let matcher = query.matcher()?;
    let Some(log) = log else {
        return Ok(Json(LogOutline { attempt, next_seq: 0, complete: false, blocks: Vec::new() }));
    };
    let state = timeline.database.log_state(&log).await?;
    let (mut blocks, mut names) = (Vec::new(), 0);
    let take = |block: Counted| {
        names += block.parts.iter().map(|(part, _)| part.names()).sum::<usize>();
        blocks.push(block);
        if names < NAMES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    read::outlines(&timeline.database, &log, query.within(), &matcher, take).await?;
    let end = blocks.last().map_or(0, |block| block.first_seq + block.entries);
    Ok(Json(LogOutline {
        attempt,
        // The log may have grown since it was asked how far it is.
        next_seq: state.next_seq.max(end),
        complete: state.checksum.is_some(),
        blocks: blocks.into_iter().map(OutlineBlock::from).collect(),
    }))
}

async fn hits(timeline: &Timeline, log: Option<LogId>, query: &LogQuery) -> Result<Json<LogHits>, Refusal> {
    if query.q.as_deref().unwrap_or_default().is_empty() {
        return Err(Refusal::Malformed("q: missing; the words to look for".to_owned()));
    }
    let (matcher, most) = (query.matcher()?, query.limit()?.unwrap_or(HITS).min(HITS));
    let Some(log) = log else { return Ok(Json(LogHits { count: 0, seqs: Vec::new(), next_seq: 0 })) };
    // Each looks through a whole log: those who come later wait for those who are there.
    let _turn = timeline
        .searches
        .acquire()
        .await
        .map_err(|_| Refusal::Unavailable("the service is stopping; try again".to_owned()))?;
    let found = read::hits(&timeline.database, &log, query.within(), most, &matcher).await?;
    Ok(Json(LogHits { count: found.count, seqs: found.seqs, next_seq: found.next }))
}
