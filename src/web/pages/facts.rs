//! What several pages say of a build in the same words: its title, its ref, how long it took, why it failed.

use time::OffsetDateTime;

use super::state::Tone;
use super::words;
use crate::event::result::Kind;
use crate::store::digest::Digest;
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{Build, BuildState, DeployReport, DeployState};

/// The commit's subject, else the ref, else the commit.
pub(super) fn title(build: &Build) -> String {
    let subject = build.commit_info.as_ref().map(|commit| commit.subject.as_str());
    match subject.filter(|subject| !subject.trim().is_empty()) {
        Some(subject) => printable(subject),
        None => short_ref(build).unwrap_or_else(|| build.commit.short().to_owned()),
    }
}

/// `main` for `refs/heads/main`.
pub(super) fn short_ref(build: &Build) -> Option<String> {
    build.git_ref.as_deref().map(short)
}

/// As [`short_ref`], of the ref itself.
pub(super) fn short(name: &str) -> String {
    let short = ["refs/heads/", "refs/tags/", "refs/"].iter().find_map(|prefix| name.strip_prefix(prefix));
    printable(short.unwrap_or(name))
}

/// A digest, short enough to compare by eye (`sha256:3a7bd3e2…f5c1`), and whole.
pub(super) fn digest(digest: &Digest) -> (String, String) {
    let whole = digest.to_string();
    (format!("{}…{}", &whole[..15], &whole[whole.len() - 4..]), whole)
}

/// How long a build took or has been running.
pub(super) struct Took {
    /// Since when it is running, for the script to count on.
    pub(super) since: Option<String>,
    pub(super) words: String,
}

/// None before it has begun, and while nobody knows whether it is running.
pub(super) fn took(build: &Build, now: OffsetDateTime) -> Option<Took> {
    Took::of(build.started_at, build.finished_at, build.state.is_running(), now)
}

/// As [`took`].
pub(super) fn deploy_took(report: &DeployReport, now: OffsetDateTime) -> Option<Took> {
    Took::of(report.started_at, report.finished_at, report.state == DeployState::Running, now)
}

impl Took {
    fn of(
        started: Option<OffsetDateTime>,
        finished: Option<OffsetDateTime>,
        runs: bool,
        now: OffsetDateTime,
    ) -> Option<Self> {
        let started = started?;
        match finished {
            Some(finished) => Some(Self { since: None, words: words::duration(finished - started) }),
            None if runs => Some(Self {
                since: Some(timestamp::to_string(started)),
                words: words::duration(now - started),
            }),
            None => None,
        }
    }
}

/// Why a build is not published, or not built yet.
pub(super) struct Failure {
    /// The step, where the reason names it or is its.
    pub(super) step: Option<String>,
    /// The rest of the reason, a sentence without its end.
    pub(super) reason: String,
    pub(super) tone: Tone,
}

pub(super) fn failure(build: &Build) -> Option<Failure> {
    if build.state == BuildState::Published {
        return None;
    }
    if let Some(waiting) = &build.waiting {
        return Some(Failure { step: None, reason: printable(waiting), tone: Tone::Quiet });
    }
    let given = build.reason.as_deref()?;
    let step = build.step.as_deref();
    // The worker's sentence begins with the step; here the step stands apart.
    let own = step.and_then(|step| given.strip_prefix("step ")?.strip_prefix(step)?.strip_prefix(": "));
    let reason = printable(own.unwrap_or(given)).trim_end_matches('.').to_owned();
    let infrastructure = build.kind == Some(Kind::Infrastructure) || build.state == BuildState::Retrying;
    Some(Failure {
        step: step.map(printable),
        reason: if infrastructure { format!("Not the build’s fault: {reason}") } else { reason },
        tone: match infrastructure || build.state == BuildState::Cancelled {
            true => Tone::Warn,
            false => Tone::Bad,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_build_is_called_by_its_subject_its_ref_or_its_commit() {
        let mut build = samples::published();
        assert_eq!(title(&build), "Round gift-card totals half-even");
        build.commit_info = None;
        assert_eq!(title(&build), "main");
        build.git_ref = None;
        assert_eq!(title(&build), "9fceb02");
    }

    #[test]
    fn the_step_stands_apart_from_the_reason() {
        let mut build = samples::failed();
        let failure = failure(&build).unwrap();
        assert_eq!(failure.step.as_deref(), Some("[build 6/6] RUN bin/rails assets:precompile"));
        assert_eq!(failure.reason, "exit code 1");
        build.kind = Some(Kind::Infrastructure);
        build.reason = Some("the store was unreachable.".to_owned());
        let failure = super::failure(&build).unwrap();
        assert_eq!(failure.reason, "Not the build’s fault: the store was unreachable");
        assert_eq!(failure.tone, Tone::Warn);
        build.state = BuildState::Retrying;
        build.waiting = Some("build b-1 of the same app is running".to_owned());
        let failure = super::failure(&build).unwrap();
        assert_eq!(failure.reason, "build b-1 of the same app is running", "that is what holds it up now");
        assert_eq!(failure.tone, Tone::Quiet);
    }

    #[test]
    fn an_interrupted_build_is_not_said_to_run() {
        let mut build = samples::building();
        assert_eq!(took(&build, samples::NOW).unwrap().words, "52 s");
        build.state = BuildState::Interrupted;
        assert!(took(&build, samples::NOW).is_none());
        assert_eq!(took(&samples::published(), samples::NOW).unwrap().words, "1 m 48 s");
    }
}
