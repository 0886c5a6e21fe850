//! Logs of attempts and deploys: appending, reading a range, filtering, downloading, following.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::attempts::addressed;
use super::deploys::{self, visible_deploy};
use super::extract::{Json, Parameter, Parameters, body, build_id, parameter};
use crate::timeline::entry::{LogEntry, Stream, timestamp};
use crate::timeline::protocol::{AttemptId, MAX_APPEND, NDJSON, Problem, Progress};
use crate::web::access::{Principal, Scope};
use crate::web::api::builds;
use crate::web::claims;
use crate::web::db::logs::{self, Appended, LogId};
use crate::web::follow::{self, Cursor, Followed};
use crate::web::log::batch::{Batch, BatchError, Encoding};
use crate::web::log::filter::{Filter, Matcher};
use crate::web::log::read::{self, Found};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// The most lines of one page.
const MAX_LINES: usize = 20_000;
/// A page ends with the line that makes it larger, in bytes: it is made in memory, and a line may have 64 KiB.
const PAGE: usize = 8 << 20;

/// Which lines to read. Every condition that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::web) struct LogQuery {
    /// The attempt whose log it is; by default the one that counts.
    pub attempt: Option<String>,
    pub server: Option<String>,
    /// Lines of this service, and those of none, which belong to every service.
    pub service: Option<String>,
    pub pod: Option<String>,
    pub step: Option<String>,
    /// stdout, stderr or status.
    pub stream: Option<String>,
    /// Words that the text has, whatever their case.
    pub q: Option<String>,
    /// Only entries after this seq.
    pub after: Option<u64>,
    /// How many lines at most, 1 to 20000, and about 8 MiB; without it, all of them. The header `link` names
    /// the next page.
    pub limit: Option<usize>,
    /// ndjson or text, whatever `Accept` says.
    pub format: Option<String>,
    /// The namespace that a deploy was asked for with, for the next page's address.
    #[serde(skip)]
    pub namespace: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Ndjson,
    Text,
    Events,
}

impl LogQuery {
    fn matcher(&self) -> Result<Arc<Matcher>, Refusal> {
        let stream = self.stream.as_deref().map(|stream| {
            serde_json::from_value::<Stream>(stream.into()).map_err(|_| {
                Refusal::Malformed(format!("stream: {stream:.80?} is not stdout, stderr or status"))
            })
        });
        let filter = Filter {
            server: self.server.clone(),
            service: self.service.clone(),
            pod: self.pod.clone(),
            step: self.step.clone(),
            stream: stream.transpose()?,
            q: self.q.clone(),
        };
        filter.compile().map(Arc::new).map_err(Refusal::Malformed)
    }

    fn attempt(&self) -> Result<Option<AttemptId>, Refusal> {
        self.attempt.as_deref().map(|text| parameter("attempt", text, "an attempt's id")).transpose()
    }

    fn from(&self) -> u64 {
        self.after.map_or(0, |after| after.saturating_add(1))
    }

    fn limit(&self) -> Result<Option<usize>, Refusal> {
        match self.limit {
            None => Ok(None),
            Some(limit @ 1..=MAX_LINES) => Ok(Some(limit)),
            Some(limit) => Err(Refusal::Malformed(format!("limit: {limit}; 1 to {MAX_LINES} are taken"))),
        }
    }

    fn format(&self, headers: &HeaderMap) -> Result<Format, Refusal> {
        match self.format.as_deref() {
            Some("ndjson") => return Ok(Format::Ndjson),
            Some("text") => return Ok(Format::Text),
            Some(other) => {
                return Err(Refusal::Malformed(format!("format: {other:.80?} is not ndjson or text")));
            }
            None => {}
        }
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let first = accept.split(',').map(|part| part.split(';').next().unwrap_or_default().trim());
        for media in first {
            match media {
                "text/event-stream" => return Ok(Format::Events),
                "text/plain" => return Ok(Format::Text),
                NDJSON => return Ok(Format::Ndjson),
                _ => {}
            }
        }
        Ok(Format::Ndjson)
    }
}

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

/// Read or follow the log of a build
///
/// NDJSON, or text, or, with `Accept: text/event-stream`, live: events `entry` (id `attempt:seq`, data a log
/// entry), `state` (data the build) and `end`. A reader that comes back with `Last-Event-ID` misses nothing.
#[utoipa::path(get, path = "/builds/{id}/log", params(("id" = String, Path), LogQuery), tag = "builds", responses(
    (status = 200, body = LogEntry, content_type = "application/x-ndjson"),
    (status = 200, body = String, content_type = "text/plain"),
    (status = 200, body = String, content_type = "text/event-stream"),
    (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none"),
    (status = 404, body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "Too many follow a log already"),
))]
pub(super) async fn of_build(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<LogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    principal.must(Scope::Read)?;
    let row = builds::visible(&timeline, &principal, &build_id(&id)?).await?;
    let (matcher, format, asked) = (query.matcher()?, query.format(&headers)?, query.attempt()?);
    let build = row.build;
    let last = match format {
        Format::Events => Cursor::last_event(&headers)?,
        Format::Ndjson | Format::Text => None,
    };
    // A log is found by its attempt alone: one that is not this build's may be another namespace's.
    let named = last.and_then(|last| last.attempt);
    if asked.is_some() || named.is_some() {
        let attempts = timeline.database.attempts(&build.id).await?;
        let known = |named: &AttemptId| attempts.iter().any(|attempt| attempt.id == *named);
        if let Some(foreign) = asked.into_iter().chain(named).find(|named| !known(named)) {
            return Err(Refusal::NotFound(format!("attempt {foreign} at build {id}")));
        }
    }
    if let (Some(asked), Some(named)) = (asked, named)
        && asked != named
    {
        let detail = format!("Last-Event-ID: that is an event of attempt {named}, not of {asked}");
        return Err(Refusal::Malformed(detail));
    }
    if format == Format::Events {
        let cursor = last.unwrap_or(Cursor { attempt: asked, next: query.from() });
        let followed = Followed::Build { id: build.id, only: asked };
        return follow::events(timeline, followed, cursor, matcher);
    }
    let Some(attempt) = asked.or(build.attempt) else {
        // No worker has it yet: an empty log.
        return Ok(content(format, Body::empty()));
    };
    answer(
        &timeline,
        LogId::of_attempt(attempt),
        format!("{}/builds/{id}/log", super::BASE),
        &query,
        format,
        matcher,
    )
    .await
}

/// Read or follow the log of a deploy
#[utoipa::path(get, path = "/deploys/{id}/log", tag = "deploys",
    params(("id" = String, Path), DeployLogQuery),
    responses(
        (status = 200, body = LogEntry, content_type = "application/x-ndjson"),
        (status = 200, body = String, content_type = "text/plain"),
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = 400, body = Problem, content_type = "application/problem+json", description = "A filter that is none"),
        (status = 404, body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json", description = "Too many follow a log already"),
    ))]
pub(super) async fn of_deploy(
    State(timeline): State<Arc<Timeline>>,
    principal: Principal,
    Parameter(id): Parameter<String>,
    Parameters(query): Parameters<DeployLogQuery>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    principal.must(Scope::Read)?;
    let whose = deploys::Whose { namespace: query.namespace.clone() };
    let deploy = visible_deploy(&timeline, &principal, &id, &whose).await?;
    let query = query.log();
    let (matcher, format) = (query.matcher()?, query.format(&headers)?);
    let namespace = deploy.report.namespace;
    if format == Format::Events {
        let cursor = match Cursor::last_event(&headers)? {
            Some(cursor) => cursor,
            None => Cursor { attempt: None, next: query.from() },
        };
        return follow::events(timeline, Followed::Deploy { namespace, id }, cursor, matcher);
    }
    let log = LogId::of_deploy(namespace.as_str(), &id);
    let id = percent_encoding::utf8_percent_encode(&id, percent_encoding::NON_ALPHANUMERIC);
    let path = format!("{}/deploys/{id}/log", super::BASE);
    answer(&timeline, log, path, &query, format, matcher).await
}

/// Which lines of a deploy's log to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeployLogQuery {
    /// The deploy's namespace, where more than one has a deploy of this id.
    namespace: Option<String>,
    server: Option<String>,
    /// Lines of this service, and those of none.
    service: Option<String>,
    pod: Option<String>,
    step: Option<String>,
    /// stdout, stderr or status.
    stream: Option<String>,
    /// Words that the text has, whatever their case.
    q: Option<String>,
    /// Only entries after this seq.
    after: Option<u64>,
    /// How many lines at most, 1 to 20000.
    limit: Option<usize>,
    /// ndjson or text.
    format: Option<String>,
}

impl DeployLogQuery {
    fn log(self) -> LogQuery {
        let Self { namespace, server, service, pod, step, stream, q, after, limit, format } = self;
        LogQuery { attempt: None, server, service, pod, step, stream, q, after, limit, format, namespace }
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
        let found = read::all(timeline.database.clone(), log, query.from(), matcher);
        let bytes = found.map_ok(move |found| Bytes::from(written(found, format)));
        let logged = bytes.inspect_err(|error| tracing::error!(%error, "a stored log cannot be read"));
        return Ok(content(format, Body::from_stream(logged)));
    };
    let (mut whole, mut from) = (Found::default(), query.from());
    loop {
        let found = read::find(&timeline.database, &log, from, limit - whole.count, &matcher).await?;
        from = found.next;
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

impl LogQuery {
    /// The header that names the next page (RFC 8288).
    fn next_page(&self, path: &str, next: u64) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in [
            ("namespace", &self.namespace),
            ("attempt", &self.attempt),
            ("server", &self.server),
            ("service", &self.service),
            ("pod", &self.pod),
            ("step", &self.step),
            ("stream", &self.stream),
            ("q", &self.q),
            ("format", &self.format),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.append_pair("after", &next.saturating_sub(1).to_string());
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        format!("<{path}?{}>; rel=\"next\"", query.finish())
    }
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
