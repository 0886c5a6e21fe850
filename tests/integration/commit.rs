//! From a commit on a git server to a container that runs: every part is real.

use std::process::Command;

use buildgrid::config::Config;
use buildgrid::event::result::{Kind, ResultEvent, State};

use crate::support::address::free_address;
use crate::support::docker::{self, BASE, SOCKET, base_image, docker, unique};
use crate::support::git::{GitServer, Repository};
use crate::support::grid::TestGrid;
use crate::support::patience::until;
use crate::support::process::run;

/// Builds on the real engine, out of a git server on loopback.
pub fn real(config: &mut Config) {
    base_image();
    config.engine.host = docker::host();
    config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
}

pub fn event(id: &str, url: &str, commit: &str, build: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","repository":{{"url":"{url}"}},
            "commit":"{commit}","ref":"refs/heads/main","build":{build}}}"#
    )
}

fn with_base() -> String {
    format!(r#"{{"args":{{"BASE":"{BASE}"}}}}"#)
}

/// The failure of building one fixture.
async fn failure(fixture: &str, build: &str) -> ResultEvent {
    let server = GitServer::start();
    let repository = server.fixture(fixture);
    let grid = TestGrid::with(real).await;
    let id = unique();
    grid.publish(event(&id, &repository.url, &repository.head(), build)).await;
    let failed = grid.result(&id, State::Failed).await;
    assert_eq!(failed.kind, Some(Kind::Build));
    let last = grid.log(&id).pop().unwrap();
    assert!(
        last.text.contains(failed.reason.as_deref().unwrap()),
        "the log ends with the reason: {}",
        last.text
    );
    grid.finish().await;
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_becomes_a_container_that_runs() {
    let server = GitServer::start();
    let repository: Repository = server.fixture("hello");
    let grid = TestGrid::with(real).await;
    let id = unique();
    // The greeting makes the image this test's own: nothing of it is on the engine when it is pulled.
    let build = format!(r#"{{"args":{{"BASE":"{BASE}","GREETING":"greetings from {id}"}}}}"#);
    grid.publish(event(&id, &repository.url, &repository.head(), &build)).await;
    let published = grid.result(&id, State::Published).await;
    let image = published.image.unwrap();
    let log = grid.log(&id);
    let text: String = log.iter().map(|entry| format!("{}\n", entry.text)).collect();
    assert!(text.contains("Add hello") && text.contains("laying mortar"), "{text}");
    assert!(log.iter().any(|entry| entry.step.as_deref().is_some_and(|step| step.contains("RUN ls -A"))));
    assert!(!text.contains("internal.txt"), "what .dockerignore names is not in the image: {text}");

    let (user, password) = grid.credential("smoke").await;
    let home = tempfile::tempdir().unwrap();
    let client = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.env("DOCKER_CONFIG", home.path()).args(arguments);
        command
    };
    let host = grid.config.registry.host.as_str();
    run(client(&["login", "--username", &user, "--password-stdin", host]), &password).await.succeeded();
    run(client(&["pull", &image]), "").await.succeeded();
    let said = run(client(&["run", "--rm", "--network", "none", &image]), "").await.succeeded();
    assert_eq!(said.trim(), format!("greetings from {id}, built by BuildGrid"));
    let inspected = docker(&["image", "inspect", "--format", "{{json .Config.Labels}}", &image]);
    let labels: serde_json::Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(labels["org.opencontainers.image.revision"], repository.head());
    assert_eq!(labels["org.opencontainers.image.source"], repository.url);
    assert_eq!(labels["net.buildgrid.build"], id.as_str());
    docker(&["rmi", &image]);

    // A second commit stores only the layers that are new.
    repository.write("notes.md", "more");
    let commit = repository.commit("Add notes");
    let second = unique();
    grid.publish(event(&second, &repository.url, &commit, &build)).await;
    grid.result(&second, State::Published).await;
    let text: Vec<String> = grid.log(&second).into_iter().map(|entry| entry.text).collect();
    assert!(
        text.iter().any(|line| line.starts_with("layer 1 of") && line.contains("already stored")),
        "{text:#?}"
    );
    assert!(text.iter().any(|line| line.contains(": stored ")), "{text:#?}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_is_told_with_its_last_lines() {
    let failed = failure("build-fails", &with_base()).await;
    assert!(failed.step.as_deref().unwrap().contains("RUN for file in"), "{failed:?}");
    assert!(failed.reason.as_deref().unwrap().contains("exit code 3"), "{failed:?}");
    assert!(failed.excerpt.iter().any(|line| line.contains("util.c:7: error")), "{failed:?}");
    assert_eq!(failed.location.as_deref(), Some("Dockerfile:5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_names_the_line_and_what_to_try() {
    let server = GitServer::start();
    let repository = server.empty("explained");
    let dockerfile = format!(
        "# what is built\nFROM {BASE} AS tools\nRUN true\n\nFROM {BASE}\nWORKDIR /x\nRUN true && \\\n  no-such-program\n"
    );
    repository.write("web/docker/Dockerfile", dockerfile);
    let commit = repository.commit("Call what is not there");
    let grid = TestGrid::with(real).await;
    let build = r#"{"root":"web","dockerfile":"docker/Dockerfile"}"#;
    grid.publish(event("b-1", &repository.url, &commit, build)).await;
    let failed = grid.result("b-1", State::Failed).await;
    assert!(failed.reason.as_deref().unwrap().contains("exit code 127"), "{failed:?}");
    assert_eq!(failed.location.as_deref(), Some("web/docker/Dockerfile:7"));
    let advice = failed.advice.unwrap();
    assert!(advice.starts_with("a command was not found"), "{advice}");
    // The log can be read alone.
    grid.log_line("b-1", &format!("advice: {advice}")).await;
    let last = grid.log("b-1").pop().unwrap();
    assert!(last.text.ends_with("exit code 127 (web/docker/Dockerfile:7)"), "{last:?}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_dockerfile_is_told_with_those_that_are_there() {
    let failed = failure("no-dockerfile", "{}").await;
    let reason = failed.reason.unwrap();
    assert!(reason.contains("docker/Dockerfile") && reason.contains("build.dockerfile"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_source_have_sentences_of_their_own() {
    let server = GitServer::start();
    let repository = server.fixture("hello");
    let broken = server.empty("broken");
    broken.write("Dockerfile", format!("FROM {BASE}\nRUNN make\n"));
    let broken_commit = broken.commit("Break it");
    let grid = TestGrid::with(real).await;

    let missing = "9fceb02d0ae598e95dc970b74767f19372d61af8";
    grid.publish(event("missing", &repository.url, missing, "{}")).await;
    let failed = grid.result("missing", State::Failed).await;
    assert!(failed.reason.as_deref().unwrap().contains(missing), "{failed:?}");

    grid.publish(event("broken", &broken.url, &broken_commit, "{}")).await;
    let failed = grid.result("broken", State::Failed).await;
    assert!(failed.reason.as_deref().unwrap().contains("RUNN"), "{failed:?}");

    let nowhere = format!("{}/nothing.git", server.url);
    grid.publish(event("nowhere", &nowhere, &repository.head(), "{}")).await;
    let failed = grid.result("nowhere", State::Failed).await;
    assert!(failed.reason.as_deref().unwrap().contains("nothing.git"), "{failed:?}");

    // A server that is not there is not the build's fault.
    let gone = free_address();
    grid.publish(event("gone", &format!("http://{gone}/x.git"), missing, "{}")).await;
    let retrying = grid.result("gone", State::Retrying).await;
    assert_eq!(retrying.kind, Some(Kind::Infrastructure));
    assert!(retrying.reason.as_deref().unwrap().contains(&gone.to_string()), "{retrying:?}");
    // It waits in the retry queue, which is this test's to empty.
    grid.rabbit.control(&["purge_queue", "--vhost", grid.rabbit.vhost(), "buildgrid.builds.retry.10s"]).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_back_is_built_on() {
    let server = GitServer::start();
    let repository = server.fixture("hello");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let grid = TestGrid::with(|config| {
        real(config);
        config.engine.host = format!("unix://{}", socket.display());
    })
    .await;
    let id = unique();
    grid.publish(event(&id, &repository.url, &repository.head(), &with_base())).await;
    let ready = format!("http://{}/readyz", grid.config.worker.status_listen);
    let answer = reqwest::get(&ready).await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert!(answer.text().await.unwrap().contains("docker.sock"));
    assert!(!grid.build_directory(&id).exists(), "nothing is taken without an engine");
    std::os::unix::fs::symlink(SOCKET, &socket).unwrap();
    grid.result(&id, State::Published).await;
    until("the worker is ready", || {
        let answer = Command::new("curl").args(["--silent", "--fail", &ready]).output().unwrap();
        answer.status.success()
    })
    .await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_start_removes_what_a_crash_has_left_on_the_engine() {
    let mut grid = TestGrid::idle(real).await;
    let (id, engine_build) = (unique(), uuid::Uuid::now_v7());
    let directory = grid.build_directory(&id);
    std::fs::create_dir_all(&directory).unwrap();
    let state = format!(r#"{{"attempt":1,"stage":"building","engine_build":"{engine_build}"}}"#);
    std::fs::write(directory.join("state.json"), state).unwrap();
    let tag = format!("buildgrid.local/build:{engine_build}");
    docker(&["tag", BASE, &tag]);
    grid.start_worker().await;
    let left = || docker::private_tags(&format!("reference={tag}"));
    until("the crash's image is gone", || left().is_empty()).await;
    docker(&["image", "inspect", BASE]);
    grid.finish().await;
}
