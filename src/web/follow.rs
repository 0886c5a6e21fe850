//! Following a log live, as server-sent events (WHATWG HTML, "Server-sent events").
//!
//! A follower is a cursor on the stored log: it reads what is there, then sleeps until it is woken. One who
//! reads slowly lags behind and loses nothing; one who comes back says where it was.

use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use super::db::logs::LogId;
use super::log::filter::Matcher;
use super::log::read::find;
use super::refusal::Refusal;
use super::service::Timeline;
use crate::event::deploy::BuildId;
use crate::publish::name::Namespace;
use crate::timeline::protocol::{AttemptId, Build, DeployState};

/// Lines read at a time.
const LINES: usize = 1000;
/// How often a comment is sent while nothing happens, so that proxies keep the connection, and a lease
/// that has run out is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long one connection lasts. The browser comes back by itself, and is asked anew who it is.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What is followed.
#[derive(Debug, Clone)]
pub(super) enum Followed {
    /// The attempt that counts, and those that take its place; or one attempt `only`.
    Build {
        id: BuildId,
        only: Option<AttemptId>,
    },
    Deploy {
        namespace: Namespace,
        id: String,
    },
}

/// What a follower is told of it.
#[derive(Clone)]
pub(super) enum Told {
    /// The entries that match.
    Entries(Arc<Matcher>),
    /// How many entries there are: a page reads those that are in sight.
    Growth,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The attempt whose log it reads; a deploy has none.
    pub attempt: Option<AttemptId>,
    /// The seq of the next entry.
    pub next: u64,
}

impl Cursor {
    /// Where a follower was that comes back: `Last-Event-ID` is `attempt:seq`, or `seq` alone.
    pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let Some(value) = headers.get("last-event-id") else { return Ok(None) };
        let read = || {
            let text = value.to_str().ok()?;
            let (attempt, seq) = match text.rsplit_once(':') {
                Some((attempt, seq)) => (Some(attempt.parse().ok()?), seq),
                None => (None, text),
            };
            Some(Self { attempt, next: seq.parse::<u64>().ok()?.checked_add(1)? })
        };
        let refused =
            || Refusal::Malformed("Last-Event-ID: that is not the id of an event of a log".to_owned());
        read().map(Some).ok_or_else(refused)
    }
}

/// The answer to a follower, or that there is no room for one more.
pub(super) fn events(timeline: Arc<Timeline>, followed: Followed, cursor: Cursor, told: Told) -> Response {
    let Ok(place) = timeline.followers.clone().try_acquire_owned() else {
        let detail = "too many follow a log already, for timeline.max_connections; read it, or try again";
        // Kept open for a next request, the connection would be one of those that it is refused for.
        let close = [(header::CONNECTION, HeaderValue::from_static("close"))];
        return (close, Refusal::Unavailable(detail.to_owned())).into_response();
    };
    let stream = match followed {
        Followed::Build { id, only } => build(timeline, id, only, cursor, told).left_stream(),
        Followed::Deploy { namespace, id } => deploy(timeline, namespace, id, cursor, told).right_stream(),
    };
    // The place goes with the stream.
    let body = Body::from_stream(stream.inspect(move |_| _ = &place));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would collect what it should pass on.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

type Piece = Result<Bytes, Refusal>;

fn build(
    timeline: Arc<Timeline>,
    id: BuildId,
    only: Option<AttemptId>,
    mut cursor: Cursor,
    told: Told,
) -> impl Stream<Item = Piece> + Send {
    try_stream! {
        let mut changes = timeline.live.follow(id.as_str());
        let end = Instant::now() + LIFETIME;
        let mut shown: Option<Build> = None;
        loop {
            // Before the build is read: a change from here on wakes again.
            changes.mark_unchanged();
            let Some(row) = timeline.database.build(&id).await? else { return };
            let build = row.shown(&timeline.base, OffsetDateTime::now_utc());
            if shown.as_ref().is_none_or(|shown| differs(shown, &build)) {
                yield event("state", &json(&build));
            }
            // Read before the log, as the build was: of what has ended now, all of the log is there.
            let current = build.attempt;
            let over = match only {
                Some(only) => has_ended(&timeline, &id, only).await?,
                None => build.state.is_final(),
            };
            shown = Some(build);
            cursor.attempt = cursor.attempt.or(only).or(current);
            if let Some(attempt) = cursor.attempt {
                let log = LogId::of_attempt(attempt);
                while let Some(news) = news(&timeline, &log, &mut cursor, &told).await? {
                    yield news;
                }
            }
            if only.is_none() && cursor.attempt != current {
                cursor = Cursor { attempt: current, next: 0 };
                continue;
            }
            if over {
                yield event("end", "{}");
                return;
            }
            match woken(&mut changes, &timeline, end).await {
                Wake::Changed => {}
                Wake::Quiet => yield Bytes::from_static(b": still here\n\n"),
                Wake::Over => return,
            }
        }
    }
}

/// What is new in a log; none where all that is stored has been told.
async fn news(
    timeline: &Timeline,
    log: &LogId,
    cursor: &mut Cursor,
    told: &Told,
) -> Result<Option<Bytes>, Refusal> {
    match told {
        Told::Entries(matcher) => {
            let found = find(&timeline.database, log, cursor.next..u64::MAX, LINES, matcher).await?;
            cursor.next = found.next;
            Ok((found.count > 0).then(|| entries(&found.lines, cursor.attempt)))
        }
        Told::Growth => {
            let stored = timeline.database.log_state(log).await?.next_seq;
            let grown = stored > cursor.next;
            cursor.next = cursor.next.max(stored);
            Ok(grown.then(|| growth(stored, cursor.attempt)))
        }
    }
}

/// That a log has `stored` entries now.
fn growth(stored: u64, attempt: Option<AttemptId>) -> Bytes {
    let prefix = attempt.map_or_else(String::new, |attempt| format!("{attempt}:"));
    let data = serde_json::json!({"attempt": attempt, "next_seq": stored});
    Bytes::from(format!("event: grown\nid: {prefix}{}\ndata: {data}\n\n", stored - 1))
}

/// Why a follower goes on.
enum Wake {
    Changed,
    /// Nothing has happened for a while.
    Quiet,
    /// The service stops, or the connection has lasted long enough.
    Over,
}

async fn woken(changes: &mut watch::Receiver<()>, timeline: &Timeline, end: Instant) -> Wake {
    tokio::select! {
        _ = changes.changed() => Wake::Changed,
        () = timeline.stop.cancelled() => Wake::Over,
        () = tokio::time::sleep_until(end) => Wake::Over,
        () = tokio::time::sleep(KEEP_ALIVE) => Wake::Quiet,
    }
}

/// Whether nothing more comes of an attempt.
async fn has_ended(timeline: &Timeline, id: &BuildId, attempt: AttemptId) -> Result<bool, Refusal> {
    let attempts = timeline.database.attempts(id).await?;
    let found = attempts.iter().find(|known| known.id == attempt);
    Ok(found.is_none_or(|attempt| attempt.ended_at.is_some() || attempt.fenced))
}

fn deploy(
    timeline: Arc<Timeline>,
    namespace: Namespace,
    id: String,
    mut cursor: Cursor,
    told: Told,
) -> impl Stream<Item = Piece> + Send {
    try_stream! {
        cursor.attempt = None;
        let log = LogId::of_deploy(namespace.as_str(), &id);
        let mut changes = timeline.live.follow(&log.to_string());
        let end = Instant::now() + LIFETIME;
        let mut shown = None;
        loop {
            changes.mark_unchanged();
            let Some(row) = timeline.database.deploy(&namespace, &id).await? else { return };
            if shown.as_ref() != Some(&row.report) {
                yield event("state", &json(&row.report));
            }
            let finished = matches!(row.report.state, DeployState::Done | DeployState::Failed | DeployState::Cancelled);
            shown = Some(row.report);
            while let Some(news) = news(&timeline, &log, &mut cursor, &told).await? {
                yield news;
            }
            if finished {
                yield event("end", "{}");
                return;
            }
            match woken(&mut changes, &timeline, end).await {
                Wake::Changed => {}
                Wake::Quiet => yield Bytes::from_static(b": still here\n\n"),
                Wake::Over => return,
            }
        }
    }
}

/// Whether a follower should be told. That a worker was heard of again is no news.
fn differs(shown: &Build, build: &Build) -> bool {
    let shown = Build { heard_at: build.heard_at, ..shown.clone() };
    shown != *build
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// One event. JSON has no line feeds, so that the data is one line.
fn event(name: &str, data: &str) -> Bytes {
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

/// An event for each stored line.
fn entries(lines: &[u8], attempt: Option<AttemptId>) -> Bytes {
    let prefix = attempt.map_or_else(String::new, |attempt| format!("{attempt}:"));
    let mut out = Vec::with_capacity(lines.len() * 2);
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        out.extend_from_slice(b"event: entry\nid: ");
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(seq(line));
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
        out.extend_from_slice(b"\n\n");
    }
    Bytes::from(out)
}

/// The digits of a stored line's seq, its first field.
fn seq(line: &[u8]) -> &[u8] {
    let digits = line.strip_prefix(b"{\"seq\":").unwrap_or_default();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    &digits[..end]
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
