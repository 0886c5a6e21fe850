//! A Docker engine that breaks: each test has one of its own.

use std::time::{Duration, Instant};

use buildgrid::config::Config;
use buildgrid::event::result::{Kind, State};

use super::{commit_event, commit_lasting, readiness};
use crate::support::docker::{runs, unique};
use crate::support::engine::TestEngine;
use crate::support::git::GitServer;
use crate::support::grid::TestGrid;
use crate::support::patience::{in_time, until};

fn on(engine: &TestEngine) -> impl FnOnce(&mut Config) {
    let host = engine.host();
    |config| {
        config.engine.host = host;
        config.engine.timeout = Duration::from_secs(2);
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
    }
}

async fn until_engine(grid: &TestGrid, is_there: bool) {
    in_time("the worker knows of its engine", async {
        while readiness(grid).await.1.contains("engine: ok") != is_there {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_was_down_or_is_killed_in_mid_build_is_built_on_when_it_is_back() {
    let server = GitServer::start();
    let (id, word) = (unique(), unique());
    let repository = commit_lasting(&server, &word, 40);
    let mut engine = TestEngine::start().await;
    engine.kill().await;
    let grid = TestGrid::with(on(&engine)).await;
    grid.publish(commit_event(&id, &repository)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!readiness(&grid).await.0);
    assert!(!grid.build_directory(&id).exists(), "nothing is taken without an engine");

    engine.start_again().await;
    until("the step runs", || runs(&word)).await;
    engine.kill().await;
    let retrying = grid.result(&id, State::Retrying).await;
    assert_eq!((retrying.attempt, retrying.kind), (1, Some(Kind::Infrastructure)));
    until_engine(&grid, false).await;
    engine.start_again().await;
    until_engine(&grid, true).await;
    let published = grid.result(&id, State::Published).await;
    assert_eq!((published.attempt, published.reused), (2, false));
    assert_eq!(grid.ends(&id).await, [published]);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_hangs_in_mid_build_is_given_up_and_the_build_tried_again() {
    let server = GitServer::start();
    let (id, word) = (unique(), unique());
    let repository = commit_lasting(&server, &word, 60);
    let engine = TestEngine::start().await;
    let grid = TestGrid::with(on(&engine)).await;
    grid.publish(commit_event(&id, &repository)).await;
    grid.log_line(&id, "tenth 3 of").await;
    engine.signal("-STOP");
    let hung = Instant::now();
    until_engine(&grid, false).await;
    // Asked every five seconds, it has two for its answer.
    assert!(hung.elapsed() < Duration::from_secs(10), "no event is taken after {:?}", hung.elapsed());
    let retrying = grid.result(&id, State::Retrying).await;
    // Three times two seconds of silence and two without an answer; and one more answer to wait for.
    assert!(hung.elapsed() < Duration::from_secs(20), "given up after {:?}", hung.elapsed());
    assert!(retrying.reason.as_deref().unwrap().contains("stopped answering"), "{retrying:?}");
    engine.signal("-CONT");
    let published = grid.result(&id, State::Published).await;
    assert_eq!(published.attempt, 2);
    assert_eq!(grid.ends(&id).await, [published]);
    grid.finish().await;
}
