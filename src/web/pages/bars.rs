//! The last builds of an app as bars: the height is how long each took, shape and colour how it ended. Each has its
//! words for whoever points at it, and all together one sentence for whoever cannot see them.

use time::{Duration, OffsetDateTime};

use super::state::word;
use super::words;
use crate::event::result::Kind;
use crate::timeline::protocol::BuildState;
use crate::web::db::overview::Recent;

/// Bars of an app.
pub const BARS: usize = 12;
/// From one bar to the next, and the width of one, in pixels.
const PITCH: usize = 8;
const WIDTH: f64 = 5.0;
/// Where the bars stand, and the heights of the longest and of the shortest.
const GROUND: f64 = 24.0;
const TALL: f64 = 17.0;
const SHORT: f64 = 2.0;

pub(super) struct Bars {
    pub(super) bars: Vec<Bar>,
    pub(super) label: String,
}

pub(super) struct Bar {
    /// The class of its colour.
    pub(super) class: &'static str,
    /// Hollow bars are drawn by their edge, which lies within.
    pub(super) hollow: bool,
    pub(super) dashed: bool,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) width: String,
    pub(super) height: String,
    /// What stands above it: a path.
    pub(super) mark: Option<String>,
    pub(super) title: String,
}

impl Bars {
    /// `recent` are newest first; the newest stands at the right.
    pub(super) fn of(recent: &[Recent], now: OffsetDateTime) -> Self {
        let took = |build: &Recent| -> Option<Duration> {
            let end = build.finished_at.or(build.state.is_running().then_some(now))?;
            Some((end - build.started_at?).max(Duration::ZERO))
        };
        let recent = &recent[..recent.len().min(BARS)];
        let longest = recent.iter().filter_map(took).max().unwrap_or_default().as_seconds_f64().max(1.0);
        let bar = |(index, build): (usize, &Recent)| {
            let took = took(build);
            let share = took.map_or(0.0, |took| took.as_seconds_f64() / longest);
            Bar::new(build, (BARS - 1 - index) * PITCH, SHORT + share * (TALL - SHORT), took)
        };
        let bars = recent.iter().enumerate().rev().map(|(index, build)| bar((index, build))).collect();
        Self { bars, label: label(recent) }
    }
}

/// `Last 12 builds: 10 published, 2 failed`
fn label(recent: &[Recent]) -> String {
    let counted = BuildState::ALL.iter().filter_map(|&state| {
        let count = recent.iter().filter(|build| build.state == state).count();
        (count > 0).then(|| format!("{count} {}", word(state).to_lowercase()))
    });
    let counted: Vec<_> = counted.collect();
    match recent.len() {
        1 => format!("Last build: {}", counted.join(", ")),
        builds => format!("Last {builds} builds: {}", counted.join(", ")),
    }
}

impl Bar {
    fn new(build: &Recent, x: usize, height: f64, took: Option<Duration>) -> Self {
        let infrastructure = build.kind == Some(Kind::Infrastructure);
        let (class, hollow, dashed) = match build.state {
            BuildState::Published => ("past", false, false),
            BuildState::Failed if infrastructure => ("warn", true, false),
            BuildState::Failed | BuildState::Rejected => ("bad", true, false),
            BuildState::Retrying => ("warn", true, false),
            BuildState::Interrupted => ("warn", true, true),
            BuildState::Cancelled => ("quiet", true, false),
            BuildState::Queued => ("quiet", true, true),
            BuildState::Claimed | BuildState::Fetching | BuildState::Building | BuildState::Publishing => {
                ("live", false, false)
            }
        };
        // There must be room within a hollow one.
        let height = if hollow { height.max(5.0) } else { height };
        let (left, top) = (x as f64, GROUND - height);
        // Over its middle: a cross, an exclamation mark's triangle, a bar.
        let (middle, above) = (left + WIDTH / 2.0, top - 3.0);
        let at = |shape: &str| Some(format!("M{middle} {above:.1}{shape}"));
        let mark = match build.state {
            BuildState::Failed if infrastructure => at("m0-2.5 2.2 3.8h-4.4z"),
            BuildState::Failed => at("m-1.8-1.8 3.6 3.6m0-3.6-3.6 3.6"),
            BuildState::Rejected => at("m-2 0h4"),
            _ => None,
        };
        let inset = if hollow { 0.6 } else { 0.0 };
        let number = |number: f64| format!("{number:.1}");
        let word = match build.state {
            BuildState::Published if build.reused => "Reused",
            BuildState::Failed if infrastructure => "Infrastructure",
            state => word(state),
        };
        Self {
            class,
            hollow,
            dashed,
            x: number(left + inset),
            y: number(top + inset),
            width: number(WIDTH - 2.0 * inset),
            height: number(height - 2.0 * inset),
            mark,
            title: match took {
                Some(took) => format!("{word}, {}", words::duration(took)),
                None => word.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::NOW;

    fn recent(state: BuildState, seconds: i64) -> Recent {
        let finished_at = (!state.is_running()).then_some(NOW);
        Recent {
            state,
            kind: None,
            reused: false,
            started_at: Some(NOW - Duration::seconds(seconds)),
            finished_at,
        }
    }

    #[test]
    fn heights_are_durations_and_the_newest_stands_at_the_right() {
        let builds = [
            recent(BuildState::Building, 30),
            recent(BuildState::Failed, 60),
            recent(BuildState::Published, 120),
            Recent { started_at: None, finished_at: None, ..recent(BuildState::Queued, 0) },
        ];
        let bars = Bars::of(&builds, NOW);
        assert_eq!(bars.label, "Last 4 builds: 1 queued, 1 building, 1 published, 1 failed");
        let told: Vec<_> = bars.bars.iter().map(|bar| (bar.class, bar.hollow, bar.title.as_str())).collect();
        assert_eq!(
            told,
            [
                ("quiet", true, "Queued"),
                ("past", false, "Published, 2 m 00 s"),
                ("bad", true, "Failed, 1 m 00 s"),
                ("live", false, "Building, 30 s")
            ]
        );
        let height = |index: usize| bars.bars[index].height.parse::<f64>().unwrap();
        assert!(height(1) > height(2) && height(2) > height(3));
        assert_eq!((bars.bars[3].x.as_str(), bars.bars[1].height.as_str()), ("88.0", "17.0"));
        assert!(bars.bars.iter().filter(|bar| bar.mark.is_some()).count() == 1);
    }

    #[test]
    fn takes_any_durations() {
        let odd = [recent(BuildState::Published, -5), recent(BuildState::Published, 0)];
        assert_eq!(Bars::of(&odd, NOW).bars[0].height, "2.0");
        assert_eq!(Bars::of(&[], NOW).label, "Last 0 builds: ");
        let many = vec![recent(BuildState::Failed, 1); 40];
        assert_eq!(Bars::of(&many, NOW).bars.len(), BARS);
    }
}
