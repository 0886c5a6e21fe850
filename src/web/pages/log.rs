//! The part of a log that a page shows, and what it says of the rest.

use serde::Deserialize;
use time::OffsetDateTime;

use super::query::address;
use super::state;
use super::steps::{self, Around, Run};
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::entry::{LogEntry, timestamp};
use crate::timeline::protocol::{Attempt, AttemptId, Build, BuildState};

/// The most lines that one page shows: what a browser lays out at once without a pause that is felt.
pub const LINES: u64 = 5_000;

/// The query of a build's page.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct BuildQuery {
    /// Whose log is shown: the attempt that counts, unless another is named.
    pub attempt: Option<AttemptId>,
    /// The number of the first line, counted from 1; see [`first_entry`].
    pub from: Option<u64>,
}

/// A part of the log of one attempt.
#[derive(Debug, Clone, Copy)]
pub struct LogPart<'a> {
    /// Whose log it is; none while no worker has the build.
    pub attempt: Option<&'a Attempt>,
    /// At most [`LINES`] entries, without a gap.
    pub entries: &'a [LogEntry],
}

/// The seq of the first entry that a page shows, whose address names the line `from` (counted from 1)
/// or none: then it is the beginning of a published build's log, and of any other's the end.
pub fn first_entry(from: Option<u64>, build: &Build, attempt: &Attempt) -> u64 {
    match from {
        Some(line) => line.saturating_sub(1),
        None if build.state == BuildState::Published => 0,
        None => attempt.entries.saturating_sub(LINES),
    }
}

/// A link to another part, and what is there.
pub(super) struct Other {
    pub(super) href: String,
    pub(super) words: String,
}

pub(super) struct LogView {
    pub(super) runs: Vec<Run>,
    pub(super) earlier: Option<Other>,
    pub(super) later: Option<Other>,
    /// How many lines there are.
    pub(super) count: String,
    /// What is known of the lines that are not there.
    pub(super) rest: String,
    pub(super) text: String,
    pub(super) ndjson: String,
    /// Where the script goes on, if the page ends where the log does and more may come.
    pub(super) stream: Option<Stream>,
    /// What the script needs for its own lines.
    pub(super) start: String,
}

pub(super) struct Stream {
    pub(super) href: String,
    pub(super) attempt: String,
    /// The seq of the last entry on the page.
    pub(super) after: Option<u64>,
}

impl LogView {
    pub(super) fn new(build: &Build, part: LogPart<'_>, now: OffsetDateTime) -> Self {
        let counts = part.attempt.map(|attempt| attempt.id) == build.attempt;
        let stored = part.attempt.map_or(0, |attempt| attempt.entries);
        let first = part.entries.first().map_or(stored, |entry| entry.seq);
        // While the page was being made, the log may have grown.
        let next = part.entries.last().map_or(stored, |entry| entry.seq + 1);
        let stored = stored.max(next);
        let at_end = next == stored;
        let open = counts && !build.state.is_final();
        let around = Around {
            start: part.attempt.map_or(build.created_at, |attempt| attempt.claimed_at),
            failing: build.step.as_deref().filter(|_| counts),
            ended_badly: counts && matches!(build.state, BuildState::Failed | BuildState::Cancelled),
            live: at_end && counts && build.state.is_running(),
        };
        let attempt = part.attempt.map(|attempt| attempt.id.to_string());
        let page = |line: u64| {
            let parameters = [("attempt", attempt.as_deref()), ("from", Some(&*line.to_string()))];
            format!("{}#L{line}", address(&format!("/builds/{}", build.id), &parameters))
        };
        let log = |format: Option<&str>, attempt: Option<&str>| {
            let path = format!("/api/v1/builds/{}/log", build.id);
            address(&path, &[("attempt", attempt), ("format", format)])
        };
        Self {
            runs: steps::runs(part.entries, around),
            earlier: (first > 0 && !part.entries.is_empty()).then(|| Other {
                href: page(first.saturating_sub(LINES) + 1),
                words: format!("{} before these", words::lines(first)),
            }),
            later: (!at_end).then(|| Other {
                href: page(next + 1),
                words: format!("{} after these", words::lines(stored - next)),
            }),
            count: words::lines(stored),
            rest: rest(build, part.attempt, counts, now),
            text: log(Some("text"), attempt.as_deref()),
            ndjson: log(Some("ndjson"), attempt.as_deref()),
            stream: (open && at_end).then(|| Stream {
                href: log(None, None),
                attempt: attempt.clone().unwrap_or_default(),
                after: next.checked_sub(1),
            }),
            start: timestamp::to_string(around.start),
        }
    }

    /// The width of the numbers' column, in digits; a class each.
    pub(super) fn digits(&self) -> usize {
        let last = self.runs.last().and_then(|run| run.lines.last()).map_or(0, |line| line.number);
        last.max(999).to_string().len()
    }
}

/// What the footer says after the number of lines.
fn rest(build: &Build, attempt: Option<&Attempt>, counts: bool, now: OffsetDateTime) -> String {
    let Some(attempt) = attempt else {
        return "no worker has it yet".to_owned();
    };
    if let Some(at) = attempt.log_removed_at {
        return format!("removed on {}: older than logs are kept", words::day(at));
    }
    let worker = printable(&attempt.worker);
    match build.state {
        _ if attempt.complete => "complete".to_owned(),
        _ if !counts => format!("what attempt {} on {worker} has sent", attempt.number),
        BuildState::Interrupted => {
            let words = state::no_word(build, now);
            format!("{}{}", words[..1].to_lowercase(), &words[1..])
        }
        state if state.is_running() => format!("live from {worker}"),
        _ => format!("the end has not arrived from {worker}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn view(build: &Build, attempt: &Attempt, entries: &[LogEntry]) -> LogView {
        LogView::new(build, LogPart { attempt: Some(attempt), entries }, samples::NOW)
    }

    #[test]
    fn says_that_a_log_is_no_longer_kept() {
        let build = samples::published();
        let removed = Attempt { log_removed_at: Some(samples::NOW), ..samples::attempt() };
        let log = view(&build, &removed, &[]);
        assert_eq!(log.count, "414 lines");
        assert!(log.rest.starts_with("removed on ") && log.earlier.is_none() && log.later.is_none());
    }

    #[test]
    fn a_page_begins_where_the_news_is() {
        let (mut build, mut attempt) = (samples::published(), samples::attempt());
        attempt.entries = 12_000;
        assert_eq!(first_entry(None, &build, &attempt), 0);
        build.state = BuildState::Building;
        assert_eq!(first_entry(None, &build, &attempt), 7_000);
        for (from, first) in [(0, 0), (1, 0), (5_001, 5_000)] {
            assert_eq!(first_entry(Some(from), &build, &attempt), first);
        }
    }

    #[test]
    fn says_what_is_before_and_after() {
        let (build, mut attempt) = (samples::published(), samples::attempt());
        attempt.entries = 12_000;
        let entries = samples::entries(6_000..6_010);
        let log = view(&build, &attempt, &entries);
        let (earlier, later) = (log.earlier.unwrap(), log.later.unwrap());
        assert_eq!(earlier.words, "6,000 lines before these");
        assert!(earlier.href.ends_with("&from=1001#L1001"), "{}", earlier.href);
        assert_eq!(later.words, "5,990 lines after these");
        assert!(later.href.ends_with("&from=6011#L6011"), "{}", later.href);
        assert_eq!((log.count.as_str(), log.rest.as_str()), ("12,000 lines", "complete"));
    }

    #[test]
    fn the_stream_goes_on_after_the_last_line() {
        let (mut build, mut attempt) = (samples::building(), samples::attempt());
        attempt.complete = false;
        attempt.entries = 10;
        let log = view(&build, &attempt, &samples::entries(0..12));
        assert_eq!((log.count.as_str(), log.rest.as_str()), ("12 lines", "live from worker-1"));
        assert_eq!(log.stream.unwrap().after, Some(11));
        assert!(view(&build, &attempt, &samples::entries(0..5)).stream.is_none());
        build.state = BuildState::Interrupted;
        assert_eq!(view(&build, &attempt, &[]).rest, "no word from worker-1 for 41 s");
        build.state = BuildState::Failed;
        let log = view(&build, &attempt, &samples::entries(0..10));
        assert!(log.stream.is_none());
        assert_eq!(log.rest, "the end has not arrived from worker-1");
        build.attempt = None;
        assert_eq!(view(&build, &attempt, &[]).rest, "what attempt 1 on worker-1 has sent");
    }
}
