//! Every repository of `fixtures/repos`, built as its users would: by a worker with several slots, out of a git
//! server, on the engine, into the store. What must come of each stands beside it, in `<name>.toml`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use buildgrid::event::result::{Kind, ResultEvent, State};
use buildgrid::store::Store;
use serde::Deserialize;
use serde_json::Value;

use crate::commit::{event, real};
use crate::credentials::credentials;
use crate::support::docker::BASE;
use crate::support::git::{GitServer, Repository};
use crate::support::grid::TestGrid;
use crate::support::image::{File, Published};
use crate::support::process::output;

/// What must come of a repository.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixture {
    /// Folders that are submodules, each with the fixture whose commit it is.
    #[serde(default)]
    submodules: BTreeMap<String, String>,
    /// Builds of it, one after the other.
    builds: Vec<Build>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    /// The event's `build`.
    #[serde(default)]
    build: toml::Table,
    published: Option<Image>,
    failed: Option<Failure>,
    /// Texts that lines of the log have, and that none has.
    #[serde(default)]
    log: Vec<String>,
    #[serde(default)]
    not_in_log: Vec<String>,
}

/// What is in the image, whatever else is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(default)]
    files: BTreeMap<String, Expected>,
    #[serde(default)]
    absent: Vec<String>,
    #[serde(default)]
    config: toml::Table,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Expected {
    Text(String),
    File(ExpectedFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFile {
    text: Option<String>,
    mode: Option<String>,
    /// `uid:gid`.
    owner: Option<String>,
    link: Option<String>,
}

/// What the author is told. What is left out must not be said.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    /// A part of it.
    reason: String,
    step: Option<String>,
    location: Option<String>,
    /// Its beginning.
    advice: Option<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fixture_comes_out_as_it_must() {
    let key = tempfile::tempdir().unwrap();
    let key = key.path().join("key");
    output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let key = std::fs::read_to_string(key).unwrap();
    let folder = credentials(&[("secret.smoke.npm-token", "hunter2-of-smoke"), ("ssh.smoke.default", &key)]);
    let grid = TestGrid::with(|config| {
        real(config);
        config.worker.slots = 4;
        config.worker.credentials_dir = Some(folder.path().to_owned());
    })
    .await;
    let server = GitServer::start();
    let fixtures = fixtures(&grid.config.registry.host);
    let repositories: BTreeMap<_, _> =
        fixtures.iter().map(|(name, fixture)| (name, repository(&server, name, fixture))).collect();
    let mut faults = Vec::new();
    // The first build of each, then the second.
    for round in 0..fixtures.values().map(|fixture| fixture.builds.len()).max().unwrap() {
        let builds: Vec<_> = fixtures
            .iter()
            .filter_map(|(name, fixture)| Some((name, format!("{name}-{round}"), fixture.builds.get(round)?)))
            .collect();
        for (name, id, build) in &builds {
            let repository = &repositories[name];
            grid.publish(event(id, &repository.url, &repository.head(), &options(build))).await;
        }
        for (_, id, build) in &builds {
            let found = check(&grid, id, build).await;
            faults.extend(found.into_iter().map(|fault| format!("{id}: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    grid.finish().await;
}

/// All fixtures by name; each folder has its file, and each file its folder.
fn fixtures(registry: &str) -> BTreeMap<String, Fixture> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/repos");
    let (mut repositories, mut fixtures) = (BTreeSet::new(), BTreeMap::new());
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            repositories.insert(name);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap().replace("{registry}", registry);
        let fixture = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fixtures.insert(name, fixture);
    }
    assert!(repositories.iter().eq(fixtures.keys()), "{repositories:?} and {:?}", fixtures.keys());
    fixtures
}

fn repository(server: &GitServer, name: &str, fixture: &Fixture) -> Repository {
    let repository = server.fixture(name);
    for (path, other) in &fixture.submodules {
        let other = server.fixture(other);
        repository.submodule(path, &format!("../{}", other.url.rsplit('/').next().unwrap()), &other.head());
    }
    if !fixture.submodules.is_empty() {
        repository.commit("Add submodules");
    }
    repository
}

/// The event's `build`, on the base image of the tests unless it says another.
fn options(build: &Build) -> String {
    let mut options = serde_json::to_value(&build.build).unwrap();
    options.as_object_mut().unwrap().entry("args").or_insert_with(|| serde_json::json!({}));
    options["args"].as_object_mut().unwrap().entry("BASE").or_insert_with(|| BASE.into());
    options.to_string()
}

/// What of a build is not as it must be.
async fn check(grid: &TestGrid, id: &str, build: &Build) -> Vec<String> {
    let end = grid.end(id).await;
    let mut faults = match (end.state, &build.published, &build.failed) {
        (State::Published, Some(expected), None) => compare(&published(grid, &end).await, expected),
        (State::Failed, None, Some(expected)) => compare_failure(&end, expected),
        _ => vec![format!("{end:?}")],
    };
    let log: String = grid.log(id).iter().map(|entry| format!("{}\n", entry.text)).collect();
    faults.extend(
        build.log.iter().filter(|text| !log.contains(*text)).map(|text| format!("no {text:?} in the log")),
    );
    faults.extend(
        build.not_in_log.iter().filter(|text| log.contains(*text)).map(|text| format!("{text:?} in the log")),
    );
    if !faults.is_empty() {
        faults.push(log);
    }
    faults
}

async fn published(grid: &TestGrid, end: &ResultEvent) -> Published {
    let store = Store::open_read_only(&grid.config.store).unwrap();
    let image = end.image.as_deref().unwrap();
    let name = image.strip_prefix(&format!("{}/", grid.config.registry.host)).unwrap();
    let (repository, _) = name.split_once(':').unwrap();
    Published::read(&store, &repository.parse().unwrap(), end.digest.unwrap()).await
}

fn compare(image: &Published, expected: &Image) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, expected) in &expected.files {
        match image.files.get(path) {
            None => faults.push(format!("there is no {path:?}")),
            Some(file) => {
                faults.extend(compare_file(file, expected).map(|fault| format!("{path:?}: {fault}")))
            }
        }
    }
    let present = expected.absent.iter().filter(|path| image.files.contains_key(*path));
    faults.extend(present.map(|path| format!("{path:?} is in the image")));
    for (key, expected) in &expected.config {
        let (expected, found) = (serde_json::to_value(expected).unwrap(), &image.config["config"][key]);
        if !has(found, &expected) {
            faults.push(format!("config.{key} is {found}, not {expected}"));
        }
    }
    faults
}

/// Whether `found` is `expected`; an object may have more.
fn has(found: &Value, expected: &Value) -> bool {
    match expected {
        Value::Object(fields) => {
            found.is_object() && fields.iter().all(|(key, value)| has(&found[key], value))
        }
        _ => found == expected,
    }
}

fn compare_file(file: &File, expected: &Expected) -> impl Iterator<Item = String> {
    let (text, mode, owner, link) = match expected {
        Expected::Text(text) => (Some(text), None, None, None),
        Expected::File(file) => {
            (file.text.as_ref(), file.mode.as_ref(), file.owner.as_ref(), file.link.as_ref())
        }
    };
    let found = [
        String::from_utf8_lossy(&file.content).into_owned(),
        format!("{:o}", file.mode),
        format!("{}:{}", file.owner.0, file.owner.1),
        file.link.clone().unwrap_or_default(),
    ];
    let differences = [text, mode, owner, link].map(|expected| expected.cloned());
    differences.into_iter().zip(found).filter_map(|(expected, found)| {
        let expected = expected?;
        (found != expected).then(|| format!("{found:?}, not {expected:?}"))
    })
}

fn compare_failure(end: &ResultEvent, expected: &Failure) -> Vec<String> {
    let reason = end.reason.as_deref().unwrap_or_default();
    let advised = match (&end.advice, &expected.advice) {
        (Some(advice), Some(beginning)) => advice.starts_with(beginning.as_str()),
        (advice, beginning) => advice == beginning,
    };
    let same = reason.contains(&expected.reason)
        && end.kind == Some(Kind::Build)
        && end.step == expected.step
        && end.location == expected.location
        && advised;
    if same { Vec::new() } else { vec![format!("{end:?}")] }
}
