//! A cancel reaches a build wherever it is, within ten seconds, and its end is told once.

use std::time::{Duration, Instant};

use buildgrid::event::result::{ResultEvent, State};
use buildgrid::timeline::protocol::{AttemptState, BuildDetail, BuildState};

use super::{COMMIT, quick};
use crate::support::docker::{self, BASE, base_image, runs, unique};
use crate::support::git::GitServer;
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::grid::{TestGrid, fake_event, files};
use crate::support::patience::until;
use crate::support::proxy::Mode;
use crate::support::timeline::TestTimeline;

/// The promise: from the call to the last process.
const PROMISED: Duration = Duration::from_secs(10);

const HANG: &str = r#"{"log_lines":1,"outcome":"hang"}"#;

/// A grid that is told to a timeline, with its worker running, which builds on the real engine.
async fn real() -> (TestGrid, TestTimeline) {
    base_image();
    let mut grid = TestGrid::idle(|config| {
        config.engine.host = docker::host();
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
    })
    .await;
    let timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    (grid, timeline)
}

fn event(id: &str, url: &str, commit: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","repository":{{"url":"{url}"}},
            "commit":"{commit}","ref":"refs/heads/main"}}"#
    )
}

/// Asks for the end of a build, which is taken.
async fn cancel(timeline: &TestTimeline, id: &str) -> Instant {
    let asked = Instant::now();
    assert_eq!(timeline.post(&format!("builds/{id}/cancel"), "").await.status().as_u16(), 202);
    asked
}

fn is_building(build: &BuildDetail) -> bool {
    build.build.state == BuildState::Building
}

/// Waits for the end of a cancelled build, which is told once.
async fn told_once(grid: &TestGrid, id: &str) -> ResultEvent {
    let told = grid.result(id, State::Cancelled).await;
    assert_eq!(grid.ends(id).await, std::slice::from_ref(&told));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_step_is_gone_though_it_does_not_want_to() {
    let (grid, mut timeline) = real().await;
    let server = GitServer::start();
    let repository = server.empty("stubborn");
    let sleep = docker::long_sleep();
    let step = format!("trap '' TERM INT HUP; sleep {sleep}; sleep {sleep}");
    repository.write("Dockerfile", format!("FROM {BASE}\nRUN {step}\n"));
    let (id, commit) = (unique(), repository.commit("Be stubborn"));
    grid.publish(event(&id, &repository.url, &commit)).await;
    until("the step runs", || runs(&sleep)).await;
    let asked = cancel(&timeline, &id).await;
    until("the step's processes are gone", || !runs(&sleep)).await;
    assert!(asked.elapsed() < PROMISED, "{:?}", asked.elapsed());
    told_once(&grid, &id).await;
    let build = timeline.has_all_of(&grid.build_directory(&id)).await;
    assert_eq!((build.build.state, build.build.step), (BuildState::Cancelled, None));
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_though_its_server_does_not_answer() {
    let (grid, mut timeline) = real().await;
    let server = GitServer::start();
    let repository = server.fixture("hello");
    for drips in [false, true] {
        let proxy = GitProxy::start(&server.url, move |request| match request.is_for_objects() {
            true if drips => Reaction::Drip(Duration::from_millis(500)),
            true => Reaction::Hang,
            false => Reaction::Pass,
        })
        .await;
        let (id, url) = (unique(), format!("{}/hello.git", proxy.url));
        grid.publish(event(&id, &url, &repository.head())).await;
        until("it is in the middle of it", || proxy.seen().len() > 1).await;
        let asked = cancel(&timeline, &id).await;
        told_once(&grid, &id).await;
        assert!(asked.elapsed() < PROMISED, "{:?}", asked.elapsed());
        timeline.has_all_of(&grid.build_directory(&id)).await;
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_ends_and_leaves_nothing_in_the_store() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    // As large as it gets while it is made, and large enough while it is published.
    for (state, bytes) in [(BuildState::Building, 8_u64 << 30), (BuildState::Publishing, 1 << 30)] {
        let id = format!("b-{state}");
        let fake = format!(r#"{{"log_lines":1,"layers":1,"layer_bytes":{bytes}}}"#);
        grid.publish(fake_event(&id, &fake)).await;
        timeline.until("it is there", &id, |build| build.build.state == state).await;
        let asked = cancel(&timeline, &id).await;
        told_once(&grid, &id).await;
        assert!(asked.elapsed() < PROMISED, "{state}: {:?}", asked.elapsed());
        assert_eq!(
            files(&grid.config.store.path.join("buildgrid/tmp")),
            [""; 0].map(std::path::PathBuf::from)
        );
    }
    assert!(
        !grid.config.store.path.join("docker/registry/v2/repositories/smoke/web.fake/_manifests").exists()
    );
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_waits_for_its_turn_is_cancelled_at_once() {
    let mut grid = TestGrid::idle(|config| config.worker.slots = 1).await;
    let mut timeline = TestTimeline::keeping("default = \"serial\"", &grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.start_other_worker("worker-2").await;
    grid.publish(fake_event("b-1", HANG)).await;
    timeline.until("it is built", "b-1", is_building).await;
    grid.publish(fake_event("b-2", HANG)).await;
    timeline.until("it waits", "b-2", |build| build.build.waiting.is_some()).await;
    cancel(&timeline, "b-2").await;
    let shown = timeline.build("b-2").await.unwrap().build;
    assert_eq!((shown.state, shown.waiting), (BuildState::Cancelled, None));
    // Its event comes out of the retry queue within ten seconds.
    told_once(&grid, "b-2").await;
    cancel(&timeline, "b-1").await;
    told_once(&grid, "b-1").await;
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_to_be_tried_again_is_not() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"infrastructure"}"#)).await;
    let retrying =
        timeline.until("it is to be tried again", "b-1", |build| build.build.state == BuildState::Retrying);
    let retrying = retrying.await;
    let wait = retrying.build.retry_at.unwrap() - retrying.attempts[0].ended_at.unwrap();
    assert_eq!(wait, time::Duration::seconds(10));
    cancel(&timeline, "b-1").await;
    assert_eq!(timeline.build("b-1").await.unwrap().build.state, BuildState::Cancelled);
    let told = told_once(&grid, "b-1").await;
    assert_eq!(told.attempt, 2, "the event came for its second attempt");
    assert_eq!(timeline.build("b-1").await.unwrap().attempts.len(), 1, "which was not made");
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_that_builds_is_reached_whoever_has_the_event() {
    let mut grid = TestGrid::idle(|config| config.worker.slots = 1).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    let direct = grid.config.queue.clone();
    let (proxy, proxied) = grid.rabbit.proxied().await;
    grid.config.queue = proxied;
    grid.start_worker().await;
    grid.config.queue = direct;
    grid.publish(fake_event("b-1", HANG)).await;
    timeline.until("it is built", "b-1", is_building).await;
    // Its one slot builds on: the event goes to the other worker, which is told to wait.
    let other = grid.start_other_worker("worker-2").await;
    proxy.set(Mode::Cut);
    grid.rabbit.until_waiting("10s").await;
    proxy.set(Mode::Pass);
    let asked = cancel(&timeline, "b-1").await;
    let told = grid.result("b-1", State::Cancelled).await;
    assert!(asked.elapsed() < PROMISED, "{:?}", asked.elapsed());
    assert_eq!(told.worker, "worker-1");
    // The event, which comes again, is answered with the same.
    assert_eq!(grid.nth_result("b-1", State::Cancelled, 2).await, told);
    assert!(!other.join("builds/b-1").exists());
    assert_eq!(timeline.has_all_of(&grid.build_directory("b-1")).await.attempts.len(), 1);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_outlives_a_restart_of_the_service() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(fake_event("b-1", HANG)).await;
    grid.publish(fake_event("b-2", HANG).replace(COMMIT, &COMMIT.replace('9', "8"))).await;
    for id in ["b-1", "b-2"] {
        timeline.until("it is built", id, is_building).await;
    }
    cancel(&timeline, "b-1").await;
    timeline.stop().await;
    // Long enough for the worker to look for it only now and then.
    tokio::time::sleep(Duration::from_secs(6)).await;
    timeline.start_again().await;
    let asked = cancel(&timeline, "b-2").await;
    for id in ["b-1", "b-2"] {
        told_once(&grid, id).await;
        assert!(asked.elapsed() < PROMISED, "{id}: {:?}", asked.elapsed());
        timeline.has_all_of(&grid.build_directory(id)).await;
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_asked_nobody_is_reached_when_it_is_told_of() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    assert_eq!(timeline.post("builds", fake_event("b-1", HANG)).await.status().as_u16(), 202);
    timeline.stop().await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.log_line("b-1", "attempt 1").await;
    timeline.start_again().await;
    // As far as the service knows, nobody has it, unless its worker was faster.
    let asked = cancel(&timeline, "b-1").await;
    told_once(&grid, "b-1").await;
    assert!(asked.elapsed() < PROMISED, "{:?}", asked.elapsed());
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!(
        (build.build.state, build.attempts[0].state),
        (BuildState::Cancelled, AttemptState::Cancelled)
    );
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_whose_worker_fails_otherwise_is_not_tried_again() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    // It fails a moment after the cancel, before its worker has heard of that.
    let fake = r#"{"log_lines":40,"line_interval_ms":50,"outcome":"infrastructure"}"#;
    grid.publish(fake_event("b-1", fake)).await;
    timeline.until("it is built", "b-1", is_building).await;
    grid.log_line("b-1", "fake line 30").await;
    cancel(&timeline, "b-1").await;
    told_once(&grid, "b-1").await;
    timeline.until("it has ended", "b-1", |build| build.build.state == BuildState::Cancelled).await;
    assert_eq!(timeline.build("b-1").await.unwrap().attempts.len(), 1);
    grid.publish(fake_event("b-2", &quick(2))).await;
    grid.result("b-2", State::Published).await;
    grid.finish().await;
    timeline.stop().await;
}
