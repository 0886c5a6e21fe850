//! Outlines: what a block has of each step, and where its lines come from. A page lays a log of any length
//! out, folds it and filters it by these, and reads only the lines that are in sight.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::filter::Filter;
use super::line::Line;
use crate::timeline::entry::Stream;
use crate::web::db::millis;

/// Steps that are told apart within a block. Lines of more belong to the last one that is: such a log is no
/// build's, and its outline must stay small all the same.
const MAX_PARTS: usize = 256;
/// Where lines of one part come from; with more, it is not said.
const MAX_ORIGINS: usize = 64;
/// What the names of steps, servers, services and pods of a block may take in its outline, in bytes: a build's are a
/// few hundred, and a log may have thousands of blocks. Beyond that no origin is told any more, and what follows a
/// new step belongs to the last part.
const MAX_NAMES: usize = 16 << 10;
/// Failing lines of a part that are listed.
const MAX_FAILED: usize = 32;

/// What became of a step, as its status line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind", content = "took")]
pub(in crate::web) enum End {
    Done(String),
    Cached,
    Failed(String),
    Cancelled,
}

impl End {
    /// What a line says of its step's end. These are the words of the engine's progress
    /// (`build/docker/progress.rs`); where they change, headings lose their icons and nothing else.
    pub(in crate::web) fn read(stream: Stream, step: Option<&str>, text: &str) -> Option<Self> {
        if stream != Stream::Status || step.is_none() {
            return None;
        }
        match (text.strip_prefix("done in "), text.strip_prefix("failed after ")) {
            (Some(took), _) => Some(Self::Done(took.to_owned())),
            (_, Some(rest)) => Some(Self::Failed(rest.split(':').next().unwrap_or_default().to_owned())),
            _ if text == "cached" => Some(Self::Cached),
            _ if text == "cancelled" => Some(Self::Cancelled),
            _ => None,
        }
    }
}

/// Where lines come from, and how many of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::web) struct Origin {
    pub server: String,
    pub service: Option<String>,
    pub pod: Option<String>,
    pub stream: Stream,
    pub lines: u64,
}

impl Origin {
    fn is_of(&self, line: &Seen<'_>) -> bool {
        self.server == line.server
            && self.service.as_deref() == line.service
            && self.pod.as_deref() == line.pod
            && self.stream == line.stream
    }

    fn matches(&self, filter: &Filter) -> bool {
        let is = |wanted: &Option<String>, value: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| value == Some(wanted))
        };
        is(&filter.server, Some(&self.server))
            && (self.service.is_none() || is(&filter.service, self.service.as_deref()))
            && is(&filter.pod, self.pod.as_deref())
            && filter.stream.is_none_or(|stream| stream == self.stream)
    }
}

/// The lines of one step within a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::web) struct Part {
    /// None: lines of no step, from the beginning of one step to that of the next.
    pub step: Option<String>,
    pub first_seq: u64,
    pub last_seq: u64,
    pub lines: u64,
    /// Milliseconds since the epoch.
    pub first_at: i64,
    pub last_at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// The seqs of the lines that say that the step failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<u64>,
    /// None where there are too many to list.
    pub origins: Option<Vec<Origin>>,
    /// There was no room for more parts: it has all lines of steps without one, and of none, that follow it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rest: bool,
}

impl Part {
    fn of(line: &Seen<'_>) -> Self {
        Self {
            step: line.step.map(str::to_owned),
            first_seq: line.seq,
            last_seq: line.seq,
            lines: 0,
            first_at: line.at,
            last_at: line.at,
            end: None,
            failed: Vec::new(),
            origins: Some(Vec::new()),
            rest: false,
        }
    }

    /// What its names take, in bytes.
    pub(in crate::web) fn names(&self) -> usize {
        let of = |name: &Option<String>| name.as_ref().map_or(0, String::len);
        let origins = self.origins.iter().flatten();
        let origins: usize =
            origins.map(|origin| origin.server.len() + of(&origin.service) + of(&origin.pod)).sum();
        of(&self.step) + origins
    }

    /// Counts a line, for whose origin there are so many bytes left.
    fn count(&mut self, line: &Seen<'_>, room: usize) {
        self.last_seq = line.seq;
        self.lines += 1;
        self.first_at = self.first_at.min(line.at);
        self.last_at = self.last_at.max(line.at);
        if let Some(end) = line.end {
            if matches!(end, End::Failed(_)) && self.failed.len() < MAX_FAILED {
                self.failed.push(line.seq);
            }
            self.end = Some(end.clone());
        }
        let Some(origins) = &mut self.origins else { return };
        match origins.iter().position(|origin| origin.is_of(line)) {
            Some(at) => origins[at].lines += 1,
            None if origins.len() == MAX_ORIGINS || line.origin_names() > room => self.origins = None,
            None => origins.push(Origin {
                server: line.server.to_owned(),
                service: line.service.map(str::to_owned),
                pod: line.pod.map(str::to_owned),
                stream: line.stream,
                lines: 1,
            }),
        }
    }

    /// How many of its lines match; none where only the lines can tell. Words are not asked for.
    pub(in crate::web) fn matching(&self, filter: &Filter) -> Option<u64> {
        if filter.step.is_some() && filter.step != self.step {
            return Some(0);
        }
        let Filter { server, service, pod, stream, .. } = filter;
        if server.is_none() && service.is_none() && pod.is_none() && stream.is_none() {
            return Some(self.lines);
        }
        let origins = self.origins.as_ref()?;
        Some(origins.iter().filter(|origin| origin.matches(filter)).map(|origin| origin.lines).sum())
    }
}

/// A line, as far as an outline is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub seq: u64,
    pub at: i64,
    pub step: Option<&'a str>,
    pub server: &'a str,
    pub service: Option<&'a str>,
    pub pod: Option<&'a str>,
    pub stream: Stream,
    pub end: Option<&'a End>,
}

impl Seen<'_> {
    fn origin_names(&self) -> usize {
        self.server.len() + self.service.map_or(0, str::len) + self.pod.map_or(0, str::len)
    }
}

/// What a block has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::web) struct Outline {
    /// In the order of their first lines.
    pub parts: Vec<Part>,
    /// What the names in it take, in bytes, while it grows.
    #[serde(skip)]
    names: Option<usize>,
}

impl PartialEq for Outline {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts
    }
}

impl Outline {
    /// That of stored lines. Blocking: it parses them.
    pub(in crate::web) fn of(raw: &[u8]) -> Self {
        let mut outline = Self::default();
        for line in raw.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            // Each was a line when it was stored.
            let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { continue };
            let end = End::read(line.stream, line.step.as_deref(), &line.text);
            outline.add(&Seen {
                seq: line.seq,
                at: millis(line.at),
                step: line.step.as_deref(),
                server: &line.server,
                service: line.service.as_deref(),
                pod: line.pod.as_deref(),
                stream: line.stream,
                end: end.as_ref(),
            });
        }
        outline
    }

    /// Counts the line that follows. A reader of the block finds the part of a line by the same rule.
    pub(super) fn add(&mut self, line: &Seen<'_>) {
        let names = self.names.unwrap_or_else(|| self.parts.iter().map(Part::names).sum());
        let room = MAX_NAMES.saturating_sub(names);
        let last = self.parts.len().checked_sub(1);
        let found = match line.step {
            Some(_) => self.parts.iter().rposition(|part| part.step.as_deref() == line.step),
            None => last.filter(|&last| self.parts[last].step.is_none()),
        };
        // The first part has room in any case.
        let is_full = self.parts.len() == MAX_PARTS || line.step.map_or(0, str::len) > room;
        let at = match (found, last) {
            (Some(at), _) => at,
            (None, Some(last)) if is_full || self.parts[last].rest => {
                self.parts[last].rest = true;
                last
            }
            (None, _) => {
                self.parts.push(Part::of(line));
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        let told = part.origins.as_ref().map(Vec::len);
        part.count(line, room);
        // Most lines come from where others have come from: then nothing has to be added up anew.
        let changed = part.lines == 1 || part.origins.as_ref().map(Vec::len) != told;
        self.names = (!changed).then_some(names);
    }

    /// The part that a line of the block is counted in.
    pub(super) fn part_of(&self, seq: u64, step: Option<&str>) -> usize {
        let last = self.parts.len().saturating_sub(1);
        // One of an earlier version does not say so; it had no room only with as many as there may be.
        let has_rest = self.parts.last().is_some_and(|part| part.rest) || self.parts.len() == MAX_PARTS;
        let found = match step {
            Some(_) => self.parts.iter().rposition(|part| part.step.as_deref() == step),
            None if has_rest && self.parts[last].first_seq <= seq => None,
            None => self.parts.iter().rposition(|part| part.step.is_none() && part.first_seq <= seq),
        };
        found.unwrap_or(last)
    }

    /// As the database keeps it.
    pub(in crate::web) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What cannot be read is made anew of the lines.
    pub(in crate::web) fn from_json(json: Option<&str>) -> Option<Self> {
        json.and_then(|json| serde_json::from_str(json).ok())
    }
}

#[cfg(test)]
#[path = "outline_tests.rs"]
mod tests;
