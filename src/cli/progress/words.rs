//! Words on how a build stands: one line, when it has changed.

use std::fmt::Write;
use std::time::Duration;

use time::OffsetDateTime;

use crate::telemetry::printable::printable;
use crate::timeline::protocol::{Build, BuildState};

/// What is said of a build when it has come to this state; nothing where its log says it.
pub(super) fn of_state(build: &Build, before: Option<&Build>, now: OffsetDateTime) -> Option<String> {
    let was = before.map(|before| before.state);
    let changed = was != Some(build.state);
    let worker = || build.worker.as_deref().map_or_else(|| "its worker".to_owned(), printable);
    let mut words = match build.state {
        BuildState::Queued if was.is_some_and(|was| was != BuildState::Queued) => {
            "queued again: its worker has given it back".to_owned()
        }
        BuildState::Queued => "queued, waiting for a worker".to_owned(),
        BuildState::Interrupted => match build.heard_at {
            Some(heard) => format!("interrupted: no word from {} for {}", worker(), since(heard, now)),
            None => format!("interrupted: no word from {}", worker()),
        },
        BuildState::Retrying => {
            let mut words = format!("attempt {} failed, retrying", build.number.unwrap_or(1));
            if let Some(reason) = &build.reason {
                // Writing to a String cannot fail.
                let _ = write!(words, ": {}", printable(reason));
            }
            words
        }
        state if state.is_running() && was == Some(BuildState::Interrupted) => {
            match before.is_some_and(|before| before.attempt != build.attempt) {
                true => format!("attempt {} on {} takes over", build.number.unwrap_or(1), worker()),
                false => format!("{} is back", worker()),
            }
        }
        _ => String::new(),
    };
    if !changed {
        words.clear();
    }
    let waits = build.waiting.as_deref();
    if let Some(reason) = waits.filter(|_| before.is_none_or(|before| before.waiting.as_deref() != waits)) {
        words = format!("waiting: {}", printable(reason));
    }
    let asked = |build: &Build| build.cancel_requested_at.is_some() && !build.state.is_final();
    if asked(build) && !before.is_some_and(asked) {
        if !words.is_empty() {
            words.push_str("; ");
        }
        words.push_str("it is to be cancelled, its worker is told");
    }
    (!words.is_empty()).then_some(words)
}

/// What a build that says nothing is waiting for, with the time that it takes already.
pub(super) fn waiting(build: &Build, now: OffsetDateTime) -> Option<String> {
    match (build.state, build.heard_at) {
        (state, _) if build.waiting.is_some() && !state.is_final() => {
            Some(format!("waiting  {}", since(build.created_at, now)))
        }
        (BuildState::Queued, _) => Some(format!("queued  {}", since(build.created_at, now))),
        (BuildState::Interrupted, Some(heard)) => Some(format!("interrupted  {}", since(heard, now))),
        (BuildState::Retrying, Some(heard)) => Some(format!("retrying  {}", since(heard, now))),
        _ => None,
    }
}

pub(super) fn since(then: OffsetDateTime, now: OffsetDateTime) -> String {
    // Clocks of two machines may differ.
    short_duration(Duration::try_from(now - then).unwrap_or_default())
}

/// The two largest units that matter: `41 s`, `3 m 20 s`, `2 h 5 m`, `12 d`.
pub fn short_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::builds::tests::build;
    use time::macros::datetime;

    #[test]
    fn what_a_build_waits_for_is_said_once() {
        let now = datetime!(2026-11-23 10:00:41 UTC);
        let queued = build(BuildState::Queued);
        let waits =
            Build { waiting: Some("build b-0 of the same app is running".to_owned()), ..queued.clone() };
        let other =
            Build { waiting: Some("build b-2 of the same app is running".to_owned()), ..queued.clone() };
        let words = "waiting: build b-0 of the same app is running";
        assert_eq!(of_state(&waits, Some(&queued), now).as_deref(), Some(words));
        assert_eq!(of_state(&waits, Some(&waits), now), None);
        assert_eq!(
            of_state(&other, Some(&waits), now).as_deref(),
            Some(words.replace("b-0", "b-2").as_str())
        );
        assert_eq!(waiting(&waits, now).as_deref(), Some("waiting  41 s"));
        let building = build(BuildState::Building);
        assert_eq!(of_state(&building, Some(&waits), now), None, "its log says that");
    }
}
