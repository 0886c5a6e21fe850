//! The last builds of an app as bars: the height is how long each took, shape and colour how it ended; and the same in
//! a sentence, for whoever points at them or cannot see them.

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
    /// The bars of one look together, as the path of an SVG: a page has the bars of many apps.
    pub(super) paths: Vec<(&'static str, String)>,
    pub(super) label: String,
}

impl Bars {
    /// `recent` are newest first; the newest stands at the right.
    pub(super) fn of(recent: &[Recent], now: OffsetDateTime) -> Self {
        let recent = &recent[..recent.len().min(BARS)];
        let took: Vec<Option<Duration>> = recent.iter().map(|build| took(build, now)).collect();
        let longest = took.iter().flatten().max().copied().unwrap_or_default().as_seconds_f64().max(1.0);
        let mut paths: Vec<(&'static str, String)> = Vec::new();
        for (index, (build, took)) in recent.iter().zip(&took).enumerate() {
            let share = took.map_or(0.0, |took| took.as_seconds_f64() / longest);
            let (class, shape) = bar(build, (BARS - 1 - index) * PITCH, SHORT + share * (TALL - SHORT));
            match paths.iter_mut().find(|(known, _)| *known == class) {
                Some((_, shapes)) => shapes.push_str(&shape),
                None => paths.push((class, shape)),
            }
        }
        Self { paths, label: label(recent, &took) }
    }
}

fn took(build: &Recent, now: OffsetDateTime) -> Option<Duration> {
    let end = build.finished_at.or(build.state.is_running().then_some(now))?;
    Some((end - build.started_at?).max(Duration::ZERO))
}

/// `Last 12 builds: 9 published (1 reused), 2 failed, 1 failed by infrastructure; in 2 s to 1 m 30 s`
fn label(recent: &[Recent], took: &[Option<Duration>]) -> String {
    let by_infrastructure = |build: &Recent| build.kind == Some(Kind::Infrastructure);
    let mut counted = Vec::new();
    for &state in BuildState::ALL {
        let of_state = || recent.iter().filter(|build| build.state == state);
        let apart =
            of_state().filter(|build| state == BuildState::Failed && by_infrastructure(build)).count();
        let (count, reused) = (of_state().count() - apart, of_state().filter(|build| build.reused).count());
        let state = word(state).to_lowercase();
        if count > 0 {
            let reused = if reused > 0 { format!(" ({reused} reused)") } else { String::new() };
            counted.push(format!("{count} {state}{reused}"));
        }
        if apart > 0 {
            counted.push(format!("{apart} {state} by infrastructure"));
        }
    }
    let counted = counted.join(", ");
    let took = || took.iter().flatten();
    let within = match (took().min(), took().max()) {
        (Some(shortest), Some(longest)) => match (words::duration(*shortest), words::duration(*longest)) {
            (shortest, longest) if shortest == longest => format!("; in {longest}"),
            (shortest, longest) => format!("; in {shortest} to {longest}"),
        },
        _ => String::new(),
    };
    match recent.len() {
        1 => format!("Last build: {counted}{within}"),
        builds => format!("Last {builds} builds: {counted}{within}"),
    }
}

/// The class of a bar's look, and its shape: hollow ones are drawn by their edge, which lies within.
fn bar(build: &Recent, left: usize, height: f64) -> (&'static str, String) {
    let infrastructure = build.kind == Some(Kind::Infrastructure);
    let class = match build.state {
        BuildState::Published => "past",
        BuildState::Failed if infrastructure => "warn",
        BuildState::Failed | BuildState::Rejected => "bad",
        BuildState::Retrying => "warn",
        BuildState::Interrupted => "warn dash",
        BuildState::Cancelled => "quiet",
        BuildState::Queued => "quiet dash",
        BuildState::Claimed | BuildState::Fetching | BuildState::Building | BuildState::Publishing => "live",
    };
    let hollow = !matches!(class, "past" | "live");
    // There must be room within a hollow one.
    let height = if hollow { height.max(5.0) } else { height };
    let inset = if hollow { 0.6 } else { 0.0 };
    let (x, y) = (left as f64 + inset, GROUND - inset);
    let (across, up) = (WIDTH - 2.0 * inset, height - 2.0 * inset);
    let mut shape = format!("M{x} {y}v-{up:.1}h{across:.1}v{up:.1}z");
    // Over its middle: a triangle, a cross, a dash.
    let mark = match build.state {
        BuildState::Failed if infrastructure => "m0-2.5 2.2 3.8h-4.4z",
        BuildState::Failed => "m-1.8-1.8 3.6 3.6m0-3.6-3.6 3.6",
        BuildState::Rejected => "m-2 0h4",
        _ => return (class, shape),
    };
    shape.push_str(&format!("M{} {:.1}{mark}", left as f64 + WIDTH / 2.0, GROUND - height - 3.0));
    (class, shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::pages::samples::NOW;

    fn recent(state: BuildState, seconds: i64) -> Recent {
        let finished_at = (!state.is_running()).then_some(NOW);
        let started_at = Some(NOW - Duration::seconds(seconds));
        Recent { state, kind: None, reused: false, started_at, finished_at }
    }

    #[test]
    fn heights_are_durations_and_the_newest_stands_at_the_right() {
        let builds = [
            recent(BuildState::Building, 30),
            recent(BuildState::Failed, 60),
            recent(BuildState::Published, 120),
            recent(BuildState::Published, 0),
            Recent { started_at: None, finished_at: None, ..recent(BuildState::Queued, 0) },
        ];
        let bars = Bars::of(&builds, NOW);
        assert_eq!(
            bars.label,
            "Last 5 builds: 1 queued, 1 building, 2 published, 1 failed; in 0 s to 2 m 00 s"
        );
        let shapes: Vec<_> = bars.paths.iter().map(|(class, shapes)| (*class, shapes.as_str())).collect();
        assert_eq!(
            shapes,
            [
                ("live", "M88 24v-5.8h5.0v5.8z"),
                ("bad", "M80.6 23.4v-8.3h3.8v8.3zM82.5 11.5m-1.8-1.8 3.6 3.6m0-3.6-3.6 3.6"),
                ("past", "M72 24v-17.0h5.0v17.0zM64 24v-2.0h5.0v2.0z"),
                ("quiet dash", "M56.6 23.4v-3.8h3.8v3.8z"),
            ]
        );
    }

    #[test]
    fn the_label_tells_apart_what_differs_in_words_alone() {
        let short = recent(BuildState::Published, 0);
        let longer = Recent { started_at: Some(NOW - Duration::milliseconds(300)), reused: true, ..short };
        let ours = Recent { kind: Some(Kind::Infrastructure), ..recent(BuildState::Failed, 0) };
        let label = Bars::of(&[short, longer, ours, recent(BuildState::Failed, 0)], NOW).label;
        assert_eq!(
            label,
            "Last 4 builds: 2 published (1 reused), 1 failed, 1 failed by infrastructure; in 0 s"
        );
    }

    #[test]
    fn takes_any_builds() {
        for &state in BuildState::ALL {
            let bars = Bars::of(&[recent(state, -5)], NOW);
            assert!(bars.label.starts_with("Last build: 1 ") && bars.paths.len() == 1, "{}", bars.label);
        }
        assert_eq!(Bars::of(&[], NOW).label, "Last 0 builds: ");
        let many = vec![recent(BuildState::Published, 1); 40];
        assert_eq!(Bars::of(&many, NOW).paths[0].1.matches('M').count(), BARS);
    }
}
