//! `buildgrid cancel`, and the end of a build whose worker cannot hear of it.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use buildgrid::event::result::State;
use buildgrid::timeline::protocol::{AttemptState, BuildState};

use super::{Worker, ended, written};
use crate::support::grid::{TestGrid, fake_event};
use crate::support::process::buildgrid;
use crate::support::timeline::TestTimeline;

const HANG: &str = r#"{"log_lines":1,"outcome":"hang"}"#;

/// The grid's configuration as a file, with the token of a login.
fn told(grid: &TestGrid, timeline: &TestTimeline, login: &str) -> std::path::PathBuf {
    let token_file = timeline.token_file(login).display().to_string();
    let path = written(grid, |table| {
        table["queue"].as_table_mut().unwrap().insert("heartbeat".into(), "2s".into());
        let section = toml::Table::from_iter([
            ("url".to_owned(), timeline.url().into()),
            ("token_file".to_owned(), token_file.into()),
        ]);
        table.insert("timeline".into(), section.into());
    });
    let named = path.with_file_name(format!("{login}.toml"));
    std::fs::rename(path, &named).unwrap();
    named
}

/// Runs `buildgrid cancel`; answers its exit code and everything it said.
async fn cancel(config: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = buildgrid(config);
    command.arg("cancel").args(arguments);
    let output: Output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (code, errors) = ended(output);
    (code, format!("{said}{errors}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_ends_a_build_and_says_what_it_cannot_end() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    let config = told(&grid, &timeline, "maestro");
    grid.publish(fake_event("b-1", HANG)).await;
    timeline.until("it is built", "b-1", |build| build.build.state == BuildState::Building).await;
    let (code, said) = cancel(&config, &["b-1", "--wait"]).await;
    assert_eq!((code, said.as_str()), (0, "b-1  building, to be cancelled\nb-1  cancelled\n"));
    grid.result("b-1", State::Cancelled).await;
    // Once more changes nothing.
    assert_eq!(cancel(&config, &["b-1"]).await, (0, "b-1  cancelled\n".to_owned()));
    grid.publish(fake_event("b-2", r#"{"log_lines":1,"layers":1,"layer_bytes":10}"#)).await;
    grid.result("b-2", State::Published).await;
    timeline.until("its end is told", "b-2", |build| build.build.state == BuildState::Published).await;
    let (code, said) = cancel(&config, &["b-2"]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("build b-2 has ended: it is published"), "{said}");
    timeline.stop().await;
    let (code, said) = cancel(&config, &["b-2"]).await;
    assert_eq!(code, 69, "{said}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_of_a_frozen_worker_is_ended_by_another() {
    let mut grid = TestGrid::idle(|config| config.worker.name = "worker-2".to_owned()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    let frozen = Worker::start(&told(&grid, &timeline, "worker"));
    grid.publish(fake_event("b-1", HANG)).await;
    timeline.until("it is built", "b-1", |build| build.build.state == BuildState::Building).await;
    grid.config.worker.data_dir.set_file_name("worker-2");
    grid.start_worker().await;
    frozen.signal("-STOP");
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    // The broker gives the event to the other worker, which is told to wait while the lease holds; then it
    // is over, whoever looks.
    timeline.until("its lease is over", "b-1", |build| build.build.state == BuildState::Cancelled).await;
    let told = grid.result("b-1", State::Cancelled).await;
    assert_eq!(told.worker, "worker-2");
    let shown = timeline.build("b-1").await.unwrap();
    assert_eq!(shown.attempts.len(), 1, "{shown:#?}");

    // The frozen one hears of it at its next word, and ends as it was told: the same is said again.
    frozen.signal("-CONT");
    let ends = |build: &buildgrid::timeline::protocol::BuildDetail| {
        build.attempts[0].state == AttemptState::Cancelled
    };
    timeline.until("the attempt ends", "b-1", ends).await;
    for repeat in grid.ends("b-1").await {
        assert_eq!((repeat.attempt, repeat.state), (told.attempt, told.state));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    frozen.ends().await;
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_nobody_keeps_is_told() {
    let grid = TestGrid::idle(|_| ()).await;
    let path = written(&grid, |table| {
        let section = toml::Table::from_iter([("default".to_owned(), "serial".into())]);
        table.insert("policy".into(), section.into());
    });
    let output = buildgrid(&path).arg("check").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("note  policy: [policy] is set, and nobody keeps it: timeline.url is empty"),
        "{said}"
    );
    let log = path.with_file_name("log");
    let mut command = buildgrid(&path);
    command.arg("worker").stderr(std::fs::File::create(&log).unwrap());
    let worker = Worker(command.spawn().unwrap());
    crate::support::patience::until("the worker says so and is up", || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("[policy] is set, and nobody keeps it") && said.contains("worker started")
    })
    .await;
    worker.ends().await;
    grid.finish().await;
}
