//! A log as its page begins: the part that is read without scripts, what there is to filter by, and what the
//! script needs to take over from there.

use serde::Deserialize;
use time::OffsetDateTime;

use super::filters::{Chip, LogFilters, Place};
use super::icons::Icon;
use super::query::{address, deploy_path};
use super::state;
use super::steps::{self, Around, Run};
use super::sums::LogSums;
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::entry::{LogEntry, timestamp};
use crate::timeline::protocol::{Attempt, AttemptId, Build, BuildState, Deploy, DeployState};

/// The most lines that a page has by itself: enough to read on without scripts, by pages. The script shows
/// any number, of which it fetches those in sight.
pub const LINES: u64 = 500;

/// The query of a log's page, beside its filters.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct BuildQuery {
    /// Of a build: whose log is shown, the attempt that counts unless another is named.
    pub attempt: Option<AttemptId>,
    /// The number of the first line, counted from 1; see [`first_entry`].
    pub from: Option<u64>,
}

/// A part of a log, and what there is of the whole.
#[derive(Debug, Clone, Copy)]
pub struct LogPart<'a> {
    /// At most [`LINES`] entries, of those that the filters leave.
    pub entries: &'a [LogEntry],
    /// Whether more follow.
    pub more: bool,
    pub filters: &'a LogFilters,
    pub sums: &'a LogSums,
    /// When the lines were removed, for they are no longer kept.
    pub removed: Option<OffsetDateTime>,
}

/// The seq of the first entry that a page shows, whose address names the line `from` (counted from 1)
/// or none: then it is the beginning of a published build's log and of a filtered one, and of any other's the end.
pub fn first_entry(from: Option<u64>, filters: &LogFilters, build: &Build, attempt: &Attempt) -> u64 {
    match from {
        Some(line) => line.saturating_sub(1),
        None if build.state == BuildState::Published || filters.hide() || filters.q.is_some() => 0,
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
    pub(super) chips: Vec<Chip>,
    /// The words that are looked for.
    pub(super) q: String,
    /// What a form sends along with them.
    pub(super) hidden: Vec<(&'static str, String)>,
    /// How many lines are shown, of how many.
    pub(super) count: String,
    /// What is known of the lines that are not there.
    pub(super) rest: String,
    /// Downloads, of what the filters leave.
    pub(super) text: String,
    pub(super) ndjson: String,
    /// For the script.
    pub(super) page: String,
    pub(super) api: String,
    pub(super) query: String,
    pub(super) start: String,
    pub(super) failing: Option<String>,
    pub(super) ended_badly: bool,
    /// More may come.
    pub(super) open: bool,
    /// Lines are shown with the time of day, not that since their step began.
    pub(super) absolute: bool,
    /// Lines say which service and pod they come from.
    pub(super) origins: bool,
    /// The lines are no longer kept.
    pub(super) gone: bool,
    pub(super) icons: LogIcons,
}

pub(super) struct LogIcons {
    pub(super) chevron: Icon,
    pub(super) caret: Icon,
    pub(super) up: Icon,
    pub(super) close: Icon,
    pub(super) search: Icon,
    pub(super) wrap: Icon,
    pub(super) download: Icon,
    pub(super) live: Icon,
    pub(super) done: Icon,
    pub(super) cached: Icon,
    pub(super) failed: Icon,
    pub(super) cancelled: Icon,
}

/// Whose log it is, and how it stands.
struct Subject<'a> {
    path: String,
    fixed: Vec<(&'static str, Option<String>)>,
    /// Services that may be chosen although no line names them.
    services: &'a [String],
    stored: u64,
    around: Around<'a>,
    open: bool,
    absolute: bool,
    rest: String,
}

impl LogView {
    pub(super) fn of_build(
        build: &Build,
        attempt: Option<&Attempt>,
        part: LogPart<'_>,
        now: OffsetDateTime,
    ) -> Self {
        let counts = attempt.map(|attempt| attempt.id) == build.attempt;
        let open = counts && !build.state.is_final();
        Self::new(
            Subject {
                path: format!("/builds/{}", build.id),
                // The attempt that counts goes without saying, so that its successor is followed.
                fixed: vec![("attempt", attempt.filter(|_| !counts).map(|attempt| attempt.id.to_string()))],
                services: &build.services,
                stored: attempt.map_or(0, |attempt| attempt.entries),
                around: Around {
                    start: attempt.map_or(build.created_at, |attempt| attempt.claimed_at),
                    failing: build.step.as_deref().filter(|_| counts && build.state != BuildState::Published),
                    ended_badly: counts && matches!(build.state, BuildState::Failed | BuildState::Cancelled),
                    live: counts && build.state.is_running(),
                },
                open,
                absolute: false,
                rest: rest(build, attempt, counts, now),
            },
            part,
        )
    }

    pub(super) fn of_deploy(deploy: &Deploy, part: LogPart<'_>) -> Self {
        let report = &deploy.report;
        let open = matches!(report.state, DeployState::Waiting | DeployState::Running);
        Self::new(
            Subject {
                path: deploy_path(&deploy.id),
                fixed: vec![("namespace", Some(report.namespace.to_string()))],
                services: &report.services,
                stored: deploy.entries,
                around: Around {
                    start: report.started_at.unwrap_or(deploy.reported_at),
                    failing: None,
                    ended_badly: matches!(report.state, DeployState::Failed | DeployState::Cancelled),
                    live: report.state == DeployState::Running,
                },
                open,
                absolute: true,
                rest: match part.removed {
                    Some(at) => no_longer_kept(at),
                    None if open => "live".to_owned(),
                    None => "as reported so far".to_owned(),
                },
            },
            part,
        )
    }

    fn new(subject: Subject<'_>, part: LogPart<'_>) -> Self {
        let Subject { path, fixed, services, stored, mut around, open, absolute, rest } = subject;
        let LogPart { entries, more, filters, sums, removed } = part;
        let place = Place { path: &path, fixed, filters };
        let first = entries.first().map_or(stored, |entry| entry.seq);
        // While the page was being made, the log may have grown.
        let next = entries.last().map_or(stored, |entry| entry.seq + 1);
        let stored = stored.max(next);
        around.live &= !more;
        let page =
            |line: u64| format!("{}#L{line}", address(&path, &place.with("from", Some(&line.to_string()))));
        let hide = filters.hide() || filters.q.is_some();
        let others = |count: u64, whence: &str| match hide {
            true => format!("Lines {whence} these"),
            false => format!("{} {whence} these", words::lines(count)),
        };
        let query = place.api_query();
        let api = format!("/api/v1{path}/log");
        let download = |format: &str| match query.as_str() {
            "" => format!("{api}?format={format}"),
            query => format!("{api}?{query}&format={format}"),
        };
        let fields = place.with("q", None);
        Self {
            runs: steps::runs(entries, around, |step| sums.begun(step)),
            earlier: (first > 0 && !entries.is_empty()).then(|| Other {
                href: page(first.saturating_sub(LINES) + 1),
                words: others(first, "before"),
            }),
            later: more.then(|| Other { href: page(next + 1), words: others(stored - next, "after") }),
            chips: place.chips(sums, services),
            q: filters.q.as_deref().map(printable).unwrap_or_default(),
            // What is hidden in a name cannot be sent back by a form.
            hidden: fields
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?.to_owned())))
                .filter(|(_, value)| printable(value) == *value)
                .collect(),
            count: match filters.hide() {
                true => format!("{} of {}", words::thousands(sums.matching), words::lines(sums.lines)),
                false => words::lines(stored),
            },
            rest,
            text: download("text"),
            ndjson: download("ndjson"),
            start: timestamp::to_string(around.start),
            failing: around.failing.map(printable),
            ended_badly: around.ended_badly,
            open,
            absolute,
            gone: removed.is_some(),
            origins: !sums.pods.is_empty() || !sums.services.is_empty(),
            query,
            api,
            icons: LogIcons {
                chevron: Icon::Chevron,
                caret: Icon::Caret,
                up: Icon::Up,
                close: Icon::Close,
                search: Icon::Search,
                wrap: Icon::Wrap,
                download: Icon::Download,
                live: Icon::Live,
                done: Icon::Done,
                cached: Icon::Cached,
                failed: Icon::Failed,
                cancelled: Icon::Cancelled,
            },
            page: path,
        }
    }

    /// The width of the numbers' column, in digits; a class each.
    pub(super) fn digits(&self) -> usize {
        let last = self.runs.iter().flat_map(|run| run.lines.last()).map(|line| line.number).max();
        last.unwrap_or(0).max(999).to_string().len()
    }
}

fn no_longer_kept(removed: OffsetDateTime) -> String {
    format!("removed on {}: older than logs are kept", words::day(removed))
}

/// What the footer says after the number of lines.
fn rest(build: &Build, attempt: Option<&Attempt>, counts: bool, now: OffsetDateTime) -> String {
    let Some(attempt) = attempt else {
        return "no worker has it yet".to_owned();
    };
    if let Some(at) = attempt.log_removed_at {
        return no_longer_kept(at);
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

    fn view(build: &Build, attempt: &Attempt, entries: &[LogEntry], more: bool) -> LogView {
        let (filters, sums) = (LogFilters::default(), LogSums::default());
        let part = LogPart { entries, more, filters: &filters, sums: &sums, removed: None };
        LogView::of_build(build, Some(attempt), part, samples::NOW)
    }

    #[test]
    fn says_that_a_log_is_no_longer_kept() {
        let build = samples::published();
        let removed = Attempt { log_removed_at: Some(samples::NOW), ..samples::attempt() };
        let log = view(&build, &removed, &[], false);
        assert_eq!(log.count, "414 lines");
        assert!(log.rest.starts_with("removed on ") && log.earlier.is_none() && log.later.is_none());
    }

    #[test]
    fn a_page_begins_where_the_news_is() {
        let (mut build, mut attempt) = (samples::published(), samples::attempt());
        let mut filters = LogFilters::default();
        attempt.entries = 12_000;
        assert_eq!(first_entry(None, &filters, &build, &attempt), 0);
        build.state = BuildState::Building;
        assert_eq!(first_entry(None, &filters, &build, &attempt), 11_500);
        for (from, first) in [(0, 0), (1, 0), (5_001, 5_000)] {
            assert_eq!(first_entry(Some(from), &filters, &build, &attempt), first);
        }
        filters.pod = Some("web".to_owned());
        assert_eq!(first_entry(None, &filters, &build, &attempt), 0);
    }

    #[test]
    fn says_what_is_before_and_after() {
        let (build, mut attempt) = (samples::published(), samples::attempt());
        attempt.entries = 12_000;
        let entries = samples::entries(6_000..6_010);
        let log = view(&build, &attempt, &entries, true);
        let (earlier, later) = (log.earlier.unwrap(), log.later.unwrap());
        assert_eq!(earlier.words, "6,000 lines before these");
        assert!(earlier.href.ends_with("?from=5501#L5501"), "{}", earlier.href);
        assert_eq!(later.words, "5,990 lines after these");
        assert!(later.href.ends_with("?from=6011#L6011"), "{}", later.href);
        assert_eq!((log.count.as_str(), log.rest.as_str()), ("12,000 lines", "complete"));
    }

    #[test]
    fn the_footer_says_what_is_known_of_the_end() {
        let (mut build, mut attempt) = (samples::building(), samples::attempt());
        attempt.complete = false;
        attempt.entries = 10;
        let log = view(&build, &attempt, &samples::entries(0..12), false);
        assert_eq!((log.count.as_str(), log.rest.as_str()), ("12 lines", "live from worker-1"));
        assert!(log.open);
        build.state = BuildState::Interrupted;
        assert_eq!(view(&build, &attempt, &[], false).rest, "no word from worker-1 for 41 s");
        build.state = BuildState::Failed;
        let log = view(&build, &attempt, &samples::entries(0..10), false);
        assert!(!log.open);
        assert_eq!(log.rest, "the end has not arrived from worker-1");
        build.attempt = None;
        let log = view(&build, &attempt, &[], false);
        assert_eq!(log.rest, "what attempt 1 on worker-1 has sent");
        assert!(log.query.starts_with("attempt="), "{}", log.query);
    }

    #[test]
    fn filters_stay_in_every_address() {
        let filters =
            LogFilters { pod: Some("web-1".to_owned()), q: Some("a&b".to_owned()), ..LogFilters::default() };
        let sums = LogSums { lines: 258, matching: 217, ..LogSums::default() };
        let part = LogPart {
            entries: &samples::entries(3..9),
            more: true,
            filters: &filters,
            sums: &sums,
            removed: None,
        };
        let log = LogView::of_build(&samples::published(), None, part, samples::NOW);
        assert_eq!(log.query, "pod=web-1");
        assert_eq!(log.count, "217 of 258 lines");
        assert!(log.later.unwrap().href.contains("?pod=web-1&q=a%26b&from=10#L10"));
        assert!(log.ndjson.ends_with("/log?pod=web-1&format=ndjson"));
        let chips: Vec<_> = log.chips.iter().map(|chip| (chip.name, chip.set.is_some())).collect();
        assert_eq!(
            chips,
            [("Server", false), ("Service", false), ("Pod", true), ("Step", false), ("Stream", false)]
        );
        assert_eq!(log.chips[1].choices.len(), 2, "the services of the build");
        let (_, without) = log.chips[2].set.as_ref().unwrap();
        assert!(without.ends_with("?q=a%26b"), "{without}");
    }
}
