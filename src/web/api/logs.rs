//! Logs of attempts and deploys: reading a range, filtering, downloading, following.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, header};

use super::deploys::{self, visible_deploy};
use super::extract::{Parameter, Parameters, build_id};
use super::log_query::{Format, LogQuery};
use crate::publish::name::Namespace;
use crate::timeline::entry::{LogEntry, timestamp};
use crate::timeline::protocol::{AttemptId, Build, NDJSON, Problem};
use crate::web::access::{Principal, Scope};
use crate::web::api::builds;
use crate::web::db::logs::LogId;
use crate::web::follow::{self, Cursor, Followed, Told};
use crate::web::log::filter::Matcher;
use crate::web::log::read::{self, Found};
use crate::web::pages::deploy_path;
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// A page ends with the line that makes it larger, in bytes: it is made in memory, and a line may have 64 KiB.
const PAGE: usize = 8 << 20;

/// Read or follow the log of a build
///
/// NDJSON, or text, or, with `Accept: text/event-stream`, live: events `entry` (id `attempt:seq`, data a log
/// entry), `state` (data the build) and `end`. A reader that comes back with `Last-Event-ID` misses nothing.
#[utoipa::path(get, path = "/builds/{id}/log", params(("id" = String, Path), LogQuery), tag = "builds", responses(
    (status = 200, content(
        (LogEntry = "application/x-ndjson"), (String = "text/plain"), (String = "text/event-stream"),
    )),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "Too many follow a log already"),
))]
pub(super) async fn of_build(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = BuildLog::asked(&timeline, &principal, &id, query, &headers).await?;
    let (matcher, format) = (asked.query.matcher()?, asked.query.format(&headers)?);
    if format == Format::Events {
        return Ok(asked.followed(timeline, Told::Entries(matcher)));
    }
    let Some(attempt) = asked.attempt() else {
        // No worker has it yet: an empty log.
        return Ok(content(format, Body::empty()));
    };
    let path = format!("{}/builds/{id}/log", super::BASE);
    answer(&timeline, LogId::of_attempt(attempt), path, &asked.query, format, matcher).await
}

/// The log of a build, as it is asked for, by somebody who may see it.
pub(super) struct BuildLog {
    pub build: Build,
    pub query: LogQuery,
    /// The one attempt that is asked for.
    only: Option<AttemptId>,
    last: Option<Cursor>,
}

impl BuildLog {
    pub(super) async fn asked(
        timeline: &Timeline,
        principal: &Principal,
        id: &str,
        query: LogQuery,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        principal.must(Scope::Read)?;
        let build = builds::visible(timeline, principal, &build_id(id)?).await?.build;
        let query = query.of_build()?;
        let only = query.attempt()?;
        let format = query.format(headers)?;
        let last = match format {
            Format::Events => Cursor::last_event(headers)?,
            Format::Ndjson | Format::Text => None,
        };
        // A log is found by its attempt alone: one that is not this build's may be another namespace's.
        let named = last.and_then(|last| last.attempt);
        if only.is_some() || named.is_some() {
            let attempts = timeline.database.attempts(&build.id).await?;
            let known = |named: &AttemptId| attempts.iter().any(|attempt| attempt.id == *named);
            if let Some(foreign) = only.into_iter().chain(named).find(|named| !known(named)) {
                return Err(Refusal::NotFound(format!("attempt {foreign} at build {id}")));
            }
        }
        if let (Some(only), Some(named)) = (only, named)
            && only != named
        {
            let detail = format!("Last-Event-ID: that is an event of attempt {named}, not of {only}");
            return Err(Refusal::Malformed(detail));
        }
        // A build that was put back has its old log until it is built again: who follows it waits for that.
        let may_come = format == Format::Events && only.is_none() && !build.state.is_final();
        if let Some(attempt) = only.or(build.attempt).filter(|_| !may_come) {
            must_be_kept(timeline, &LogId::of_attempt(attempt)).await?;
        }
        Ok(Self { build, query, only, last })
    }

    /// Whose log it is; none while no worker has the build.
    pub(super) fn attempt(&self) -> Option<AttemptId> {
        self.only.or(self.build.attempt)
    }

    pub(super) fn followed(self, timeline: Arc<Timeline>, told: Told) -> Response {
        let cursor = self.last.unwrap_or(Cursor { attempt: self.only, next: self.query.from() });
        follow::events(timeline, Followed::Build { id: self.build.id, only: self.only }, cursor, told)
    }
}

/// Read or follow the log of a deploy
#[utoipa::path(get, path = "/deploys/{id}/log", tag = "deploys",
    params(("id" = String, Path), LogQuery),
    responses(
        (status = 200, content(
            (LogEntry = "application/x-ndjson"), (String = "text/plain"), (String = "text/event-stream"),
        )),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 410, body = Problem, content_type = "application/problem+json", description = "The log is no longer kept"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Too many follow a log already"),
    ))]
pub(super) async fn of_deploy(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let asked = DeployLog::asked(&timeline, &principal, id, query).await?;
    let (matcher, format) = (asked.query.matcher()?, asked.query.format(&headers)?);
    if format == Format::Events {
        return asked.followed(timeline, &headers, Told::Entries(matcher));
    }
    let path = format!("{}{}/log", super::BASE, deploy_path(&asked.id));
    answer(&timeline, asked.log(), path, &asked.query, format, matcher).await
}

/// The log of a deploy, as [`BuildLog`].
pub(super) struct DeployLog {
    id: String,
    namespace: Namespace,
    pub query: LogQuery,
}

impl DeployLog {
    pub(super) async fn asked(
        timeline: &Timeline,
        principal: &Principal,
        id: String,
        query: LogQuery,
    ) -> Result<Self, Refusal> {
        principal.must(Scope::Read)?;
        let query = query.of_deploy()?;
        let whose = deploys::Whose { namespace: query.namespace.clone() };
        let deploy = visible_deploy(timeline, principal, &id, &whose).await?;
        let asked = Self { id, namespace: deploy.report.namespace, query };
        must_be_kept(timeline, &asked.log()).await?;
        Ok(asked)
    }

    pub(super) fn log(&self) -> LogId {
        LogId::of_deploy(self.namespace.as_str(), &self.id)
    }

    pub(super) fn followed(
        self,
        timeline: Arc<Timeline>,
        headers: &HeaderMap,
        told: Told,
    ) -> Result<Response, Refusal> {
        let start = Cursor { attempt: None, next: self.query.from() };
        let cursor = Cursor::last_event(headers)?.unwrap_or(start);
        let followed = Followed::Deploy { namespace: self.namespace, id: self.id };
        Ok(follow::events(timeline, followed, cursor, told))
    }
}

async fn must_be_kept(timeline: &Timeline, log: &LogId) -> Result<(), Refusal> {
    let state = timeline.database.log_state(log).await?;
    match state.removed_at {
        None => Ok(()),
        Some(at) => Err(Refusal::Gone(format!(
            "the log, of {} entries, was removed at {}: it was older than history.keep_logs",
            state.next_seq,
            timestamp::to_string(at)
        ))),
    }
}

/// One page, or all of it as a stream.
async fn answer(
    timeline: &Timeline,
    log: LogId,
    path: String,
    query: &LogQuery,
    format: Format,
    matcher: Arc<Matcher>,
) -> Result<Response, Refusal> {
    let Some(limit) = query.limit()? else {
        let found = read::all(timeline.database.clone(), log, query.within(), matcher);
        let bytes = found.map_ok(move |found| Bytes::from(written(found, format)));
        let logged = bytes.inspect_err(|error| tracing::error!(%error, "a stored log cannot be read"));
        return Ok(content(format, Body::from_stream(logged)));
    };
    let (mut whole, mut rest) = (Found::default(), query.within());
    loop {
        let found = read::find(&timeline.database, &log, rest.clone(), limit - whole.count, &matcher).await?;
        rest.start = found.next;
        whole.lines.extend_from_slice(&found.lines);
        (whole.count, whole.next, whole.more) = (whole.count + found.count, found.next, found.more);
        if !whole.more || whole.count == limit || whole.lines.len() >= PAGE {
            break;
        }
    }
    let next = whole.more.then(|| query.next_page(&path, whole.next));
    let mut response = content(format, Body::from(written(whole, format)));
    if let Some(link) = next.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn content(format: Format, body: Body) -> Response {
    let media = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Ndjson | Format::Events => NDJSON,
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(media))], body).into_response()
}

fn written(found: Found, format: Format) -> Vec<u8> {
    match format {
        Format::Text => text(&found.lines),
        Format::Ndjson | Format::Events => found.lines,
    }
}

/// Lines for people: time, step and text, harmless on a terminal.
fn text(lines: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut out = Vec::with_capacity(lines.len() / 2);
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(entry) = serde_json::from_slice::<LogEntry>(line) else { continue };
        let at = timestamp::to_string(entry.at);
        let step = entry
            .step
            .map_or_else(String::new, |step| format!("{} | ", crate::telemetry::printable::printable(&step)));
        let text = crate::telemetry::printable::with_colours(&entry.text);
        // Writing to memory cannot fail.
        let _ = writeln!(out, "{at} {step}{text}");
    }
    out
}
