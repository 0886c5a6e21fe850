//! `/builds/<id>`: what became of a build, and its log.

use askama::Template;
use http::StatusCode;
use time::OffsetDateTime;

use super::ansi::{self, Piece};
use super::document::{Document, Frame, Viewer};
use super::facts::{self, Failure, Took};
use super::icons::Icon;
use super::image::ImageUrl;
use super::log::{LogPart, LogView};
use super::query::{address, deploy_page};
use super::state::{self, Look};
use super::sums::LogSums;
use super::waterfall::Waterfall;
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{Attempt, AttemptId, Build, BuildDetail, BuildState};

/// How many of the failing step's last lines the page quotes above the log, which has them all.
const QUOTED: usize = 10;

#[derive(Template)]
#[template(path = "build.html")]
struct BuildPage {
    frame: Frame,
    id: String,
    namespace: String,
    app: String,
    title: String,
    look: Look,
    fake: bool,
    running: bool,
    /// Something may still come of it.
    open: bool,
    /// For the script: what is announced when it changes.
    state: &'static str,
    /// What may be pressed.
    can_cancel: bool,
    can_rebuild: bool,
    cancel_requested: Option<Moment>,
    commit: String,
    short: String,
    repository: String,
    git_ref: Option<String>,
    requester: Option<String>,
    author: Option<String>,
    created: Moment,
    started: Option<Moment>,
    took: Option<Took>,
    usual: Option<String>,
    worker: Option<String>,
    number: Option<u32>,
    /// The deploy it is for, and its page, if it was reported.
    deploy: Option<(String, Option<String>)>,
    image: Option<ImageUrl>,
    size: Option<String>,
    /// What the image will be called, up to its tag, while it may still come.
    expected: Option<String>,
    band: Option<Band>,
    attempts: Vec<AttemptView>,
    /// Another attempt than the one whose log is shown is the one that counts.
    superseded_by: Option<u32>,
    waterfall: Option<Waterfall>,
    log: LogView,
    now: String,
    icons: Icons,
}

struct Icons {
    copy: Icon,
}

/// What went wrong, above the log.
struct Band {
    icon: Icon,
    tone: &'static str,
    step: Option<String>,
    /// Where the step stands in the repository.
    location: Option<String>,
    what: String,
    follows: String,
    advice: Option<String>,
    excerpt: Vec<Vec<Piece>>,
    /// The line at which the step failed.
    line: Option<u64>,
}

struct AttemptView {
    href: String,
    number: u32,
    worker: String,
    look: Look,
    lines: String,
    claimed: Moment,
    took: Option<String>,
    shown: bool,
}

/// `attempt` is the one whose log is shown; none while no worker has the build. `deploy_reported`: the deploy that it
/// is for has a page.
pub fn build(
    viewer: &Viewer,
    detail: &BuildDetail,
    attempt: Option<&Attempt>,
    deploy_reported: bool,
    part: LogPart<'_>,
    now: OffsetDateTime,
) -> Document {
    let build = &detail.build;
    let stands = build.state;
    let waterfall = Waterfall::of(build, attempt, part.sums, now);
    let log = LogView::of_build(build, attempt, part, now);
    let shown = attempt.map(|attempt| attempt.id);
    let rebuildable = matches!(stands, BuildState::Published | BuildState::Failed | BuildState::Cancelled);
    let template = BuildPage {
        frame: Frame::new(Some(viewer)).of_log(),
        id: build.id.to_string(),
        namespace: build.namespace.to_string(),
        app: build.app.to_string(),
        title: facts::title(build),
        look: Look::of(build, now),
        fake: build.fake,
        running: stands.is_running(),
        open: !stands.is_final(),
        state: state::word(stands),
        can_cancel: viewer.can_build && !stands.is_final() && build.cancel_requested_at.is_none(),
        can_rebuild: viewer.can_build && rebuildable,
        cancel_requested: build
            .cancel_requested_at
            .filter(|_| !stands.is_final())
            .map(|at| Moment::new(at, now)),
        commit: build.commit.to_string(),
        short: build.commit.short().to_owned(),
        repository: build.repository.to_string(),
        git_ref: facts::short_ref(build),
        requester: build.requested_by.as_deref().map(printable),
        author: build.commit_info.as_ref().map(|commit| printable(&commit.author)),
        created: Moment::new(build.created_at, now),
        started: build.started_at.map(|at| Moment::new(at, now)),
        took: facts::took(build, now),
        usual: detail.usual_s.map(words::seconds),
        worker: build.worker.as_deref().map(printable),
        number: build.number,
        deploy: build
            .deploy_id
            .as_deref()
            .map(|id| (printable(id), deploy_reported.then(|| deploy_page(build.namespace.as_str(), id)))),
        image: build.image.as_deref().map(ImageUrl::new),
        size: build.size.map(words::size),
        expected: (!stands.is_final() && build.image.is_none())
            .then(|| format!("{}/{}.{}", build.namespace, build.app, build.repository)),
        band: Band::of(build, shown, part.sums, now),
        attempts: match detail.attempts.as_slice() {
            // A single one has nothing to choose from, and its facts are the build's.
            [_] => Vec::new(),
            attempts => attempts
                .iter()
                .map(|attempt| AttemptView::new(attempt, build, Some(attempt.id) == shown, now))
                .collect(),
        },
        superseded_by: build.number.filter(|_| shown.is_some() && shown != build.attempt),
        waterfall,
        log,
        now: timestamp::to_string(now),
        icons: Icons { copy: Icon::Copy },
    };
    Document::render(StatusCode::OK, &template)
}

impl Band {
    /// `shown` is the attempt whose log is shown, which is summed up.
    fn of(build: &Build, shown: Option<AttemptId>, sums: &LogSums, now: OffsetDateTime) -> Option<Self> {
        let look = Look::of(build, now);
        if build.state == BuildState::Interrupted {
            return Some(Self {
                icon: look.icon,
                tone: look.tone.class(),
                step: None,
                location: None,
                advice: None,
                what: state::no_word(build, now),
                follows: "Its lease is over: another worker may take the build.".to_owned(),
                excerpt: Vec::new(),
                line: None,
            });
        }
        let Failure { step, reason, .. } = facts::failure(build)?;
        let follows = match (build.state, build.retry_at) {
            _ if build.waiting.is_some() => "It asks again every ten seconds.".to_owned(),
            (BuildState::Retrying, Some(due)) => {
                format!("Another attempt is due at {}.", Moment::new(due, now).clock)
            }
            (BuildState::Retrying, None) => "Another attempt follows.".to_owned(),
            (state, _) if state.is_final() => "No image was published.".to_owned(),
            // The reason is an earlier attempt's; a band about it would say that all is over.
            _ => return None,
        };
        let what = match build.state {
            _ if build.waiting.is_some() => format!("Waiting: {reason}"),
            BuildState::Cancelled if reason == "cancelled" => "Cancelled".to_owned(),
            BuildState::Cancelled => format!("Cancelled: {reason}"),
            _ => reason,
        };
        let quoted = build.excerpt.len().saturating_sub(QUOTED);
        // Of another attempt's log nothing is said here.
        let failing = build.step.as_deref().filter(|_| shown.is_some() && shown == build.attempt);
        Some(Self {
            icon: look.icon,
            tone: look.tone.class(),
            location: build.location.as_deref().filter(|_| step.is_some()).map(printable),
            advice: build.advice.as_deref().map(printable),
            step,
            what,
            follows,
            excerpt: build.excerpt[quoted..].iter().map(|line| ansi::pieces(line)).collect(),
            line: failing.and_then(|step| sums.failing_line(step)),
        })
    }
}

impl AttemptView {
    fn new(attempt: &Attempt, build: &Build, shown: bool, now: OffsetDateTime) -> Self {
        let counts = Some(attempt.id) == build.attempt;
        let id = attempt.id.to_string();
        Self {
            href: address(&format!("/builds/{}", build.id), &[("attempt", Some(&id))]),
            number: attempt.number,
            worker: printable(&attempt.worker),
            look: if counts { Look::of(build, now) } else { Look::of_attempt(attempt) },
            lines: words::lines(attempt.entries),
            claimed: Moment::new(attempt.claimed_at, now),
            took: attempt.ended_at.map(|ended| words::duration(ended - attempt.claimed_at)),
            shown,
        }
    }
}
