//! What is asked of a log: which lines, in which form, and where the next page is.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, header};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::parameter;
use crate::timeline::protocol::{AttemptId, NDJSON};
use crate::web::log::filter::{Filter, Matcher, stream};
use crate::web::refusal::Refusal;

/// The most lines of one page.
const MAX_LINES: usize = 20_000;
/// Which lines to read. Every condition that is given must hold.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogQuery {
    /// Of a build: the attempt whose log it is; by default the one that counts.
    pub attempt: Option<String>,
    /// Of a deploy: its namespace, where more than one has a deploy of this id.
    pub namespace: Option<String>,
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
    /// Only entries before this seq.
    pub before: Option<u64>,
    /// How many lines at most, 1 to 20000, and about 8 MiB; without it, all of them. The header `link` names
    /// the next page.
    pub limit: Option<usize>,
    /// ndjson or text, whatever `Accept` says.
    pub format: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Ndjson,
    Text,
    Events,
}

impl LogQuery {
    pub(super) fn matcher(&self) -> Result<Arc<Matcher>, Refusal> {
        let stream = self.stream.as_deref().map(stream).transpose().map_err(Refusal::Malformed)?;
        let filter = Filter {
            server: self.server.clone(),
            service: self.service.clone(),
            pod: self.pod.clone(),
            step: self.step.clone(),
            stream,
            q: self.q.clone(),
        };
        filter.compile().map(Arc::new).map_err(Refusal::Malformed)
    }

    pub(super) fn attempt(&self) -> Result<Option<AttemptId>, Refusal> {
        self.attempt.as_deref().map(|text| parameter("attempt", text, "an attempt's id")).transpose()
    }

    /// Refuses a parameter that is of the other kind of log.
    fn without(name: &str, value: &Option<String>) -> Result<(), Refusal> {
        match value {
            None => Ok(()),
            Some(_) => Err(Refusal::Malformed(format!("{name}: this log has none"))),
        }
    }

    /// As of a build's log.
    pub(super) fn of_build(self) -> Result<Self, Refusal> {
        Self::without("namespace", &self.namespace).map(|()| self)
    }

    /// As of a deploy's log.
    pub(super) fn of_deploy(self) -> Result<Self, Refusal> {
        Self::without("attempt", &self.attempt).map(|()| self)
    }

    pub(super) fn from(&self) -> u64 {
        self.after.map_or(0, |after| after.saturating_add(1))
    }

    /// The seqs that are asked for.
    pub(super) fn within(&self) -> Range<u64> {
        self.from()..self.before.unwrap_or(u64::MAX)
    }

    pub(super) fn limit(&self) -> Result<Option<usize>, Refusal> {
        match self.limit {
            None => Ok(None),
            Some(limit @ 1..=MAX_LINES) => Ok(Some(limit)),
            Some(limit) => Err(Refusal::Malformed(format!("limit: {limit}; 1 to {MAX_LINES} are taken"))),
        }
    }

    pub(super) fn format(&self, headers: &HeaderMap) -> Result<Format, Refusal> {
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

    /// The header that names the next page (RFC 8288).
    pub(super) fn next_page(&self, path: &str, next: u64) -> String {
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
        if let Some(before) = self.before {
            query.append_pair("before", &before.to_string());
        }
        query.append_pair("after", &next.saturating_sub(1).to_string());
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        format!("<{path}?{}>; rel=\"next\"", query.finish())
    }
}
