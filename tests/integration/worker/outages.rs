//! A timeline service that is away, forgets, refuses or dawdles: builds go on, and it has all of them in the end.

use std::time::Duration;

use axum::Router;
use buildgrid::event::result::State;
use buildgrid::timeline::protocol::BuildState;
use http::StatusCode;
use tokio::net::TcpListener;

use super::quick;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::proxy::{Mode, Proxy};
use crate::support::timeline::TestTimeline;

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_the_service_is_told_when_it_comes() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let published = grid.result("b-1", State::Published).await;
    timeline.start_again().await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.build.digest), (BuildState::Published, published.digest));
    assert_eq!(build.build.finished_at, published.finished_at, "it ended when it ended");
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_lost_its_data_is_told_everything_again() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":60,"line_interval_ms":50}"#)).await;
    let heard = |build: &buildgrid::timeline::protocol::BuildDetail| {
        build.attempts.first().is_some_and(|attempt| attempt.entries > 5)
    };
    timeline.until("some lines are there", "b-1", heard).await;
    timeline.stop().await;
    timeline.lose_its_data();
    timeline.start_again().await;
    assert!(!grid.build_directory("b-1").join("outcome.json").exists(), "it is in the middle of the build");
    grid.result("b-1", State::Published).await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 1));
    assert!(build.attempts[0].complete);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_token_needs_no_restart() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    let token_file = timeline.token_file("worker");
    let token = std::fs::read_to_string(&token_file).unwrap();
    std::fs::write(&token_file, "bgt_wrong").unwrap();
    grid.start_worker().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    assert!(timeline.build("b-1").await.is_none());
    std::fs::write(&token_file, token).unwrap();
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!(build.build.state, BuildState::Published);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_trouble_is_told_later() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    let listener = TcpListener::bind(timeline.address).await.unwrap();
    let broken = Router::new().fallback(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "no") });
    let broken = tokio::spawn(async move { axum::serve(listener, broken).await });
    // Through a proxy, so that no connection to the broken one is left.
    let proxy = Proxy::start(timeline.address.to_string()).await;
    grid.tell(&timeline, Some(&proxy));
    grid.start_worker().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    broken.abort();
    let _ = broken.await;
    proxy.set(Mode::Cut);
    timeline.start_again().await;
    proxy.set(Mode::Pass);
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!(build.build.state, BuildState::Published);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_answered_too_late_is_the_same_attempt() {
    let mut grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let proxy = Proxy::start(timeline.address.to_string()).await;
    proxy.set(Mode::Delayed(Duration::from_secs(3)));
    grid.tell(&timeline, Some(&proxy));
    grid.start_worker().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    proxy.set(Mode::Pass);
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 1));
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_service_delays_no_build() {
    let mut grid = TestGrid::idle(|config| config.logging.build_output = false).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let proxy = Proxy::start(timeline.address.to_string()).await;
    grid.tell(&timeline, Some(&proxy));
    grid.start_worker().await;
    proxy.set(Mode::Throttled(2000));
    grid.publish(fake_event("b-1", r#"{"log_lines":20000,"layers":1,"layer_bytes":10}"#)).await;
    grid.result("b-1", State::Published).await;
    let told = timeline.build("b-1").await;
    assert!(told.is_none_or(|build| build.build.state != BuildState::Published), "it was waited for");
    proxy.set(Mode::Pass);
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 1));
    grid.finish().await;
    timeline.stop().await;
}
