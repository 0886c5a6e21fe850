//! The pages that have a log: `/builds/<id>` and `/deploys/<id>`.

use std::ops::ControlFlow;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{Asked, Fault, Named, Visitor, asked, named};
use crate::timeline::entry::LogEntry;
use crate::web::api::{self, builds, deploys};
use crate::web::db::logs::LogId;
use crate::web::log::filter::{Filter, Matcher, stream};
use crate::web::log::read::{find, outlines};
use crate::web::pages::{self, BuildQuery, LogFilters, LogPart, LogSums};
use crate::web::refusal::Refusal;
use crate::web::service::Timeline;

/// A page ends with the line that makes its log larger, in bytes: a browser has to show it.
const PAGE: usize = 1 << 20;

pub(super) async fn of_build(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<String>,
    query: Asked<BuildQuery>,
    filters: Asked<LogFilters>,
) -> Result<Response, Fault> {
    let (id, query, filters) = (named(path)?, asked(query)?, asked(filters)?);
    let detail = builds::detail(&timeline, &visitor.0, &api::build_id(&id)?).await?;
    let wanted = query.attempt.or(detail.build.attempt);
    let attempt = detail.attempts.iter().find(|attempt| Some(attempt.id) == wanted);
    if let (Some(named), None) = (query.attempt, attempt) {
        return Err(Fault(Refusal::NotFound(format!("attempt {named} at build {id}"))));
    }
    let part = match attempt {
        None => Part::default(),
        Some(attempt) => {
            let from = pages::first_entry(query.from, &filters, &detail.build, attempt);
            Part::read(&timeline, &LogId::of_attempt(attempt.id), &filters, from).await?
        }
    };
    let reported = match &detail.build.deploy_id {
        Some(deploy) => timeline.database.deploy(&detail.build.namespace, deploy).await?.is_some(),
        None => false,
    };
    let now = OffsetDateTime::now_utc();
    let part = part.with(&filters);
    Ok(pages::build(&visitor.viewer(), &detail, attempt, reported, part, now).into_response())
}

#[derive(Deserialize)]
pub(super) struct DeployQuery {
    /// The deploy's namespace, where more than one has a deploy of this id.
    namespace: Option<String>,
    from: Option<u64>,
}

pub(super) async fn of_deploy(
    State(timeline): State<Arc<Timeline>>,
    visitor: Visitor,
    path: Named<String>,
    query: Asked<DeployQuery>,
    filters: Asked<LogFilters>,
) -> Result<Response, Fault> {
    let (id, query, filters) = (named(path)?, asked(query)?, asked(filters)?);
    let deploy = deploys::detail(&timeline, &visitor.0, id, query.namespace).await?;
    let log = LogId::of_deploy(deploy.report.namespace.as_str(), &deploy.id);
    let from = query.from.map_or(0, |line| line.saturating_sub(1));
    let part = Part::read(&timeline, &log, &filters, from).await?;
    let now = OffsetDateTime::now_utc();
    Ok(pages::deploy(&visitor.viewer(), &deploy, part.with(&filters), now).into_response())
}

/// What a page shows of a log.
#[derive(Default)]
struct Part {
    entries: Vec<LogEntry>,
    more: bool,
    sums: LogSums,
    removed: Option<OffsetDateTime>,
}

impl Part {
    /// The lines from the entry `from` on, as many as a page has, and the sums of all.
    async fn read(timeline: &Timeline, log: &LogId, filters: &LogFilters, from: u64) -> Result<Self, Fault> {
        let removed = timeline.database.log_state(log).await?.removed_at;
        let fields = matcher(filters, false)?;
        let mut sums = LogSums::default();
        let take = |block| {
            sums.add(&block);
            ControlFlow::Continue(())
        };
        outlines(&timeline.database, log, 0..u64::MAX, &fields, take).await.map_err(Refusal::from)?;
        let wanted = matcher(filters, true)?;
        let most = usize::try_from(pages::LINES).unwrap_or(usize::MAX);
        let (mut entries, mut from, mut bytes) = (Vec::new(), from, 0);
        loop {
            let room = most - entries.len();
            let found = find(&timeline.database, log, from..u64::MAX, room, &wanted).await;
            let found = found.map_err(Refusal::from)?;
            let lines = found.lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
            // Each was an entry when it was stored.
            entries.extend(lines.filter_map(|line| serde_json::from_slice::<LogEntry>(line).ok()));
            (from, bytes) = (found.next, bytes + found.lines.len());
            if !found.more || entries.len() >= most || bytes >= PAGE {
                return Ok(Self { entries, more: found.more, sums, removed });
            }
        }
    }

    fn with<'a>(&'a self, filters: &'a LogFilters) -> LogPart<'a> {
        LogPart { entries: &self.entries, more: self.more, filters, sums: &self.sums, removed: self.removed }
    }
}

fn matcher(filters: &LogFilters, words: bool) -> Result<Arc<Matcher>, Refusal> {
    let stream = filters.stream.as_deref().map(stream).transpose().map_err(Refusal::Malformed)?;
    let filter = Filter {
        server: filters.server.clone(),
        service: filters.service.clone(),
        pod: filters.pod.clone(),
        step: filters.step.clone(),
        stream,
        q: filters.q.clone().filter(|_| words),
    };
    filter.compile().map(Arc::new).map_err(Refusal::Malformed)
}
