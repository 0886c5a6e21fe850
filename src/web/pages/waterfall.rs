//! A build's stages and steps on one axis of time, which are also the table of contents of its log. Bars are attributes
//! of SVG, in hundredths of their row's width: a page has no style of its own.

use time::{Duration, OffsetDateTime};

use super::sums::{LogSums, Step};
use super::words;
use crate::telemetry::printable::printable;
use crate::timeline::protocol::{Attempt, AttemptState, Build};
use crate::web::log::outline::End;

/// The distances between marks on the axis, in seconds, of which the first is taken that gives few enough.
const SCALES: [i64; 14] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600];
const MARKS: i64 = 5;

pub(super) struct Waterfall {
    /// How long all of it took, or takes so far.
    pub(super) total: String,
    pub(super) marks: Vec<Mark>,
    pub(super) rows: Vec<Row>,
}

/// A mark on the axis.
pub(super) struct Mark {
    pub(super) at: String,
    pub(super) words: String,
}

pub(super) struct Row {
    /// Where a step stands among others, as `[build 3/6] `.
    pub(super) mark: String,
    pub(super) name: String,
    /// How long it took, or what came of it.
    pub(super) value: String,
    pub(super) class: &'static str,
    /// The number of its first line.
    pub(super) line: Option<u64>,
    /// None of what was not reached.
    pub(super) bar: Option<Bar>,
}

pub(super) struct Bar {
    pub(super) x: String,
    pub(super) width: String,
}

/// From when to when; an open end is now.
struct Span {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Waterfall {
    /// That of an attempt with the log that is summed up; none where nothing is known of its steps, nor will be.
    pub(super) fn of(
        build: &Build,
        attempt: Option<&Attempt>,
        sums: &LogSums,
        now: OffsetDateTime,
    ) -> Option<Self> {
        if sums.steps.is_empty() && build.state.is_final() {
            return None;
        }
        let Some(attempt) = attempt else {
            return Some(Self { total: String::new(), marks: Vec::new(), rows: Vec::new() });
        };
        let counts = Some(attempt.id) == build.attempt;
        let runs = counts && build.state.is_running();
        // Of one that has fallen silent nothing is known after its last word.
        let silent = sums.steps.iter().map(|step| step.last).max().unwrap_or(attempt.claimed_at);
        let end = attempt.ended_at.unwrap_or(if runs { now } else { silent });
        let axis =
            Axis { start: attempt.claimed_at, length: (end - attempt.claimed_at).max(Duration::MILLISECOND) };
        let entered = |state| attempt.stages.iter().find(|stage| stage.state == state).map(|stage| stage.at);
        let mut rows = Vec::with_capacity(sums.steps.len() + 2);
        if let Some(from) = entered(AttemptState::Fetching) {
            let to = entered(AttemptState::Building).unwrap_or(end);
            let name = format!("Fetch {}", build.commit.short());
            rows.push(Row::stage(
                &axis,
                name,
                &Span { from, to },
                entered(AttemptState::Building).is_none() && runs,
            ));
        }
        let failing = build.step.as_deref().filter(|_| counts);
        for step in &sums.steps {
            rows.push(Row::step(&axis, step, failing == Some(step.name.as_str()), runs.then_some(now)));
        }
        match entered(AttemptState::Publishing) {
            Some(from) => rows.push(Row::stage(&axis, "Publish".to_owned(), &Span { from, to: end }, runs)),
            None if !runs && !sums.steps.is_empty() => rows.push(Row {
                value: "not reached".to_owned(),
                bar: None,
                ..Row::named("Publish".to_owned(), "quiet")
            }),
            None => {}
        }
        // The longest of what is over is told from the others.
        let longest = sums
            .steps
            .iter()
            .zip(rows.iter().enumerate().filter(|(_, row)| row.line.is_some()).map(|(index, _)| index))
            .filter(|(step, index)| matches!(step.end, Some(End::Done(_))) && rows[*index].class.is_empty())
            .max_by_key(|(step, _)| step.last - step.begun);
        if let Some((_, index)) = longest {
            rows[index].class = "longest";
        }
        Some(Self { total: words::duration(axis.length), marks: axis.marks(), rows })
    }
}

impl Row {
    fn named(name: String, class: &'static str) -> Self {
        Self { mark: String::new(), name, value: String::new(), class, line: None, bar: None }
    }

    fn stage(axis: &Axis, name: String, span: &Span, runs: bool) -> Self {
        Self {
            value: words::offset(span.to - span.from),
            bar: Some(axis.bar(span)),
            ..Self::named(name, if runs { "live" } else { "" })
        }
    }

    /// `now` is given of an attempt that runs.
    fn step(axis: &Axis, step: &Step, failing: bool, now: Option<OffsetDateTime>) -> Self {
        let span = Span { from: step.begun, to: now.filter(|_| step.end.is_none()).unwrap_or(step.last) };
        let (class, value) = match &step.end {
            Some(End::Failed(took)) => ("bad", printable(took)),
            _ if failing => ("bad", words::offset(span.to - span.from)),
            Some(End::Cached) => ("cached", "cached".to_owned()),
            Some(End::Done(took)) => ("", printable(took)),
            Some(End::Cancelled) => ("quiet", "cancelled".to_owned()),
            None if now.is_some() => ("live", words::offset(span.to - span.from)),
            None => ("quiet", words::offset(span.to - span.from)),
        };
        let name = printable(&step.name);
        let split = match name.starts_with('[') {
            true => name.find("] ").map_or(0, |end| end + 2),
            false => 0,
        };
        Self {
            mark: name[..split].to_owned(),
            value,
            line: Some(step.first_seq + 1),
            bar: Some(axis.bar(&span)),
            ..Self::named(name[split..].to_owned(), class)
        }
    }
}

struct Axis {
    start: OffsetDateTime,
    length: Duration,
}

impl Axis {
    /// A place on it, in percent.
    fn place(&self, after: Duration) -> f64 {
        (100.0 * after.as_seconds_f64() / self.length.as_seconds_f64()).clamp(0.0, 100.0)
    }

    fn bar(&self, span: &Span) -> Bar {
        // Also what took no time is seen.
        let from = self.place(span.from - self.start).min(99.0);
        let width = (self.place(span.to - self.start) - from).max(1.0);
        Bar { x: format!("{from:.2}%"), width: format!("{width:.2}%") }
    }

    fn marks(&self) -> Vec<Mark> {
        let seconds = self.length.whole_seconds();
        let scale = SCALES.into_iter().find(|scale| seconds / scale < MARKS).unwrap_or(86_400);
        let times = (0..=seconds / scale).map(|number| Duration::seconds(number * scale)).take(16);
        times
            // At the very end there is no room for words.
            .filter(|at| self.place(*at) <= 80.0)
            .map(|at| Mark {
                at: format!("{:.2}%", self.place(at)),
                words: if at.is_zero() { "0".to_owned() } else { words::duration(at) },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use crate::timeline::protocol::{BuildState, StageTime};

    fn step(name: &str, seq: u64, from: i64, to: i64, end: Option<End>) -> Step {
        let at = |seconds| samples::attempt().claimed_at + Duration::seconds(seconds);
        Step {
            name: name.to_owned(),
            first_seq: seq,
            begun: at(from),
            last: at(to),
            lines: 2,
            end,
            last_seq: seq + 1,
            failed: None,
        }
    }

    fn shown(waterfall: &Waterfall) -> Vec<String> {
        let row = |row: &Row| {
            let bar = row.bar.as_ref().map_or("-".to_owned(), |bar| format!("{} {}", bar.x, bar.width));
            format!("{}|{} {} {:?} {} {bar}", row.mark, row.name, row.value, row.line, row.class)
        };
        waterfall.rows.iter().map(row).collect()
    }

    #[test]
    fn stages_and_steps_stand_where_they_ran() {
        let mut attempt = samples::attempt();
        let at = |seconds| attempt.claimed_at + Duration::seconds(seconds);
        let stages =
            [(AttemptState::Fetching, 0), (AttemptState::Building, 10), (AttemptState::Publishing, 90)];
        let stages = stages.map(|(state, seconds)| StageTime { state, at: at(seconds) }).to_vec();
        attempt.ended_at = Some(at(100));
        attempt.stages = stages;
        let done = |took: &str| Some(End::Done(took.to_owned()));
        let sums = LogSums {
            steps: vec![
                step("[1/3] FROM base", 3, 10, 12, done("2.0 s")),
                step("[2/3] COPY . .", 5, 12, 12, Some(End::Cached)),
                step("[3/3] RUN make", 6, 12, 90, done("1 m 18 s")),
                step("exporting", 9, 90, 90, None),
            ],
            ..LogSums::default()
        };
        let build = samples::published();
        let waterfall = Waterfall::of(&build, Some(&attempt), &sums, samples::NOW).unwrap();
        assert_eq!(waterfall.total, "1 m 40 s");
        assert_eq!(
            shown(&waterfall),
            [
                "|Fetch 9fceb02 10.0 s None  0.00% 10.00%",
                "[1/3] |FROM base 2.0 s Some(4)  10.00% 2.00%",
                "[2/3] |COPY . . cached Some(6) cached 12.00% 1.00%",
                "[3/3] |RUN make 1 m 18 s Some(7) longest 12.00% 78.00%",
                "|exporting 0.0 s Some(10) quiet 90.00% 1.00%",
                "|Publish 10.0 s None  90.00% 10.00%",
            ]
        );
        let marks: Vec<_> =
            waterfall.marks.iter().map(|mark| format!("{} {}", mark.at, mark.words)).collect();
        assert_eq!(marks, ["0.00% 0", "30.00% 30 s", "60.00% 1 m 00 s"]);
    }

    #[test]
    fn what_runs_goes_on_to_now_and_what_was_not_reached_is_said() {
        let mut build = samples::building();
        let attempt = Attempt { ended_at: None, stages: Vec::new(), ..samples::attempt() };
        build.attempt = Some(attempt.id);
        let sums = LogSums {
            steps: vec![step("[1/2] FROM base", 0, 0, 5, None), step("[2/2] RUN x", 2, 5, 6, None)],
            ..LogSums::default()
        };
        let now = attempt.claimed_at + Duration::seconds(10);
        let classes = |build: &Build, attempt: &Attempt| {
            let waterfall = Waterfall::of(build, Some(attempt), &sums, now).unwrap();
            waterfall.rows.iter().map(|row| (row.class, row.value.clone())).collect::<Vec<_>>()
        };
        let live = |value: &str| ("live", value.to_owned());
        assert_eq!(classes(&build, &attempt), [live("10.0 s"), live("5.0 s")]);
        build.state = BuildState::Failed;
        build.step = Some("[2/2] RUN x".to_owned());
        let ended = Attempt { ended_at: Some(now), ..attempt.clone() };
        let quiet = |value: &str| ("quiet", value.to_owned());
        assert_eq!(
            classes(&build, &ended),
            [quiet("5.0 s"), ("bad", "1.0 s".to_owned()), quiet("not reached")]
        );
        assert!(Waterfall::of(&build, Some(&ended), &LogSums::default(), now).is_none());
        build.state = BuildState::Queued;
        assert!(
            Waterfall::of(&build, None, &LogSums::default(), now).unwrap().rows.is_empty(),
            "they may come"
        );
    }
}
