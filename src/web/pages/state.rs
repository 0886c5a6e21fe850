//! How a state looks: its icon, its word and its tone, one table for all pages.

use time::OffsetDateTime;

use super::icons::Icon;
use super::words;
use crate::event::result::Kind;
use crate::telemetry::printable::printable;
use crate::timeline::protocol::{Attempt, AttemptState, Build, BuildState, DeployState};

/// What colour says beside shape and word; the name of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Quiet,
    Live,
    Ok,
    Bad,
    Warn,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Live => "live",
            Self::Ok => "ok",
            Self::Bad => "bad",
            Self::Warn => "warn",
        }
    }
}

pub(super) struct Look {
    pub(super) icon: Icon,
    pub(super) word: String,
    pub(super) tone: Tone,
}

impl Look {
    pub(super) fn of(build: &Build, now: OffsetDateTime) -> Self {
        let (icon, word, tone) = match build.state {
            BuildState::Queued | BuildState::Retrying if build.waiting.is_some() => {
                (Icon::Queued, "Waiting", Tone::Quiet)
            }
            BuildState::Queued => (Icon::Queued, "Queued", Tone::Quiet),
            BuildState::Claimed => (Icon::Live, "Starting", Tone::Live),
            BuildState::Fetching => (Icon::Live, "Fetching", Tone::Live),
            BuildState::Building => (Icon::Live, "Building", Tone::Live),
            BuildState::Publishing => (Icon::Live, "Publishing", Tone::Live),
            BuildState::Interrupted => {
                return Self { icon: Icon::Interrupted, word: no_word(build, now), tone: Tone::Warn };
            }
            BuildState::Retrying => (Icon::Retrying, "Retrying", Tone::Warn),
            BuildState::Published if build.reused => (Icon::Reused, "Reused", Tone::Ok),
            BuildState::Published => (Icon::Published, "Published", Tone::Ok),
            BuildState::Failed if build.kind == Some(Kind::Infrastructure) => {
                (Icon::Infrastructure, "Infrastructure", Tone::Warn)
            }
            BuildState::Failed => (Icon::Failed, "Failed", Tone::Bad),
            BuildState::Rejected => (Icon::Rejected, "Rejected", Tone::Bad),
            BuildState::Cancelled => (Icon::Cancelled, "Cancelled", Tone::Quiet),
        };
        Self { icon, word: word.to_owned(), tone }
    }

    pub(super) fn of_attempt(attempt: &Attempt) -> Self {
        let (icon, word, tone) = match attempt.state {
            AttemptState::Published => (Icon::Published, "Published", Tone::Ok),
            AttemptState::Failed => (Icon::Failed, "Failed", Tone::Bad),
            AttemptState::Rejected => (Icon::Rejected, "Rejected", Tone::Bad),
            AttemptState::Cancelled => (Icon::Cancelled, "Cancelled", Tone::Quiet),
            AttemptState::Retrying => (Icon::Infrastructure, "Infrastructure", Tone::Warn),
            AttemptState::Released => (Icon::Retrying, "Given back", Tone::Quiet),
            // Whatever it was at, it does not count any more.
            _ if attempt.fenced => (Icon::Cancelled, "Superseded", Tone::Quiet),
            AttemptState::Claimed => (Icon::Live, "Starting", Tone::Live),
            AttemptState::Fetching => (Icon::Live, "Fetching", Tone::Live),
            AttemptState::Building => (Icon::Live, "Building", Tone::Live),
            AttemptState::Publishing => (Icon::Live, "Publishing", Tone::Live),
        };
        Self { icon, word: word.to_owned(), tone }
    }
}

pub(super) fn of_deploy(state: DeployState) -> Look {
    let (icon, word, tone) = match state {
        DeployState::Waiting => (Icon::Queued, "Waiting", Tone::Quiet),
        DeployState::Running => (Icon::Live, "Running", Tone::Live),
        DeployState::Done => (Icon::Published, "Done", Tone::Ok),
        DeployState::Failed => (Icon::Failed, "Failed", Tone::Bad),
        DeployState::Cancelled => (Icon::Cancelled, "Cancelled", Tone::Quiet),
    };
    Look { icon, word: word.to_owned(), tone }
}

/// The word of a state by itself, as a filter offers it.
pub(super) fn word(state: BuildState) -> &'static str {
    match state {
        BuildState::Queued => "Queued",
        BuildState::Claimed => "Starting",
        BuildState::Fetching => "Fetching",
        BuildState::Building => "Building",
        BuildState::Publishing => "Publishing",
        BuildState::Interrupted => "No word from its worker",
        BuildState::Retrying => "Retrying",
        BuildState::Published => "Published",
        BuildState::Failed => "Failed",
        BuildState::Rejected => "Rejected",
        BuildState::Cancelled => "Cancelled",
    }
}

/// `No word from worker-2 for 41 s`
pub(super) fn no_word(build: &Build, now: OffsetDateTime) -> String {
    let worker = build.worker.as_deref().map_or_else(|| "its worker".to_owned(), printable);
    match build.heard_at {
        Some(heard) => format!("No word from {worker} for {}", words::duration(now - heard)),
        None => format!("No word from {worker}"),
    }
}
