//! A worker process that is killed, and the timeline service that it told; that service's own clock.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use buildgrid::event::deploy::DeployEvent;
use buildgrid::event::result::State;
use buildgrid::timeline::TimelineConfig;
use buildgrid::timeline::client::TimelineClient;
use buildgrid::timeline::protocol::{AttemptId, BuildState, Claim, ClaimAnswer, LEASE};

use super::{Worker, written};
use crate::support::address::free_address;
use crate::support::clock::Clock;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::until;
use crate::support::played::PlayedAttempt;
use crate::support::process::buildgrid;
use crate::support::process::output;
use crate::support::timeline::TestTimeline;

const SLOW: &str = r#"{"log_lines":30,"line_interval_ms":100}"#;

/// The grid's configuration as a file, with this timeline.
fn told(grid: &TestGrid, timeline: &TestTimeline) -> PathBuf {
    let section: toml::Table =
        format!("url = {:?}\ntoken_file = {:?}", timeline.url(), timeline.token_file("worker"))
            .parse()
            .unwrap();
    written(grid, |table| {
        table.insert("timeline".into(), section.into());
    })
}

/// Lets a worker build until the third line, kills it, and lets another one end the build.
async fn killed_and_started_again(grid: &TestGrid, config: &Path) -> Worker {
    let mut worker = Worker::start(config);
    grid.publish(fake_event("b-1", SLOW)).await;
    grid.log_line("b-1", "fake line 3").await;
    worker.signal("-KILL");
    worker.exit_code().await;
    let worker = Worker::start(config);
    grid.result("b-1", State::Published).await;
    worker
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_worker_does_not_wait_for_itself() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let worker = killed_and_started_again(&grid, &told(&grid, &timeline)).await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    let [first, second] = build.attempts.as_slice() else { panic!("{build:#?}") };
    assert_eq!((build.build.state, build.build.attempt), (BuildState::Published, Some(second.id)));
    assert!(first.entries > 3 && first.fenced && !first.complete, "{first:#?}");
    assert!(second.complete && !second.fenced, "{second:#?}");
    assert!(second.claimed_at - first.claimed_at < LEASE, "no lease had to run out");
    worker.ends().await;
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_the_service_is_away_is_told_later() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    let worker = killed_and_started_again(&grid, &told(&grid, &timeline)).await;
    timeline.start_again().await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 2));
    assert!(build.attempts.iter().all(|attempt| attempt.entries > 3), "{build:#?}");
    worker.ends().await;
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_ends_no_live_lease_and_prolongs_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (listen, status) = (free_address(), free_address());
    let text = format!(
        "[timeline]\nlisten = \"{listen}\"\nstatus_listen = \"{status}\"\ndata_dir = \"{}\"\n[logging]\nformat = \"text\"\n",
        at("data").display()
    );
    std::fs::write(at("worker-config.toml"), text).unwrap();
    let clock = Clock::right();
    let mut command = buildgrid(&at("worker-config.toml"));
    command.arg("timeline").stderr(File::create(at("log")).unwrap());
    clock.rules(&mut command);
    let service = Worker(command.spawn().unwrap());
    let says = |words: &str| std::fs::read_to_string(at("log")).unwrap().contains(words);
    until("the timeline serves", || says("the timeline is serving")).await;
    let token = output(buildgrid(&at("worker-config.toml")).args([
        "token",
        "add",
        "worker",
        "--role",
        "worker",
        "--all-namespaces",
        "--quiet",
    ]));
    std::fs::write(at("token"), token).unwrap();
    let config = TimelineConfig {
        url: format!("http://{listen}"),
        token_file: Some(at("token")),
        ..Default::default()
    };
    let client = TimelineClient::new(&config).unwrap().unwrap();

    let event = fake_event("b-1", "{}");
    let _silent = PlayedAttempt::claim(&client, &event).await;
    let id = DeployEvent::parse(event.as_bytes()).unwrap().0.id;
    let other = || async {
        let claim = Claim {
            event: event.clone(),
            worker: "worker-2".to_owned(),
            attempt: AttemptId::generate(),
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        client.claim(&id, &claim).await.unwrap()
    };
    let waits = |answer: ClaimAnswer| assert!(matches!(answer, ClaimAnswer::Wait { .. }), "{answer:?}");
    clock.set("+1h");
    until("the step is seen", || says("step_s=3600")).await;
    waits(other().await);
    clock.set("+0");
    until("the step back is seen", || says("step_s=-3600")).await;
    let since = tokio::time::Instant::now();
    waits(other().await);
    // Its worker has died: what it held is free after a lease, and not after an hour.
    tokio::time::sleep(LEASE - Duration::from_secs(5)).await;
    waits(other().await);
    while other().await != (ClaimAnswer::Go { next_seq: 0 }) {
        assert!(since.elapsed() < LEASE + Duration::from_secs(5), "a lease lasts {LEASE:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    service.ends().await;
}
