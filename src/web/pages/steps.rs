//! From log entries to what a page shows: consecutive lines of one step under one heading.
//!
//! Parallel steps take turns; each turn has its own heading, so that the numbers of the lines run on.
//! Lines without a step, which are mostly BuildGrid's own, stand between the headings.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::ansi::{self, Piece};
use super::icons::Icon;
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::entry::{LogEntry, Stream};
use crate::web::log::outline::End;

/// A line, as it is shown.
pub(super) struct Line {
    /// Counts from 1: the seq and one.
    pub(super) number: u64,
    /// The time since the step began; of a line of no step, since the attempt did.
    pub(super) offset: String,
    /// `own` for BuildGrid's words, `fail` for the line that says that the step failed.
    pub(super) class: &'static str,
    /// `web·x2k4p`
    pub(super) origin: String,
    pub(super) pieces: Vec<Piece>,
}

/// Consecutive lines of one step.
pub(super) struct Run {
    /// None for lines of no step, which are not folded.
    pub(super) step: Option<StepName>,
    pub(super) open: bool,
    pub(super) end: Option<End>,
    /// The step on which the build failed.
    pub(super) failing: bool,
    /// The build is at it, as far as is known.
    pub(super) live: bool,
    pub(super) lines: Vec<Line>,
}

/// `[build 3/6] RUN make` in its two parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StepName {
    /// `[build 3/6] `, or nothing.
    pub(super) mark: String,
    pub(super) command: String,
}

/// What the page knows beside the entries.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// When the attempt began.
    pub(super) start: OffsetDateTime,
    /// The step on which the build failed.
    pub(super) failing: Option<&'a str>,
    pub(super) ended_badly: bool,
    /// The last entry is the newest there is, and more are awaited.
    pub(super) live: bool,
}

impl Run {
    pub(super) fn count(&self) -> String {
        words::lines(self.lines.len() as u64)
    }

    /// How long the step took, where its end is in sight.
    pub(super) fn took(&self) -> Option<&str> {
        match &self.end {
            Some(End::Done(took) | End::Failed(took)) => Some(took),
            _ => None,
        }
    }

    pub(super) fn cached(&self) -> bool {
        self.end == Some(End::Cached)
    }

    pub(super) fn icon(&self) -> Option<Icon> {
        match &self.end {
            _ if self.failing => Some(Icon::Failed),
            Some(End::Failed(_)) => Some(Icon::Failed),
            Some(End::Done(_)) => Some(Icon::Done),
            Some(End::Cached) => Some(Icon::Cached),
            Some(End::Cancelled) => Some(Icon::Cancelled),
            None if self.live => Some(Icon::Live),
            None => None,
        }
    }

    /// The class of the icon's colour.
    pub(super) fn tone(&self) -> &'static str {
        match self.icon() {
            Some(Icon::Failed) => "bad",
            Some(Icon::Done) => "ok",
            Some(Icon::Live) => "live",
            _ => "quiet",
        }
    }
}

impl StepName {
    pub(super) fn new(step: &str) -> Self {
        let step = printable(step);
        let split = match step.find("] ") {
            Some(at) if step.starts_with('[') => at + 2,
            _ => 0,
        };
        let (mark, command) = step.split_at(split);
        Self { mark: mark.to_owned(), command: command.to_owned() }
    }
}

/// What a line says of its step's end, to be shown.
fn end_of(entry: &LogEntry) -> Option<End> {
    Some(match End::read(entry.stream, entry.step.as_deref(), &entry.text)? {
        End::Done(took) => End::Done(printable(&took)),
        End::Failed(took) => End::Failed(printable(&took)),
        end => end,
    })
}

/// Groups `entries`, and opens what is looked for first: the failing step, of a live log the last, and
/// one that has no others beside it.
pub(super) fn runs(
    entries: &[LogEntry],
    around: Around<'_>,
    begun: impl Fn(&str) -> Option<OffsetDateTime>,
) -> Vec<Run> {
    let ends: HashMap<&str, End> =
        entries.iter().filter_map(|entry| Some((entry.step.as_deref()?, end_of(entry)?))).collect();
    let mut runs: Vec<Run> =
        entries.chunk_by(|a, b| a.step == b.step).map(|chunk| run(chunk, &ends, around, &begun)).collect();
    if around.live
        && let Some(last) = runs.last_mut()
    {
        last.live = last.end.is_none();
        last.open = true;
    }
    if let [only] = runs.as_mut_slice() {
        only.open = true;
    }
    let failing = runs.iter().rposition(|run| run.failing);
    let fallback = || runs.iter().rposition(|run| run.step.is_some());
    if around.ended_badly
        && let Some(at) = failing.or_else(fallback)
    {
        runs[at].open = true;
    }
    runs
}

fn run(
    chunk: &[LogEntry],
    ends: &HashMap<&str, End>,
    around: Around<'_>,
    begun: &impl Fn(&str) -> Option<OffsetDateTime>,
) -> Run {
    let step = chunk[0].step.as_deref();
    let start = step.map_or(around.start, |step| begun(step).unwrap_or(chunk[0].at));
    Run {
        open: step.is_none(),
        end: step.and_then(|step| ends.get(step).cloned()),
        failing: step.is_some() && step == around.failing,
        live: false,
        lines: chunk.iter().map(|entry| line(entry, start)).collect(),
        step: step.map(StepName::new),
    }
}

fn line(entry: &LogEntry, start: OffsetDateTime) -> Line {
    let class = match end_of(entry) {
        Some(End::Failed(_)) => "fail",
        _ if entry.stream == Stream::Status => "own",
        _ => "",
    };
    Line {
        number: entry.seq + 1,
        offset: words::offset(entry.at - start),
        class,
        origin: origin(entry.service.as_deref(), entry.pod.as_deref()),
        pieces: ansi::pieces(&entry.text),
    }
}

/// A service and its pod, of which the end tells it from the others.
fn origin(service: Option<&str>, pod: Option<&str>) -> String {
    match (service, pod) {
        (Some(service), Some(pod)) => {
            printable(&format!("{service}·{}", pod.rsplit('-').next().unwrap_or(pod)))
        }
        (one, other) => one.or(other).map(printable).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const START: OffsetDateTime = datetime!(2026-11-23 10:00:00 UTC);
    const AROUND: Around<'_> = Around { start: START, failing: None, ended_badly: false, live: false };

    /// Every step began with the attempt.
    fn begun(_: &str) -> Option<OffsetDateTime> {
        Some(START)
    }

    fn entries(lines: &[(Option<&str>, Stream, &str)]) -> Vec<LogEntry> {
        let entry = |(seq, (step, stream, text)): (usize, &(Option<&str>, Stream, &str))| LogEntry {
            seq: seq as u64,
            at: START + time::Duration::milliseconds(100 * seq as i64),
            stream: *stream,
            step: step.map(str::to_owned),
            server: "worker-1".to_owned(),
            service: None,
            pod: None,
            text: (*text).to_owned(),
        };
        lines.iter().enumerate().map(entry).collect()
    }

    fn sample() -> Vec<LogEntry> {
        let (a, b) = (Some("[a 1/2] RUN x"), Some("[b 1/1] COPY y"));
        entries(&[
            (None, Stream::Status, "attempt 1 on worker-1"),
            (a, Stream::Status, "started"),
            (b, Stream::Status, "cached"),
            (a, Stream::Stdout, "cc"),
            (a, Stream::Status, "failed after 1.2 s: exit code: 1"),
            (None, Stream::Status, "failed: step [a 1/2] RUN x: exit code 1"),
        ])
    }

    fn shape(runs: &[Run]) -> Vec<(usize, bool, Option<Icon>)> {
        runs.iter().map(|run| (run.lines.len(), run.open, run.icon())).collect()
    }

    #[test]
    fn consecutive_lines_of_a_step_stand_under_one_heading() {
        let runs = runs(&sample(), AROUND, begun);
        let failed = Some(Icon::Failed);
        assert_eq!(
            shape(&runs),
            [
                (1, true, None),
                (1, false, failed),
                (1, false, Some(Icon::Cached)),
                (2, false, failed),
                (1, true, None)
            ]
        );
        assert_eq!(runs[1].step, Some(StepName { mark: "[a 1/2] ".into(), command: "RUN x".into() }));
        assert_eq!(runs[3].took(), Some("1.2 s"));
        let numbers: Vec<u64> =
            runs.iter().flat_map(|run| run.lines.iter().map(|line| line.number)).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        assert_eq!((runs[3].lines[0].offset.as_str(), runs[3].lines[1].class), ("0.3 s", "fail"));
    }

    #[test]
    fn the_failing_step_is_open() {
        let around = Around { failing: Some("[a 1/2] RUN x"), ended_badly: true, ..AROUND };
        let open: Vec<bool> = runs(&sample(), around, begun).iter().map(|run| run.open).collect();
        assert_eq!(open, [true, false, false, true, true]);
        let around = Around { ended_badly: true, ..AROUND };
        assert!(runs(&sample(), around, begun)[3].open, "without a step to blame, the last one");
    }

    #[test]
    fn of_a_live_log_the_last_step_is_open() {
        let entries = &sample()[..4];
        let runs = runs(entries, Around { live: true, ..AROUND }, begun);
        assert_eq!(shape(&runs)[3], (1, true, Some(Icon::Live)));
        assert_eq!(shape(&runs)[1], (1, false, None));
    }

    #[test]
    fn names_of_steps_may_be_anything() {
        for (step, mark) in [("exporting", ""), ("[x", ""), ("[] y", "[] "), ("", ""), ("a] b", "")] {
            assert_eq!(StepName::new(step).mark, mark);
        }
    }
}
