//! Workers and the real timeline service: claims, logs, cancels, and what is enqueued over HTTP.

use buildgrid::event::result::{Kind, State};
use buildgrid::timeline::protocol::{AttemptState, BuildState};
use reqwest::Method;

use super::{COMMIT, quick};
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::until;
use crate::support::proxy::{Mode, Proxy};
use crate::support::timeline::TestTimeline;

/// A grid that is told to a timeline, with its worker running.
async fn grid() -> (TestGrid, TestTimeline) {
    let mut grid = TestGrid::idle(|_| ()).await;
    let timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    (grid, timeline)
}

/// A fake event for a commit of its own.
fn nth_event(n: usize, fake: &str) -> String {
    fake_event(&format!("b-{n}"), fake).replace(COMMIT, &format!("{n:040}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_has_a_build_whole() {
    let (grid, mut timeline) = grid().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let published = grid.result("b-1", State::Published).await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.build.image), (BuildState::Published, published.image));
    assert_eq!((build.build.digest, build.build.size), (published.digest, published.size));
    assert_eq!(build.attempts.len(), 1);
    let stages: Vec<_> = build.attempts[0].stages.iter().map(|stage| stage.state).collect();
    assert_eq!(stages, [AttemptState::Building, AttemptState::Publishing, AttemptState::Published]);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn swallowed_answers_neither_lose_nor_double_a_line() {
    let mut grid = TestGrid::idle(|config| {
        config.worker.slots = 3;
        config.logging.build_output = false;
    })
    .await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let proxy = Proxy::start(timeline.address.to_string()).await;
    proxy.set(Mode::Swallow(30));
    grid.tell(&timeline, Some(&proxy));
    grid.start_worker().await;
    let lines = [20_000, 3000, 1000, 10];
    for (n, lines) in lines.into_iter().enumerate() {
        let fake = format!(r#"{{"log_lines":{lines},"layers":1,"layer_bytes":10}}"#);
        grid.publish(nth_event(n, &fake)).await;
    }
    for (n, lines) in lines.into_iter().enumerate() {
        let id = format!("b-{n}");
        grid.result(&id, State::Published).await;
        let build = timeline.has_all_of(&grid.build_directory(&id)).await;
        assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 1));
        assert!(build.attempts[0].complete && build.attempts[0].entries > lines);
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_one_builds() {
    let (mut grid, mut timeline) = grid().await;
    let other = grid.start_other_worker("worker-2").await;
    let event = fake_event("b-1", r#"{"log_lines":30,"line_interval_ms":50,"layers":1,"layer_bytes":10}"#);
    for _ in 0..5 {
        grid.publish(event.clone()).await;
    }
    // The one that waits is answered after ten seconds.
    let published = grid.result("b-1", State::Published).await;
    assert_eq!(grid.nth_result("b-1", State::Published, 2).await, published);
    grid.rabbit.until_empty().await;
    assert_eq!(grid.results("b-1").iter().filter(|result| result.state == State::Started).count(), 1);
    let directories = [grid.build_directory("b-1"), other.join("builds/b-1")];
    let built: Vec<_> = directories.iter().filter(|directory| directory.exists()).collect();
    assert_eq!(built.len(), 1, "{built:?}");
    assert_eq!(timeline.has_all_of(built[0]).await.attempts.len(), 1);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_cannot_ask_both_build_and_both_are_told() {
    two_that_cannot_ask(Comes::AfterTheEnd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_are_both_told_when_the_service_comes_in_between() {
    two_that_cannot_ask(Comes::InTheMiddle).await;
}

#[derive(PartialEq, Eq)]
enum Comes {
    InTheMiddle,
    AfterTheEnd,
}

/// Two workers get one event while the service is away, which comes at some time.
async fn two_that_cannot_ask(comes: Comes) {
    let mut grid = TestGrid::idle(|config| config.worker.slots = 1).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    grid.tell(&timeline, None);
    grid.start_worker().await;
    let other = grid.start_other_worker("worker-2").await;
    let event = fake_event("b-1", r#"{"log_lines":20,"line_interval_ms":100,"layers":1,"layer_bytes":10}"#);
    grid.publish(event.clone()).await;
    grid.publish(event).await;
    let directories = [grid.build_directory("b-1"), other.join("builds/b-1")];
    if comes == Comes::InTheMiddle {
        until("both build", || directories.iter().all(|directory| directory.join("report.json").exists()))
            .await;
        timeline.start_again().await;
    }
    let last = grid.nth_result("b-1", State::Published, 2).await;
    let published: Vec<_> =
        grid.results("b-1").into_iter().filter(|result| result.state == State::Published).collect();
    assert_eq!(published[0], published[1], "one end");
    if comes == Comes::AfterTheEnd {
        timeline.start_again().await;
    }
    timeline.has_all_of(&directories[0]).await;
    let build = timeline.has_all_of(&directories[1]).await;
    assert_eq!((build.build.state, build.build.digest), (BuildState::Published, last.digest));
    assert_eq!(build.attempts.len(), 2);
    assert!(build.attempts.iter().all(|attempt| attempt.complete && !attempt.fenced), "{build:#?}");
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_over_http_ends_the_running_build() {
    let (grid, mut timeline) = grid().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":3,"outcome":"hang"}"#)).await;
    timeline.until("it is built", "b-1", |build| build.build.state == BuildState::Building).await;
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    grid.result("b-1", State::Cancelled).await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!(build.build.state, BuildState::Cancelled);
    assert_eq!(grid.log("b-1").last().unwrap().text, "cancelled");
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202, "it is as wanted");
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_cancelled_in_the_queue_is_never_built() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    assert_eq!(timeline.post("builds", fake_event("b-1", &quick(1))).await.status().as_u16(), 202);
    assert_eq!(timeline.build("b-1").await.unwrap().build.state, BuildState::Queued);
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    grid.start_worker().await;
    grid.result("b-1", State::Cancelled).await;
    assert!(!grid.build_directory("b-1").join("log.ndjson").exists());
    let build = timeline.build("b-1").await.unwrap();
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Cancelled, 0));
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_enqueued_over_http_is_built_once() {
    let (grid, mut timeline) = grid().await;
    let event = fake_event("b-1", &quick(1));
    assert_eq!(timeline.post("builds", event.clone()).await.status().as_u16(), 202);
    let published = grid.result("b-1", State::Published).await;
    timeline.has_all_of(&grid.build_directory("b-1")).await;
    let again = timeline.post("builds", event.clone()).await;
    assert_eq!(again.status().as_u16(), 202);
    assert!(again.text().await.unwrap().contains(r#""state":"published""#));
    assert_eq!(timeline.post("builds", fake_event("b-1", &quick(2))).await.status().as_u16(), 409);

    let rebuild = timeline.post("builds/b-1/rebuild", "").await;
    assert_eq!(rebuild.status().as_u16(), 202);
    let rebuild: serde_json::Value = serde_json::from_str(&rebuild.text().await.unwrap()).unwrap();
    let id = rebuild["id"].as_str().unwrap();
    let rebuilt = grid.result(id, State::Published).await;
    assert!(!rebuilt.reused);
    assert_eq!(rebuilt.image, published.image);
    timeline.has_all_of(&grid.build_directory(id)).await;

    // Who may only look may not end it, and what is another namespace's is not there.
    for (login, method, path, status) in [
        ("viewer", Method::GET, "builds/b-1", 200),
        ("viewer", Method::POST, "builds/b-1/cancel", 403),
        ("worker", Method::GET, "builds/b-1", 403),
        ("maestro-of-acme", Method::GET, "builds/b-1", 404),
        ("maestro-of-acme", Method::GET, "builds/b-1/log", 404),
        ("maestro-of-acme", Method::POST, "builds/b-1/cancel", 404),
    ] {
        let answer = timeline.request_of(login, method, path).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{login} {path}");
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_shown_and_then_the_end() {
    let mut grid = TestGrid::idle(|config| config.queue.max_attempts = 2).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"infrastructure"}"#)).await;
    // The first retry queue holds it for ten seconds.
    timeline.until("it will be tried again", "b-1", |build| build.build.state == BuildState::Retrying).await;
    grid.result("b-1", State::Failed).await;
    grid.dead_letter().await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    let (shown, states) = (build.build, build.attempts.iter().map(|attempt| attempt.state));
    assert_eq!((shown.state, shown.kind), (BuildState::Failed, Some(Kind::Infrastructure)));
    assert_eq!(shown.number, Some(2));
    assert_eq!(states.collect::<Vec<_>>(), [AttemptState::Retrying, AttemptState::Failed]);
    grid.finish().await;
    timeline.stop().await;
}
