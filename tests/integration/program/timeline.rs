//! A worker process that is killed, and the timeline service that it told.

use std::path::{Path, PathBuf};

use buildgrid::event::result::State;
use buildgrid::timeline::protocol::{BuildState, LEASE};

use super::{Worker, written};
use crate::support::grid::{TestGrid, fake_event};
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
