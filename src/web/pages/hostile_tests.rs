//! Whatever stands in a commit, a ref, a log: none of it becomes markup, and no attribute ends early.

use std::collections::BTreeSet;

use regex::Regex;

use super::samples;
use super::*;
use crate::telemetry::printable::is_hidden;
use crate::timeline::entry::{LogEntry, Stream};
use crate::timeline::protocol::{App, Attempt, Build, BuildState, CommitInfo, DeployState, Page};
use crate::web::build_form::{self, BuildForm, FieldFault};
use crate::web::images::Layer;
use crate::web::timeline::{Current, Entry, TimelinePage};

/// Ends what it might stand in, begins what it might begin, and is easily found.
const HOSTILE: &str = "\"'>--></title></template></script><script src=//evil>alert('xss')</script><img src=x onerror='xss' \
     style=\"xss\">&lt;b&gt;\u{1b}[31m<i>red</i>\u{1b}[0m\u{1b}]0;<b>\u{7}\u{202e}gnp.exe\u{2066}\u{200b}\r\u{0}`${xss}{{xss}}javascript:xss";

fn hostile() -> String {
    HOSTILE.to_owned()
}

fn hostile_build(state: BuildState) -> Build {
    let base = if state == BuildState::Published { samples::published() } else { samples::failed() };
    Build {
        state,
        services: vec![hostile(), hostile()],
        git_ref: Some(hostile()),
        deploy_id: Some(hostile()),
        requested_by: Some(hostile()),
        image: (state == BuildState::Published).then(hostile),
        reason: Some(hostile()),
        step: Some(hostile()),
        excerpt: vec![hostile(), hostile()],
        worker: Some(hostile()),
        commit_info: Some(CommitInfo { subject: hostile(), author: hostile(), at: samples::NOW }),
        ..base
    }
}

fn hostile_entries() -> Vec<LogEntry> {
    let mut entries = samples::entries(0..6);
    for (entry, step) in
        entries.iter_mut().zip([None, Some(HOSTILE), Some("[1/2] x"), Some(HOSTILE), None, Some("")])
    {
        (entry.step, entry.text, entry.server) = (step.map(str::to_owned), hostile(), hostile());
    }
    entries[2].stream = Stream::Status;
    entries[3].stream = Stream::Status;
    entries[3].text = format!("failed after {HOSTILE}");
    entries[5].stream = Stream::Status;
    entries[5].text = format!("done in {HOSTILE}");
    entries
}

fn pages() -> Vec<(String, Document)> {
    let viewer = Viewer { name: hostile(), can_build: true };
    let filters = AppFilters { namespace: Some(hostile()), app: Some(hostile()), cursor: Some(hostile()) };
    let next = || Some(hostile());
    let mut pages = vec![
        ("sign-in".to_owned(), sign_in(Some(HOSTILE), &format!("/{HOSTILE}"))),
        ("sign-in, next".to_owned(), sign_in(None, "/\"><script>alert('xss')</script>")),
        ("fault".to_owned(), fault(http::StatusCode::NOT_FOUND, HOSTILE, HOSTILE)),
        (
            "no apps".to_owned(),
            samples::page_of_apps(&viewer, &Page { items: vec![], next: next() }, &filters),
        ),
    ];
    for &state in BuildState::ALL {
        let build = hostile_build(state);
        let list = App {
            namespace: build.namespace.clone(),
            app: build.app.clone(),
            services: build.services.clone(),
            last: build.clone(),
            current: Some(hostile_build(BuildState::Published)),
            usual_s: Some(f64::NAN),
        };
        let attempt = Attempt { worker: hostile(), entries: 9, complete: false, ..samples::attempt() };
        let earlier = Attempt { id: crate::timeline::protocol::AttemptId::generate(), ..attempt.clone() };
        pages.push((format!("app, {state}"), hostile_app(&viewer, &list, &build)));
        pages.push((
            format!("apps, {state}"),
            samples::page_of_apps(&viewer, &Page { items: vec![list], next: next() }, &filters),
        ));
        pages.push((format!("search, {state}"), hostile_search(&viewer, build.clone())));
        pages.push((format!("image, {state}"), hostile_image(&viewer, state)));
        let attempts = vec![earlier, attempt];
        pages.push((format!("build, {state}"), samples::page_of(build, &hostile_entries(), attempts)));
    }
    let mut deploy = samples::deploying();
    (deploy.id, deploy.report.reason) = (hostile(), Some(hostile()));
    (deploy.report.services, deploy.builds) = (vec![hostile()], vec![hostile_build(BuildState::Published)]);
    let mut lines = hostile_entries();
    lines.iter_mut().for_each(|line| (line.pod, line.service) = (Some(hostile()), Some(hostile())));
    pages.push(("deploy".to_owned(), samples::deploy_page(&deploy, &lines)));
    let of_log = LogFilters {
        server: Some(hostile()),
        service: Some(hostile()),
        pod: Some(hostile()),
        step: Some(hostile()),
        stream: Some(hostile()),
        q: Some(hostile()),
    };
    let sums = samples::sums_of(&lines);
    let part = LogPart { entries: &lines, more: true, filters: &of_log, sums: &sums, removed: None };
    pages.push(("deploy, filtered".to_owned(), super::deploy(&viewer, &deploy, part, samples::NOW)));
    pages
}

/// The form keeps what was typed as it is, hidden characters too: it goes back into fields, and to who typed it.
fn hostile_form() -> Document {
    let mut fields = url::form_urlencoded::Serializer::new(String::new());
    fields.extend_pairs(build_form::FIELDS.iter().map(|field| (field.name, HOSTILE)));
    fields.append_pair("id", HOSTILE).append_pair(HOSTILE, HOSTILE);
    let form = BuildForm::read(fields.finish().as_bytes());
    let viewer = Viewer { name: hostile(), can_build: true };
    let of = |field: &build_form::Field| FieldFault::of(Some(field.name), hostile());
    let mut faults: Vec<_> = build_form::FIELDS.iter().map(of).collect();
    faults.push(FieldFault::of(None, hostile()));
    super::build_form(&viewer, &form, None, &[hostile()], &faults, http::StatusCode::UNPROCESSABLE_ENTITY)
}

fn hostile_search(viewer: &Viewer, build: Build) -> Document {
    let mut found = samples::found();
    (found.builds, found.images) = (vec![build], vec![hostile_build(BuildState::Published)]);
    found.refs[0].2 = hostile();
    found.deploys[0].0 = hostile();
    search(viewer, HOSTILE, &found, samples::NOW)
}

fn hostile_app(viewer: &Viewer, app: &App, build: &Build) -> Document {
    let deploy = |state: DeployState| {
        let mut deploy = samples::deployed(HOSTILE, Some(state));
        if let Some(report) = &mut deploy.report {
            (report.services, report.image, report.reason) =
                (vec![hostile()], Some(hostile()), Some(hostile()));
        }
        deploy
    };
    let entry =
        |builds: &[Build], deploy| Entry { builds: builds.to_vec(), deploy: Some(deploy), at: samples::NOW };
    let mut entries = vec![entry(&[build.clone(), build.clone()], samples::deployed(HOSTILE, None))];
    entries.extend(DeployState::ALL.iter().map(|&state| entry(&[], deploy(state))));
    let history =
        TimelinePage { entries, next: Some(hostile()), services: vec![hostile()], refs: vec![hostile()] };
    let serving = Some((deploy(DeployState::Done), false));
    let current = Current { services: vec![hostile(), hostile()], build: app.current.clone(), serving };
    let view = AppView {
        app,
        service: Some(HOSTILE),
        current: &[current],
        history: &history,
        registry: HOSTILE,
        base: HOSTILE,
    };
    let (service, git_ref) = (Some(hostile()), Some(hostile()));
    let filters = BuildFilters { state: Some(build.state), service, git_ref, cursor: Some(hostile()) };
    super::app(viewer, &view, &filters, samples::NOW)
}

/// An image whose every word is the builder's or the orchestrator's.
fn hostile_image(viewer: &Viewer, state: BuildState) -> Document {
    let mut image = samples::image();
    (image.url, image.builds) = (hostile(), vec![hostile_build(state)]);
    image.made = Some(hostile_build(state));
    for deploy in &mut image.deploys {
        deploy.id = hostile();
    }
    let layer = |layer: &Layer| Layer { digest: hostile(), step: Some(hostile()), size: layer.size };
    let labels =
        serde_json::json!({"org.opencontainers.image.source": HOSTILE, "net.buildgrid.services": HOSTILE});
    let config = serde_json::json!({"os": HOSTILE, "architecture": HOSTILE, "variant": HOSTILE, "config": {
        "User": HOSTILE, "Env": [HOSTILE], "Entrypoint": [HOSTILE], "Cmd": [HOSTILE], "WorkingDir": HOSTILE,
        "ExposedPorts": {HOSTILE: {}}, "Volumes": {HOSTILE: {}}, "StopSignal": HOSTILE, "Labels": labels,
    }});
    if let Ok(content) = &mut image.content {
        content.layers = content.layers.iter().map(layer).collect();
        content.config = serde_json::from_value(config).unwrap();
        content.definition = Some(hostile());
    }
    if let Some(previous) = &mut image.previous {
        previous.build = hostile_build(state);
        previous.layers.clear();
    }
    super::image(viewer, &image, samples::NOW)
}

/// A tag as the templates write it: a name, and attributes that have no value or a quoted one.
const TAG: &str = r#"^</?[a-z][a-z0-9]*(?:\s+[a-zA-Z-]+(?:="[^"<>]*")?)*\s*/?>"#;

/// The tags of `html`, each of which must be whole; and what is between them, which must be text.
fn tags<'a>(name: &str, html: &'a str) -> Vec<&'a str> {
    let tag = Regex::new(TAG).unwrap();
    let mut rest = html.strip_prefix("<!doctype html>").unwrap();
    let mut tags = Vec::new();
    while let Some(at) = rest.find(['<', '>']) {
        rest = &rest[at..];
        let found = tag.find(rest).unwrap_or_else(|| {
            panic!("{name}: not a tag of ours: {}", rest.chars().take(200).collect::<String>())
        });
        tags.push(found.as_str());
        rest = &rest[found.end()..];
    }
    tags
}

#[test]
fn nothing_hostile_becomes_markup() {
    let ours: BTreeSet<&str> = "a b body button circle code datalist dd details dialog div dl dt footer form g h1 h2 head header html kbd \
         fieldset h3 input label legend li link main meta nav ol option p path pre rect script section span summary svg table tbody td template text \
         textarea th thead time title tr ul wbr"
        .split_whitespace()
        .collect();
    let attribute = Regex::new(r#"([a-zA-Z-]+)(?:="([^"]*)")?"#).unwrap();
    let name_of = Regex::new("^</?([a-z0-9]+)").unwrap();
    let form = ("build form".to_owned(), hostile_form());
    for (page, document) in pages().into_iter().chain([form]) {
        let mut scripts = 0;
        for tag in tags(&page, document.html()) {
            let name = &name_of.captures(tag).unwrap()[1];
            assert!(ours.contains(name), "{page}: {tag}");
            scripts += usize::from(tag.starts_with("<script"));
            for attribute in attribute.captures_iter(&tag[name.len() + 1..]) {
                let value = attribute.get(2).map_or("", |value| value.as_str());
                let name = &attribute[1];
                assert!(name != "style" && !name.starts_with("on"), "{page}: {tag}");
                if matches!(name, "href" | "src" | "action") {
                    let within = value.is_empty() || value.starts_with('#') || value.starts_with('/');
                    assert!(within && !value.starts_with("//"), "{page}: {tag}");
                }
                if name == "class" {
                    assert!(!value.contains("xss"), "{page}: {tag}");
                }
            }
        }
        assert!(scripts <= 2, "{page}: that of all pages, and that of a log");
    }
}

#[test]
fn nothing_hidden_comes_through() {
    for (page, document) in pages() {
        let hidden = |c: &char| is_hidden(*c) && *c != '\n';
        let found: Vec<char> = document.html().chars().filter(hidden).collect();
        assert!(found.is_empty(), "{page}: {found:?}");
    }
}

#[test]
fn the_script_writes_out_what_the_pages_do() {
    let script = include_str!("../assets/live.js");
    let class =
        Regex::new(r"/(\[\\0-[^\]]*\])/g").unwrap().captures(script).unwrap()[1].replace(r"\0", r"\x00");
    let class = Regex::new(&format!("^{class}$")).unwrap();
    for c in '\0'..='\u{ffff}' {
        assert_eq!(class.is_match(c.encode_utf8(&mut [0; 4])), is_hidden(c), "{c:?}");
    }
}

#[test]
fn the_words_are_all_there() {
    let page =
        samples::page_of(hostile_build(BuildState::Failed), &hostile_entries(), vec![samples::attempt()]);
    let html = page.html();
    assert!(html.contains("&#60;script src=//evil&#62;alert(&#39;xss&#39;)"), "escaped, not dropped");
    assert!(html.contains(r#"<span class="red">&#60;i&#62;red&#60;/i&#62;</span>"#), "colours are classes");
    assert!(html.contains("\\u{202e}gnp.exe"), "what turns text round is written out");
}

#[test]
fn buttons_are_for_those_who_may_press_them() {
    let detail = crate::timeline::protocol::BuildDetail {
        build: samples::building(),
        attempts: vec![samples::attempt()],
        usual_s: None,
    };
    let (filters, sums) = (LogFilters::default(), LogSums::default());
    let part = LogPart { entries: &[], more: false, filters: &filters, sums: &sums, removed: None };
    let cancel = r#"action="/builds/b-building/cancel""#;
    let may = build(&samples::viewer(), &detail, None, true, part, samples::NOW);
    assert!(may.html().contains(cancel) && !may.html().contains("/rebuild\""));
    let reader = Viewer { can_build: false, ..samples::viewer() };
    assert!(!build(&reader, &detail, None, true, part, samples::NOW).html().contains(cancel));
}

#[test]
fn interrupted_is_never_called_running() {
    for found in samples::all_looks().into_iter().filter(|build| build.state == BuildState::Interrupted) {
        let page = samples::page_of(found, &[], vec![samples::attempt()]);
        assert!(page.html().contains("No word from worker-2 for 41 s"));
        assert!(!page.html().contains("Running for") && !page.html().contains("data-running"));
    }
}

#[test]
fn the_policy_lets_nothing_inline_run() {
    assert!(!CONTENT_SECURITY_POLICY.contains("unsafe") && !CONTENT_SECURITY_POLICY.contains('\n'));
}
