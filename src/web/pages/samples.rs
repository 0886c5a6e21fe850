//! Builds, deploys, images and logs to render, for the tests.

use std::ops::Range;

use time::macros::datetime;
use time::{Duration, OffsetDateTime};

use super::*;
use crate::event::result::Kind;
use crate::publish::name::ImageName;
use crate::store::digest::Digest;
use crate::store::{Credential, NewCredential, Unread, UnreadLogin};
use crate::timeline::entry::{LogEntry, Stream, timestamp};
use crate::timeline::protocol::{
    App, Attempt, AttemptId, AttemptState, Build, BuildDetail, BuildState, CommitInfo, Deploy, DeployReport,
    DeployState, Page,
};
use crate::web::credentials::Kept;
use crate::web::db::overview::{Overview, Recent};
use crate::web::images::{Content, Image, Layer, Previous};
use crate::web::log::outline::Outline;
use crate::web::log::read::Counted;
use crate::web::search::Found;
use crate::web::timeline::{Current, Deployed, Entry, TimelinePage};

pub(super) const NOW: OffsetDateTime = datetime!(2026-11-23 10:31:00 UTC);

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";
const FAILING: &str = "[build 6/6] RUN bin/rails assets:precompile";

pub(super) fn viewer() -> Viewer {
    Viewer { name: "mara".to_owned(), can_build: true }
}

pub(super) fn attempt_id() -> AttemptId {
    "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11".parse().unwrap()
}

pub(super) fn published() -> Build {
    Build {
        id: "0193b2d6-6c1e-7d0a-9d2c-000000000418".parse().unwrap(),
        namespace: "acme".parse().unwrap(),
        app: "shop".parse().unwrap(),
        services: vec!["web".to_owned(), "worker".to_owned()],
        repository: "storefront".parse().unwrap(),
        commit: COMMIT.parse().unwrap(),
        git_ref: Some("refs/heads/main".to_owned()),
        deploy_id: Some("shop-418".to_owned()),
        requested_by: Some("deploy-bot".to_owned()),
        fake: false,
        rebuild: false,
        state: BuildState::Published,
        kind: None,
        reused: false,
        image: Some(format!("registry.example.com/acme/shop.storefront:{COMMIT}")),
        digest: Some(Digest::of(b"sample")),
        size: Some(98_700_000),
        reason: None,
        step: None,
        excerpt: Vec::new(),
        location: None,
        advice: None,
        commit_info: Some(CommitInfo {
            subject: "Round gift-card totals half-even".to_owned(),
            author: "Mara Lind".to_owned(),
            at: NOW - Duration::minutes(20),
        }),
        attempt: Some(attempt_id()),
        number: Some(1),
        worker: Some("worker-1".to_owned()),
        heard_at: Some(NOW - Duration::minutes(14)),
        cancel_requested_at: None,
        waiting: None,
        retry_at: None,
        created_at: NOW - Duration::seconds(960),
        started_at: Some(NOW - Duration::seconds(950)),
        finished_at: Some(NOW - Duration::seconds(842)),
        url: String::new(),
    }
}

pub(super) fn building() -> Build {
    Build {
        id: "b-building".parse().unwrap(),
        state: BuildState::Building,
        commit: "4b1f0a7d0ae598e95dc970b74767f19372d61af8".parse().unwrap(),
        image: None,
        digest: None,
        size: None,
        commit_info: Some(CommitInfo {
            subject: "Show stock per warehouse on the product page".to_owned(),
            ..published().commit_info.unwrap()
        }),
        deploy_id: Some("shop-419".to_owned()),
        heard_at: Some(NOW - Duration::seconds(41)),
        created_at: NOW - Duration::seconds(55),
        started_at: Some(NOW - Duration::seconds(52)),
        finished_at: None,
        ..published()
    }
}

pub(super) fn failed() -> Build {
    Build {
        id: "b-failed".parse().unwrap(),
        state: BuildState::Failed,
        kind: Some(Kind::Build),
        commit: "b7d21c4d0ae598e95dc970b74767f19372d61af8".parse().unwrap(),
        image: None,
        digest: None,
        size: None,
        reason: Some(format!("step {FAILING}: exit code 1")),
        step: Some(FAILING.to_owned()),
        excerpt: vec![
            "\x1b[31m✘ \x1b[1m[ERROR]\x1b[0m No matching export in \"app/javascript/lib/money.ts\""
                .to_owned(),
            "1 error".to_owned(),
        ],
        location: Some("Dockerfile:14".to_owned()),
        advice: Some("export the function that is imported, or import one that is there".to_owned()),
        commit_info: Some(CommitInfo {
            subject: "Use roundHalfEven in gift cards".to_owned(),
            ..published().commit_info.unwrap()
        }),
        deploy_id: Some("shop-417".to_owned()),
        created_at: NOW - Duration::minutes(29),
        started_at: Some(NOW - Duration::minutes(28)),
        finished_at: Some(NOW - Duration::minutes(28) + Duration::seconds(73)),
        ..published()
    }
}

fn with(id: &str, state: BuildState, change: impl FnOnce(&mut Build)) -> Build {
    let base = if state.is_final() { failed() } else { building() };
    let mut build = Build { id: id.parse().unwrap(), state, ..base };
    (build.reason, build.step, build.kind, build.excerpt) = (None, None, None, Vec::new());
    (build.location, build.advice) = (None, None);
    change(&mut build);
    build
}

/// One build of each look.
pub(super) fn all_looks() -> Vec<Build> {
    let infrastructure = |build: &mut Build| {
        build.kind = Some(Kind::Infrastructure);
        build.reason = Some("the store was unreachable in 5 attempts".to_owned());
    };
    vec![
        with("b-queued", BuildState::Queued, |build| {
            (build.attempt, build.number, build.worker, build.started_at) = (None, None, None, None);
            build.commit_info = None;
        }),
        with("b-waiting", BuildState::Queued, |build| {
            (build.attempt, build.number, build.worker, build.started_at) = (None, None, None, None);
            build.commit_info = None;
            build.waiting =
                Some("build b-building of the same app is running (policy latest-only)".to_owned());
        }),
        with("b-claimed", BuildState::Claimed, |build| build.commit_info = None),
        with("b-fetching", BuildState::Fetching, |build| build.commit_info = None),
        building(),
        with("b-publishing", BuildState::Publishing, |_| ()),
        with("b-interrupted", BuildState::Interrupted, |build| build.worker = Some("worker-2".to_owned())),
        with("b-retrying", BuildState::Retrying, |build| {
            infrastructure(build);
            build.retry_at = Some(NOW + Duration::seconds(52));
        }),
        published(),
        Build { id: "b-reused".parse().unwrap(), reused: true, fake: true, ..published() },
        failed(),
        with("b-infrastructure", BuildState::Failed, infrastructure),
        with("b-rejected", BuildState::Rejected, |build| {
            build.kind = Some(Kind::Event);
            build.reason = Some("build.secrets names npm-token; this worker cannot hand it over".to_owned());
        }),
        with("b-cancelled", BuildState::Cancelled, |build| {
            let reason = "a later event of refs/heads/main replaced it: build b-waiting (policy latest-only)";
            build.reason = Some(reason.to_owned());
        }),
    ]
}

pub(super) fn attempt() -> Attempt {
    Attempt {
        log_removed_at: None,
        id: attempt_id(),
        number: 1,
        worker: "worker-1".to_owned(),
        state: AttemptState::Building,
        fenced: false,
        stages: Vec::new(),
        entries: 414,
        complete: true,
        claimed_at: NOW - Duration::seconds(950),
        ended_at: Some(NOW - Duration::seconds(842)),
    }
}

pub(super) fn entries(range: Range<u64>) -> Vec<LogEntry> {
    let entry = |seq| LogEntry {
        seq,
        at: NOW - Duration::seconds(950) + Duration::milliseconds(130 * seq as i64),
        stream: Stream::Stdout,
        step: Some("[build 3/6] RUN bundle install --jobs 8 --retry 3".to_owned()),
        server: "worker-1".to_owned(),
        service: None,
        pod: None,
        text: format!("Installing gem {seq} \x1b[32mok\x1b[0m"),
    };
    range.map(entry).collect()
}

/// The log of [`failed`].
pub(super) fn story() -> Vec<LogEntry> {
    let lines: &[(Option<&str>, Stream, &str)] = &[
        (None, Stream::Status, "attempt 1 on worker-1"),
        (None, Stream::Status, "commit b7d21c4 \"Use roundHalfEven in gift cards\" by Mara Lind"),
        (Some("[base 1/3] FROM docker.io/library/ruby:3.3-slim-bookworm"), Stream::Status, "started"),
        (Some("[base 1/3] FROM docker.io/library/ruby:3.3-slim-bookworm"), Stream::Status, "done in 0.4 s"),
        (Some("[base 2/3] WORKDIR /app"), Stream::Status, "cached"),
        (
            Some(
                "[base 3/3] RUN apt-get update && apt-get install -y --no-install-recommends libpq5 libvips42",
            ),
            Stream::Status,
            "cached",
        ),
        (Some("[build 5/6] RUN yarn install --frozen-lockfile"), Stream::Status, "started"),
        (Some("[build 5/6] RUN yarn install --frozen-lockfile"), Stream::Stdout, "yarn install v1.22.22"),
        (Some("[build 5/6] RUN yarn install --frozen-lockfile"), Stream::Status, "done in 22.4 s"),
        (Some(FAILING), Stream::Status, "started"),
        (Some(FAILING), Stream::Stdout, "yarn run v1.22.22"),
        (Some(FAILING), Stream::Stdout, "\x1b[2m$ node esbuild.config.mjs --minify\x1b[22m"),
        (
            Some(FAILING),
            Stream::Stderr,
            "\x1b[31m✘ \x1b[1m[ERROR]\x1b[0m No matching export in \"app/javascript/lib/money.ts\" for import \"roundHalfEven\"",
        ),
        (Some(FAILING), Stream::Stderr, ""),
        (Some(FAILING), Stream::Stderr, "    app/javascript/checkout/giftcard.ts:3:9:"),
        (
            Some(FAILING),
            Stream::Stderr,
            "      3 │ import { \x1b[32mroundHalfEven\x1b[0m } from \"../lib/money\"",
        ),
        (
            Some(FAILING),
            Stream::Stderr,
            "\x1b[33mwarning\x1b[0m \x1b[36mcyan\x1b[0m \x1b[35mmagenta\x1b[0m \x1b[34mblue\x1b[0m",
        ),
        (
            Some(FAILING),
            Stream::Stdout,
            "/usr/local/bundle/gems/jsbundling-rails-1.3.1/lib/tasks/jsbundling/build.rake:8:in `block (2 levels) in <top (required)>' and more of it that does not fit",
        ),
        (
            Some(FAILING),
            Stream::Status,
            "failed after 16.6 s: process did not complete successfully: exit code: 1",
        ),
        (None, Stream::Status, "failed: step [build 6/6] RUN bin/rails assets:precompile: exit code 1"),
    ];
    let mut story = entries(0..lines.len() as u64);
    for (entry, (step, stream, text)) in story.iter_mut().zip(lines) {
        (entry.step, entry.stream, entry.text) = (step.map(str::to_owned), *stream, (*text).to_owned());
    }
    story
}

pub(super) fn app_of(name: &str, last: Build) -> App {
    let app: crate::publish::name::AppName = name.parse().unwrap();
    App {
        namespace: last.namespace.clone(),
        app: app.clone(),
        services: last.services.clone(),
        last: Build { app: app.clone(), ..last },
        current: Some(Build { app, ..published() }),
        usual_s: Some(110.0),
    }
}

pub(super) fn list<T>(items: Vec<T>) -> Page<T> {
    Page { items, next: Some("MTc5".to_owned()) }
}

/// A deploy of `acme/shop`, as it was reported.
pub(super) fn deployed(id: &str, state: Option<DeployState>) -> Deployed {
    let report = state.map(|state| DeployReport {
        namespace: "acme".parse().unwrap(),
        app: "shop".parse().unwrap(),
        state,
        services: vec!["web".to_owned(), "worker".to_owned()],
        started_at: Some(NOW - Duration::seconds(830)),
        finished_at: (state != DeployState::Running).then(|| NOW - Duration::seconds(788)),
        image: None,
        reason: (state == DeployState::Failed).then(|| "web-6f5d8c7b9-p4t8z not ready in 10 m".to_owned()),
    });
    Deployed { id: id.to_owned(), report, serving: false }
}

/// The timeline of the drawings, and behind it one build of each look.
pub(super) fn history() -> TimelinePage {
    let ago = |minutes: i64, builds: Vec<Build>, deploy: Option<Deployed>| {
        let at = NOW - Duration::minutes(minutes);
        let builds = builds.into_iter().map(|build| Build { created_at: at, ..build }).collect();
        Entry { builds, deploy, at }
    };
    let mailer = Build {
        id: "b-mailer".parse().unwrap(),
        reused: true,
        repository: "mailer".parse().unwrap(),
        image: Some(format!("registry.example.com/acme/shop.mailer:{COMMIT}")),
        rebuild: true,
        ..published()
    };
    let serving = Deployed { serving: true, ..deployed("shop-418", Some(DeployState::Done)) };
    let mut again = deployed("shop-415", Some(DeployState::Failed));
    if let Some(report) = &mut again.report {
        report.image = published().image;
    }
    let mut entries = vec![
        ago(1, vec![building()], Some(deployed("shop-419", None))),
        ago(15, vec![published()], Some(serving)),
        ago(29, vec![failed()], Some(deployed("shop-417", None))),
        ago(31, vec![published()], Some(deployed("shop-420", None))),
        ago(
            1031,
            vec![published(), mailer.clone(), mailer],
            Some(deployed("shop-416", Some(DeployState::Running))),
        ),
        ago(1060, vec![], Some(again)),
        ago(1070, vec![], Some(deployed("shop-414", Some(DeployState::Cancelled)))),
    ];
    entries.extend(all_looks().into_iter().map(|build| ago(2900, vec![build], None)));
    TimelinePage {
        entries,
        next: Some("MTc5".to_owned()),
        services: vec!["web".to_owned(), "worker".to_owned()],
        refs: vec!["refs/heads/main".to_owned(), "refs/heads/feature/warm-cache".to_owned()],
    }
}

pub(super) fn page_of_app(of: &App, history: &TimelinePage, filters: &BuildFilters) -> Document {
    let serving = Deployed { serving: true, ..deployed("shop-418", Some(DeployState::Done)) };
    let current =
        Current { services: of.services.clone(), build: of.current.clone(), serving: Some((serving, true)) };
    let view = AppView {
        app: of,
        service: None,
        current: &[current],
        history,
        registry: "registry.example.com",
        base: "https://builds.example.com",
    };
    app(&viewer(), &view, filters, NOW)
}

/// Something of each kind.
pub(super) fn found() -> Found {
    let (namespace, app) = (published().namespace, published().app);
    let report = deployed("shop-418", Some(DeployState::Done)).report.unwrap();
    Found {
        apps: vec![(namespace.clone(), app.clone())],
        builds: vec![building(), published(), failed()],
        images: vec![published()],
        refs: vec![(namespace, app, "refs/heads/feature/warm-cache".to_owned())],
        deploys: vec![("shop-418".to_owned(), report)],
    }
}

/// The image of the drawings.
pub(super) fn image() -> Image {
    let layer = |name: &str, size: u64, step: &str| Layer {
        digest: Digest::of(name.as_bytes()).to_string(),
        size,
        step: Some(step.to_owned()),
    };
    let bundle = "COPY /usr/local/bundle /usr/local/bundle # buildkit".replace("COPY", "COPY --from=build");
    let assets = "COPY --from=build /app/public/assets public/assets # buildkit";
    let layers = vec![
        layer("base", 45_300_000, "/bin/sh -c #(nop) ADD file:5f2c81 in / "),
        layer("workdir", 93, "WORKDIR /app"),
        layer(
            "apt",
            11_200_000,
            "RUN /bin/sh -c apt-get update && apt-get install -y --no-install-recommends libpq5 libvips42 # buildkit",
        ),
        layer("bundle", 32_900_000, &bundle),
        layer("assets", 6_100_000, assets),
        layer("app", 3_195_000, "COPY . . # buildkit"),
        layer(
            "user",
            2_100,
            "RUN |1 RAILS_ENV=production /bin/sh -c useradd --system --home /app app && chown -R app tmp log # buildkit",
        ),
    ];
    let mut before = layers.clone();
    before[3] = layer("bundle before", 32_500_000, &bundle);
    before[4] = layer("assets before", 4_900_000, assets);
    before[5] = layer("app before", 3_183_000, "COPY . . # buildkit");
    let config = serde_json::json!({"os": "linux", "architecture": "amd64", "config": {
        "Entrypoint": ["bin/docker-entrypoint"], "Cmd": ["bin/rails", "server"], "User": "app", "WorkingDir": "/app",
        "ExposedPorts": {"3000/tcp": {}}, "Env": ["RAILS_ENV=production", "LANG=C.UTF-8", "RUBY_VERSION=3.3.6"],
        "Labels": {"org.opencontainers.image.source": "https://git.example.com/acme/storefront.git", "net.buildgrid.services": "web,worker"},
    }});
    let earlier = Build {
        commit: "51c0e9a0d0ae598e95dc970b74767f19372d61af".parse().unwrap(),
        image: Some(
            "registry.example.com/acme/shop.storefront:51c0e9a0d0ae598e95dc970b74767f19372d61af".to_owned(),
        ),
        finished_at: Some(NOW - Duration::days(1)),
        ..published()
    };
    Image {
        name: ImageName { repository: "acme/shop.storefront".parse().unwrap(), tag: COMMIT.parse().unwrap() },
        url: format!("registry.example.com/acme/shop.storefront:{COMMIT}"),
        made: Some(published()),
        builds: vec![published()],
        deploys: vec![Deployed { serving: true, ..deployed("shop-418", Some(DeployState::Done)) }],
        content: Ok(Content {
            digest: Digest::of(b"sample"),
            size: layers.iter().map(|layer| layer.size).sum(),
            layers,
            config: serde_json::from_value(config).unwrap(),
            definition: Some(Digest::of(b"definition").to_string()),
        }),
        previous: Some(Previous {
            build: earlier,
            size: before.iter().map(|layer| layer.size).sum(),
            layers: before,
        }),
    }
}

/// The sums of a log that is no longer than these entries.
pub(super) fn sums_of(entries: &[LogEntry]) -> LogSums {
    let lines: Vec<String> = entries.iter().map(|entry| serde_json::to_string(entry).unwrap()).collect();
    let parts = Outline::of(lines.join("\n").as_bytes()).parts;
    let parts = parts.into_iter().map(|part| (part.lines, part)).map(|(lines, part)| (part, lines)).collect();
    let mut sums = LogSums::default();
    sums.add(&Counted { first_seq: 0, entries: entries.len() as u64, parts });
    sums
}

/// A detail of `build` with its log, rendered.
pub(super) fn page_of(build: Build, entries: &[LogEntry], attempts: Vec<Attempt>) -> Document {
    let counting = attempts.last().cloned();
    let detail = BuildDetail { build, attempts, usual_s: Some(110.0) };
    let (filters, sums) = (LogFilters::default(), sums_of(entries));
    let part = LogPart { entries, more: false, filters: &filters, sums: &sums, removed: None };
    super::build(&viewer(), &detail, counting.as_ref(), true, part, NOW)
}

/// A deploy, as it is reported while its pods start.
pub(super) fn deploying() -> Deploy {
    Deploy {
        id: "shop-418".to_owned(),
        report: DeployReport {
            namespace: "acme".parse().unwrap(),
            app: "shop".parse().unwrap(),
            state: DeployState::Running,
            services: vec!["web".to_owned(), "worker".to_owned()],
            started_at: Some(NOW - Duration::seconds(42)),
            finished_at: None,
            image: None,
            reason: None,
        },
        entries: 12,
        reported_at: NOW - Duration::seconds(3),
        builds: vec![published()],
    }
}

/// Lines of its pods.
pub(super) fn pod_lines() -> Vec<LogEntry> {
    let mut lines = entries(0..12);
    for (line, pod) in lines
        .iter_mut()
        .zip(["web-7c9d5f6b8-x2k4p", "web-7c9d5f6b8-m9v7c", "worker-5b8f9c4d7-hh6wz"].iter().cycle())
    {
        let service = pod.split('-').next().unwrap();
        (line.pod, line.service) = (Some((*pod).to_owned()), Some(service.to_owned()));
        line.step = Some(format!("Start {service}"));
        line.server = "node-a".to_owned();
    }
    lines
}

/// The page of a deploy with a log.
pub(super) fn deploy_page(deploy: &Deploy, entries: &[LogEntry]) -> Document {
    let (filters, sums) =
        (LogFilters { service: Some("web".to_owned()), ..LogFilters::default() }, sums_of(entries));
    let part = LogPart { entries, more: false, filters: &filters, sums: &sums, removed: None };
    super::deploy(&viewer(), deploy, part, NOW)
}

/// A credential as the store keeps it.
fn credential(user: &str, namespaces: &[&str], days: [i64; 2]) -> Credential {
    let at = |days: i64| timestamp::to_string(NOW - Duration::days(days));
    let digest = Digest::of(b"").to_string();
    serde_json::from_value(serde_json::json!({
        "user": user, "password_digest": digest, "namespaces": namespaces,
        "created_at": at(days[0]), "rotated_at": at(days[1]),
    }))
    .unwrap()
}

pub(super) fn kept(writable: bool) -> Kept {
    let credentials = vec![
        credential("acme-k3v9", &["acme"], [81, 0]),
        credential("audit-p5w0", &["acme", "globex", "smoke"], [318, 318]),
        credential("globex-prod-7m2d", &["globex"], [189, 189]),
        credential("smoke-c1x8", &["smoke"], [294, 22]),
    ];
    Kept::Here { credentials, damaged: Vec::new(), unread: Vec::new(), writable }
}

pub(super) fn none_kept() -> Kept {
    Kept::Here { credentials: Vec::new(), damaged: Vec::new(), unread: Vec::new(), writable: true }
}

/// One of those that are kept is damaged, and one cannot be read.
pub(super) fn damaged() -> Kept {
    let Kept::Here { credentials, writable, .. } = kept(true) else { unreachable!("they are here") };
    let path = "/srv/store/buildgrid/credentials/smoke-h5r1.json".to_owned();
    let file = Unread { path, reason: "it cannot be read: Permission denied (os error 13)".to_owned() };
    let unread = vec![UnreadLogin { user: "smoke-h5r1".parse().unwrap(), file }];
    Kept::Here { credentials, damaged: vec!["globex-old-4t0e".parse().unwrap()], unread, writable }
}

pub(super) fn new_credential() -> NewCredential {
    let password = "t4kq9w2mxf7db3hz6rvnp8cy5jgs2eau".to_owned().into();
    NewCredential { credential: credential("acme-k3v9", &["acme"], [81, 0]), password }
}

pub(super) fn settings_of(managed: Option<&Kept>) -> Settings<'_> {
    Settings { host: "registry.example.com", managed, fresh: None, namespaces: &[], any_namespace: true }
}

/// The last builds of an app.
pub(super) fn recent() -> Vec<Recent> {
    let took = |state, seconds| Recent {
        state,
        kind: None,
        reused: false,
        started_at: Some(NOW - Duration::seconds(seconds)),
        finished_at: (state != BuildState::Building).then_some(NOW),
    };
    let mut recent: Vec<Recent> = [40, 38, 41, 39, 90, 52, 40, 2, 44]
        .iter()
        .map(|&seconds| took(BuildState::Published, seconds))
        .collect();
    recent.insert(0, took(BuildState::Building, 34));
    recent.insert(4, took(BuildState::Failed, 30));
    recent.insert(6, Recent { kind: Some(Kind::Infrastructure), ..took(BuildState::Failed, 12) });
    recent
}

/// The page of these apps.
pub(super) fn page_of_apps(viewer: &Viewer, apps: &Page<App>, filters: &AppFilters) -> Document {
    let recent = vec![recent(); apps.items.len()];
    let count = apps.items.len() as u64;
    let overview =
        Overview { apps: count, namespaces: 3, running: 2, waiting: 1, published_today: 38, failed_today: 3 };
    let namespaces = ["acme", "globex", "smoke"].map(str::to_owned);
    super::apps(
        viewer,
        &AppsView { page: apps, recent: &recent, overview, namespaces: &namespaces },
        filters,
        NOW,
    )
}
