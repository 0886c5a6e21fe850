//! From BuildKit's messages (`moby.buildkit.v1.StatusResponse`) to log entries: pure, so that it is
//! tested on recorded builds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bollard::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog, VertexWarning};

use super::lines::Lines;
use crate::build::engine::EXCERPT_LINES;
use crate::timeline::entry::Stream;
use crate::timeline::mask::{Mask, Shown};
use crate::timeline::sink::Entry;

/// The longest line kept for a failure's excerpt, in bytes.
const MAX_EXCERPT_LINE: usize = 1024;
/// A step that is BuildKit's own business is only mentioned when it takes as long as this.
const WORTH_A_LINE: Duration = Duration::from_secs(1);
/// The longest name of a step, in bytes: what the timeline service takes.
const MAX_STEP: usize = 16 << 10;
/// How BuildKit's own mark begins where it has cut a step's output (util/progress/logs), by size or by speed.
const CLIPPED: &str = "[output clipped, log limit ";
const CLIPPED_REMEDY: &str = "the docker engine has cut this step's output; its operator can lift the limit with \
     BUILDKIT_STEP_LOG_MAX_SIZE=-1 and BUILDKIT_STEP_LOG_MAX_SPEED=-1 in the engine's environment";

/// What is known of a build's steps.
#[derive(Debug, Default)]
pub(super) struct Progress {
    mask: Mask,
    steps: Vec<Step>,
    by_vertex: HashMap<String, usize>,
}

/// A step that failed of its own, not because another one did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FailedStep {
    pub(super) name: String,
    pub(super) error: String,
    pub(super) excerpt: Vec<String>,
}

#[derive(Debug)]
struct Step {
    /// As BuildKit calls it, for what is read out of the name.
    name: String,
    /// As the log calls it.
    shown: Arc<str>,
    mask: Mask,
    started: bool,
    ended: bool,
    error: String,
    stdout: Lines,
    stderr: Lines,
    excerpt: VecDeque<String>,
    /// In how many places BuildKit has cut its output.
    clipped: usize,
}

impl Progress {
    /// Of a build whose log must not show what `mask` knows.
    pub(super) fn new(mask: &Mask) -> Self {
        Self { mask: mask.clone(), ..Self::default() }
    }

    /// Takes a message, and tells what it adds to the log.
    pub(super) fn update(&mut self, status: StatusResponse) -> Vec<Entry> {
        let mut entries = Vec::new();
        for vertex in &status.vertexes {
            self.begin(vertex, &mut entries);
        }
        for log in &status.logs {
            self.output(log, &mut entries);
        }
        for warning in &status.warnings {
            entries.push(self.warning(warning));
        }
        for vertex in status.vertexes {
            self.end(vertex, &mut entries);
        }
        entries
    }

    /// The lines that have begun and will not be ended any more.
    pub(super) fn finish(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for step in &mut self.steps {
            step.flush(&mut entries);
        }
        entries
    }

    /// The step to blame for `error`, with which the build has ended.
    pub(super) fn failed(&self, error: &str) -> Option<FailedStep> {
        let failed = || {
            self.steps
                .iter()
                .filter(|step| !step.error.is_empty() && !step.error.contains("context canceled"))
        };
        let step = failed().find(|step| error.contains(&step.error)).or_else(|| failed().next())?;
        Some(FailedStep {
            name: step.name.clone(),
            error: step.error.clone(),
            excerpt: step.excerpt.iter().cloned().collect(),
        })
    }

    fn begin(&mut self, vertex: &Vertex, entries: &mut Vec<Entry>) {
        let index = *self.by_vertex.entry(vertex.digest.clone()).or_insert_with(|| {
            self.steps.push(Step::new(&vertex.name, &self.mask));
            self.steps.len() - 1
        });
        let step = &mut self.steps[index];
        let at_once = vertex.cached && vertex.completed.is_some();
        if vertex.started.is_some() && !step.started {
            step.started = true;
            if !step.quiet() && !at_once {
                entries.push(step.status("started"));
            }
        }
    }

    fn output(&mut self, log: &VertexLog, entries: &mut Vec<Entry>) {
        // BuildKit names a vertex before it logs for it.
        let Some(&index) = self.by_vertex.get(&log.vertex) else { return };
        let step = &mut self.steps[index];
        let stream = if log.stream == 2 { Stream::Stderr } else { Stream::Stdout };
        let mut lines = std::mem::take(step.lines(stream));
        lines.push(&log.msg, &mut |text| step.line(stream, text, entries));
        *step.lines(stream) = lines;
    }

    fn warning(&self, warning: &VertexWarning) -> Entry {
        let mut text = format!("warning: {}", String::from_utf8_lossy(&warning.short));
        for detail in &warning.detail {
            text.push_str("; ");
            text.push_str(&String::from_utf8_lossy(detail));
        }
        if !warning.url.is_empty() {
            text.push_str(&format!(" ({})", warning.url));
        }
        let step = self.by_vertex.get(&warning.vertex).map(|index| self.steps[*index].shown.clone());
        Entry { stream: Stream::Status, step, text: self.mask.shown(&text.replace('\n', " ")) }
    }

    fn end(&mut self, vertex: Vertex, entries: &mut Vec<Entry>) {
        let Some(&index) = self.by_vertex.get(&vertex.digest) else { return };
        let step = &mut self.steps[index];
        // BuildKit tells the end of a vertex again whenever another part of the build comes to need it.
        if vertex.completed.is_none() || step.ended {
            return;
        }
        step.ended = true;
        step.flush(entries);
        step.tell_clipped(entries);
        let took = took(&vertex);
        let text = match (vertex.error.as_str(), took) {
            ("", _) if vertex.cached => "cached".to_owned(),
            ("", took) => format!("done in {:.1} s", took.as_secs_f64()),
            (error, _) if error.contains("context canceled") => "cancelled".to_owned(),
            (error, took) => format!("failed after {:.1} s: {error}", took.as_secs_f64()),
        };
        if !step.quiet() || !vertex.error.is_empty() || took >= WORTH_A_LINE {
            entries.push(step.status(&text));
        }
        step.error = vertex.error;
    }
}

impl Step {
    fn new(name: &str, mask: &Mask) -> Self {
        let mut shown = mask.shown(&name.replace('\n', " ")).plain();
        shown.truncate(shown.floor_char_boundary(MAX_STEP));
        Self {
            name: name.to_owned(),
            shown: shown.into(),
            mask: mask.clone(),
            started: false,
            ended: false,
            error: String::new(),
            stdout: Lines::new(mask.clone()),
            stderr: Lines::new(mask.clone()),
            excerpt: VecDeque::new(),
            clipped: 0,
        }
    }

    /// BuildKit's own business, which helps nobody as long as it works.
    fn quiet(&self) -> bool {
        self.name.starts_with("[internal]") || self.name == "copy /context /"
    }

    fn status(&self, text: &str) -> Entry {
        Entry { stream: Stream::Status, step: Some(self.shown.clone()), text: self.mask.shown(text) }
    }

    fn lines(&mut self, stream: Stream) -> &mut Lines {
        if stream == Stream::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    fn line(&mut self, stream: Stream, text: Shown, entries: &mut Vec<Entry>) {
        if self.excerpt.len() == EXCERPT_LINES {
            self.excerpt.pop_front();
        }
        let mut line = text.plain();
        line.truncate(line.floor_char_boundary(MAX_EXCERPT_LINE));
        let limit = clip_limit(&line).map(str::to_owned);
        self.excerpt.push_back(line);
        entries.push(Entry { stream, step: Some(self.shown.clone()), text });
        if let Some(limit) = limit {
            self.clipped += 1;
            if self.clipped == 1 {
                entries.push(self.status(&format!("{CLIPPED_REMEDY} (it is {limit} now)")));
            }
        }
    }

    /// At a step's end, in how many places its output was cut, where that is not seen already. How much is
    /// missing BuildKit does not tell.
    fn tell_clipped(&self, entries: &mut Vec<Entry>) {
        if self.clipped > 1 {
            let places = self.clipped;
            entries.push(self.status(&format!(
                "the docker engine has cut this step's output in {places} places; it does not tell how much is missing"
            )));
        }
    }

    fn flush(&mut self, entries: &mut Vec<Entry>) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let mut lines = std::mem::take(self.lines(stream));
            lines.finish(&mut |text| self.line(stream, text, entries));
        }
    }
}

/// The limit that BuildKit's mark names: `200KiB/s` for one of speed, after which output goes on where it is
/// slower, `2MiB` for one of size, after which nothing more comes of the step's stream.
fn clip_limit(line: &str) -> Option<&str> {
    line.strip_prefix(CLIPPED)?.strip_suffix(" reached]")
}

fn took(vertex: &Vertex) -> Duration {
    let (Some(started), Some(completed)) = (&vertex.started, &vertex.completed) else {
        return Duration::ZERO;
    };
    let nanos = |seconds: i64, nanos: i32| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let took = nanos(completed.seconds, completed.nanos) - nanos(started.seconds, started.nanos);
    Duration::from_nanos(u64::try_from(took).unwrap_or(0))
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
