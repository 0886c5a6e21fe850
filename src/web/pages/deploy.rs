//! `/deploys/<id>`: what Maestro reports of a deploy, the image that it brings, and the log of its pods.

use std::collections::BTreeMap;

use askama::Template;
use http::StatusCode;
use time::OffsetDateTime;

use super::document::{Document, Frame, Viewer};
use super::facts::{self, Took};
use super::filters::Place;
use super::icons::Icon;
use super::image::ImageUrl;
use super::log::{LogPart, LogView};
use super::query::address;
use super::state::{self, Look};
use super::sums::{LogSums, Pod};
use super::words::{self, Moment};
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{Build, Deploy, DeployState};

#[derive(Template)]
#[template(path = "deploy.html")]
struct DeployPage {
    frame: Frame,
    id: String,
    namespace: String,
    app: String,
    look: Look,
    /// Something may still come of it.
    open: bool,
    running: bool,
    reason: Option<String>,
    commit: Option<(String, String, Option<String>)>,
    requester: Option<String>,
    started: Option<Moment>,
    reported: Moment,
    took: Option<Took>,
    builds: Vec<BuildLink>,
    image: Option<ImageUrl>,
    size: Option<String>,
    rail: Vec<Service>,
    /// There are pods that it does not list.
    unlisted: bool,
    lines: String,
    log: LogView,
    now: String,
    copy: Icon,
}

struct BuildLink {
    href: String,
    short: String,
    look: Look,
    took: Option<Took>,
}

/// A service with its pods, in the rail.
struct Service {
    /// None for pods of which no line names a service.
    name: Option<String>,
    /// The class of its colour.
    colour: &'static str,
    href: String,
    chosen: bool,
    pods: Vec<PodRow>,
}

struct PodRow {
    name: String,
    server: String,
    lines: String,
    href: String,
    chosen: bool,
}

pub fn deploy(viewer: &Viewer, deploy: &Deploy, part: LogPart<'_>, now: OffsetDateTime) -> Document {
    let report = &deploy.report;
    let log = LogView::of_deploy(deploy, part);
    // Its image is the one that was reported with it, or that of its newest build which has one.
    let built = deploy.builds.iter().find(|build| build.image.is_some());
    let image = report.image.as_deref().or_else(|| built?.image.as_deref());
    let told = built.or_else(|| deploy.builds.first());
    let template = DeployPage {
        frame: Frame::new(Some(viewer)).of_log(),
        id: printable(&deploy.id),
        namespace: report.namespace.to_string(),
        app: report.app.to_string(),
        look: state::of_deploy(report.state),
        open: log.open,
        running: report.state == DeployState::Running,
        reason: report.reason.as_deref().map(printable),
        commit: told.map(|build| {
            (build.commit.to_string(), build.commit.short().to_owned(), facts::short_ref(build))
        }),
        requester: told.and_then(|build| build.requested_by.as_deref()).map(printable),
        started: report.started_at.map(|at| Moment::new(at, now)),
        reported: Moment::new(deploy.reported_at, now),
        took: facts::deploy_took(report, now),
        builds: deploy.builds.iter().map(|build| BuildLink::new(build, now)).collect(),
        image: image.map(ImageUrl::new),
        size: built
            .filter(|build| build.image.as_deref() == image)
            .and_then(|build| build.size)
            .map(words::size),
        unlisted: part.sums.unlisted,
        rail: rail(&log.page, report.namespace.as_str(), &part),
        lines: words::lines(part.sums.lines),
        log,
        now: timestamp::to_string(now),
        copy: Icon::Copy,
    };
    Document::render(StatusCode::OK, &template)
}

impl BuildLink {
    fn new(build: &Build, now: OffsetDateTime) -> Self {
        Self {
            href: format!("/builds/{}", build.id),
            short: build.commit.short().to_owned(),
            look: Look::of(build, now),
            took: facts::took(build, now),
        }
    }
}

/// The pods, by the service that their lines name.
fn rail(path: &str, namespace: &str, part: &LogPart<'_>) -> Vec<Service> {
    let LogSums { pods, services, .. } = part.sums;
    let mut by_service: BTreeMap<Option<&str>, Vec<(&String, &Pod)>> = BTreeMap::new();
    for service in services.keys() {
        by_service.entry(Some(service)).or_default();
    }
    for (name, pod) in pods {
        by_service.entry(pod.service.as_deref()).or_default().push((name, pod));
    }
    let filters = part.filters;
    let place = Place { path, fixed: vec![("namespace", Some(namespace.to_owned()))], filters };
    let link = |name: &'static str, value: Option<&str>, chosen: bool| {
        address(path, &place.with(name, value.filter(|_| !chosen)))
    };
    let row = |(name, pod): (&String, &Pod)| {
        let chosen = filters.pod.as_ref() == Some(name);
        PodRow {
            name: printable(name),
            server: printable(&pod.server),
            lines: words::thousands(pod.lines),
            href: link("pod", Some(name), chosen),
            chosen,
        }
    };
    by_service.retain(|name, pods| name.is_some() || !pods.is_empty());
    let mut rail = Vec::with_capacity(by_service.len());
    for (index, (name, pods)) in by_service.into_iter().enumerate() {
        let chosen = name.is_some() && filters.service.as_deref() == name;
        rail.push(Service {
            name: name.map(printable),
            colour: ["teal", "purple"][index % 2],
            href: link("service", name, chosen),
            chosen,
            pods: pods.into_iter().map(row).collect(),
        });
    }
    rail
}
