//! The Build & Deploy timeline: builds left, deploys right, and the joints between them.

use time::OffsetDateTime;

use super::facts::{self, Took};
use super::icons::Icon;
use super::image::ImageUrl;
use super::query::deploy_page;
use super::row::Row;
use super::state::{self, Look, Tone};
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::timeline::protocol::{Build, BuildState, DeployState};
use crate::web::timeline::{Deployed, Entry};

/// The entries of a day.
pub(super) struct Day {
    pub(super) heading: String,
    pub(super) entries: Vec<EntryView>,
}

pub(super) struct EntryView {
    /// Of the element: the same as long as it is the same entry.
    pub(super) id: String,
    pub(super) builds: Vec<Joined>,
    /// What stands in the place of a build, of a deploy without one.
    pub(super) older: Option<Older>,
    pub(super) deploy: Option<DeployView>,
    /// Something of it is going to change.
    pub(super) running: bool,
}

/// A build, and what joins it to its deploy: the names of classes.
pub(super) struct Joined {
    pub(super) row: Row,
    pub(super) joint: &'static str,
    /// The end of the line to the deploy that there is none of.
    pub(super) broken: bool,
}

/// An image of before, deployed again.
pub(super) struct Older {
    /// It is an image of our registry, which has a page.
    pub(super) ours: bool,
    pub(super) image: Option<ImageUrl>,
}

pub(super) struct DeployView {
    pub(super) id: String,
    pub(super) href: Option<String>,
    pub(super) icon: Icon,
    pub(super) tone: Tone,
    pub(super) word: String,
    pub(super) serving: bool,
    /// It has begun, as far as was reported.
    pub(super) begun: bool,
    /// Of another app of the namespace.
    pub(super) of: Option<String>,
    pub(super) services: Vec<String>,
    /// What is said instead of a state that was reported.
    pub(super) note: Option<&'static str>,
    pub(super) started: Option<Moment>,
    pub(super) took: Option<Took>,
    pub(super) reason: Option<String>,
}

/// The entries by their days.
/// `registry` is the host of our own, whose images have pages.
pub(super) fn days(entries: &[Entry], registry: &str, now: OffsetDateTime) -> Vec<Day> {
    let mut days: Vec<Day> = Vec::new();
    for entry in entries {
        let heading = words::day_heading(entry.at, now);
        let view = EntryView::new(entry, registry, now);
        match days.last_mut().filter(|day| day.heading == heading) {
            Some(day) => day.entries.push(view),
            None => days.push(Day { heading, entries: vec![view] }),
        }
    }
    days
}

impl EntryView {
    fn new(entry: &Entry, registry: &str, now: OffsetDateTime) -> Self {
        let deploy = entry.deploy.as_ref().map(|deploy| DeployView::new(deploy, &entry.builds, now));
        let runs = |build: &Build| build.state.is_running() || build.state == BuildState::Queued;
        let rolls = entry.deploy.as_ref().and_then(|deploy| deploy.report.as_ref());
        let rolls = rolls.is_some_and(|report| report.state == DeployState::Running);
        Self {
            id: match (entry.builds.first(), &entry.deploy) {
                (Some(build), _) => format!("b-{}", build.id),
                (None, Some(deploy)) => format!("d-{}", deploy_page("", &deploy.id)),
                (None, None) => String::new(),
            },
            builds: joined(&entry.builds, entry.deploy.as_ref(), now),
            older: entry.builds.is_empty().then(|| {
                let report = entry.deploy.as_ref().and_then(|deploy| deploy.report.as_ref());
                let url = report.and_then(|report| report.image.as_deref());
                Older {
                    image: url.map(ImageUrl::new),
                    ours: url.and_then(|url| url.split_once('/')).is_some_and(|(host, _)| host == registry),
                }
            }),
            deploy,
            running: rolls || entry.builds.iter().any(runs),
        }
    }
}

fn joined(builds: &[Build], deploy: Option<&Deployed>, now: OffsetDateTime) -> Vec<Joined> {
    let unfinished = |build: &Build| !build.state.is_final();
    let published = |build: &Build| build.state == BuildState::Published;
    let has_begun = deploy.is_some_and(|deploy| deploy.report.is_some());
    let waits = builds.iter().any(unfinished);
    let broken = deploy.is_some() && !has_begun && !waits && !builds.iter().any(published);
    let joint = |at: usize| match (deploy, at, at + 1 < builds.len()) {
        (None, ..) => "none",
        (Some(_), 0, more) => match (broken, waits && !has_begun, deploy.is_some_and(|d| d.serving), more) {
            (true, _, _, false) => "joint broken",
            (true, _, _, true) => "joint broken forks",
            (_, true, _, false) => "joint waits",
            (_, true, _, true) => "joint waits forks",
            (_, _, true, false) => "joint serves",
            (_, _, true, true) => "joint serves forks",
            (_, _, _, false) => "joint",
            (_, _, _, true) => "joint forks",
        },
        (Some(_), _, true) => "joint rest forks",
        (Some(_), _, false) => "joint rest",
    };
    let row = |(at, build)| Joined { row: Row::new(build, now), joint: joint(at), broken: broken && at == 0 };
    builds.iter().enumerate().map(row).collect()
}

impl DeployView {
    fn new(deploy: &Deployed, builds: &[Build], now: OffsetDateTime) -> Self {
        let id = printable(&deploy.id);
        let namespace = builds.first().map(|build| &build.namespace);
        let namespace = deploy.report.as_ref().map(|report| &report.namespace).or(namespace);
        let Some(report) = &deploy.report else {
            let waits = builds.iter().any(|build| !build.state.is_final());
            let published = builds.iter().any(|build| build.state == BuildState::Published);
            let (icon, note) = match (waits, published) {
                (true, _) => (Icon::Queued, "waits for the build"),
                (_, true) => (Icon::Queued, "nothing was reported of it"),
                _ => (Icon::Cancelled, "not started: it has no image"),
            };
            return Self {
                id,
                href: None,
                icon,
                tone: Tone::Quiet,
                word: "Not reported".to_owned(),
                serving: false,
                begun: false,
                of: None,
                services: Vec::new(),
                note: Some(note),
                started: None,
                took: None,
                reason: None,
            };
        };
        let Look { icon, word, tone } = state::of_deploy(report.state);
        let of = builds.first().is_some_and(|build| build.app != report.app);
        Self {
            id,
            href: namespace.map(|namespace| deploy_page(namespace.as_str(), &deploy.id)),
            icon,
            tone,
            word,
            serving: deploy.serving,
            begun: report.state != DeployState::Waiting,
            of: of.then(|| report.app.to_string()),
            services: report.services.iter().map(|service| printable(service)).collect(),
            note: None,
            started: report.started_at.map(|at| Moment::new(at, now)),
            took: facts::deploy_took(report, now),
            reason: report.reason.as_deref().filter(|reason| !reason.is_empty()).map(printable),
        }
    }

    pub(super) fn reason_tone(&self) -> &'static str {
        if self.tone == Tone::Bad { "bad" } else { "quiet" }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn a_joint_tells_how_build_and_deploy_hang_together() {
        let joints = |builds: &[Build], deploy: Option<&Deployed>| {
            let rows = joined(builds, deploy, samples::NOW);
            rows.iter().map(|joined| joined.joint).collect::<Vec<_>>()
        };
        let (unknown, done) =
            (samples::deployed("shop-1", None), samples::deployed("shop-1", Some(DeployState::Done)));
        let serves = Deployed { serving: true, ..done.clone() };
        assert_eq!(joints(&[samples::published()], None), ["none"]);
        assert_eq!(joints(&[samples::published()], Some(&done)), ["joint"]);
        assert_eq!(
            joints(&[samples::published(), samples::published(), samples::published()], Some(&serves)),
            ["joint serves forks", "joint rest forks", "joint rest"]
        );
        assert_eq!(joints(&[samples::building()], Some(&unknown)), ["joint waits"]);
        assert_eq!(joints(&[samples::failed()], Some(&unknown)), ["joint broken"]);
        assert_eq!(
            joints(&[samples::failed(), samples::published()], Some(&unknown)),
            ["joint forks", "joint rest"]
        );
    }

    #[test]
    fn nothing_is_claimed_of_a_deploy_that_nobody_reported() {
        let unknown = samples::deployed("shop-1", None);
        let note = |build: Build| DeployView::new(&unknown, &[build], samples::NOW).note;
        assert_eq!(note(samples::building()), Some("waits for the build"));
        assert_eq!(note(samples::published()), Some("nothing was reported of it"));
        assert_eq!(note(samples::failed()), Some("not started: it has no image"));
    }
}
