//! Policies and limits, kept by the real timeline service for workers on RabbitMQ.

use std::time::{Duration, Instant};

use buildgrid::event::result::State;
use buildgrid::timeline::protocol::{BuildDetail, BuildState};
use futures::StreamExt;

use super::COMMIT;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::in_time;
use crate::support::timeline::TestTimeline;

/// A fake event that takes a second, or never ends, for a commit of its own, on a branch.
fn event(n: usize, branch: &str, hangs: bool) -> String {
    let fake = match hangs {
        true => r#"{"log_lines":1,"outcome":"hang"}"#,
        false => r#"{"log_lines":10,"line_interval_ms":100,"layers":1,"layer_bytes":10}"#,
    };
    fake_event(&format!("b-{n}"), fake)
        .replace(COMMIT, &format!("{n:040}"))
        .replace("\"fake\":", &format!("\"ref\":\"refs/heads/{branch}\",\"fake\":"))
}

/// Workers of one slot each, and a service with this policy.
async fn grid(policy: &str, workers: usize) -> (TestGrid, TestTimeline) {
    let mut grid = TestGrid::idle(|config| {
        config.worker.slots = 1;
        config.logging.build_output = false;
        config.fake.namespaces = ["smoke", "other"].map(|name| name.parse().unwrap()).into();
    })
    .await;
    let timeline = TestTimeline::keeping(policy, &grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    for n in 2..=workers {
        grid.start_other_worker(&format!("worker-{n}")).await;
    }
    (grid, timeline)
}

fn is_building(build: &BuildDetail) -> bool {
    build.build.state == BuildState::Building
}

fn waits(build: &BuildDetail) -> bool {
    build.build.waiting.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_serial_app_is_built_one_after_the_other_on_three_workers() {
    let (grid, mut timeline) = grid("builds = { \"smoke/web\" = \"serial\" }", 3).await;
    for n in 0..4 {
        grid.publish(event(n, "main", false)).await;
    }
    let mut builds = Vec::new();
    for n in 0..4 {
        let id = format!("b-{n}");
        grid.result(&id, State::Published).await;
        let told = |build: &BuildDetail| build.build.state == BuildState::Published;
        builds.push(timeline.until("its end is told", &id, told).await);
    }
    // In the order in which the service knew them, and none before the one before it had ended.
    builds.sort_by_key(|build| (build.build.created_at, build.build.id.clone()));
    for pair in builds.windows(2) {
        let [before, after] = pair.iter().map(|build| &build.attempts[0]).collect::<Vec<_>>()[..] else {
            panic!("{builds:#?}")
        };
        assert!(before.ended_at.unwrap() <= after.claimed_at, "{builds:#?}");
    }
    assert!(builds.iter().all(|build| build.attempts.len() == 1 && build.build.number == Some(1)));
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_of_a_ref_is_built_after_the_one_that_runs() {
    let (grid, mut timeline) = grid("default = \"latest-only\"", 2).await;
    grid.publish(event(1, "main", true)).await;
    timeline.until("it is built", "b-1", is_building).await;
    grid.publish(event(2, "main", false)).await;
    let waiting = timeline.until("it waits", "b-2", waits).await.build;
    assert_eq!(
        (waiting.state, waiting.waiting.as_deref()),
        (BuildState::Queued, Some("build b-1 of the same app is running (policy latest-only)"))
    );
    grid.publish(event(3, "side", false)).await;
    timeline.until("it waits", "b-3", waits).await;
    grid.publish(event(4, "main", false)).await;
    let replaced = timeline.until("it is replaced", "b-2", |build| build.build.state.is_final()).await.build;
    let reason = "a later event of refs/heads/main replaced it: build b-4 (policy latest-only)";
    assert_eq!((replaced.state, replaced.reason.as_deref()), (BuildState::Cancelled, Some(reason)));
    let told = grid.result("b-2", State::Cancelled).await;
    assert_eq!(told.reason.as_deref(), Some(reason));
    assert_eq!(timeline.build("b-1").await.unwrap().build.state, BuildState::Building, "what runs goes on");
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    for id in ["b-3", "b-4"] {
        grid.result(id, State::Published).await;
    }
    assert_eq!(grid.ends("b-2").await, [told]);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_at_its_limit_keeps_nobody_else_waiting() {
    let (grid, mut timeline) = grid("max_running_in = { smoke = 1 }", 2).await;
    grid.publish(event(1, "main", true)).await;
    timeline.until("it is built", "b-1", is_building).await;
    for n in [2, 3] {
        grid.publish(event(n, "main", false).replace("\"app\":\"web\"", &format!("\"app\":\"web-{n}\"")))
            .await;
    }
    let waiting = timeline.until("it waits", "b-2", waits).await.build.waiting.unwrap();
    assert_eq!(
        waiting,
        "build b-1 of namespace smoke is running, and no more than 1 run at once (policy.max_running_in)"
    );
    // The second worker's only slot is not held by those who wait.
    let asked = Instant::now();
    grid.publish(event(4, "main", false).replace("smoke", "other")).await;
    grid.result("b-4", State::Published).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    for id in ["b-2", "b-3"] {
        grid.result(id, State::Published).await;
    }
    grid.finish().await;
    timeline.stop().await;
}

/// How many wait in the test below. A thousand have been measured with it.
const CROWD: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_waits_leaves_the_slots_to_others() {
    let (grid, mut timeline) = grid("builds = { smoke = \"serial\" }", 2).await;
    grid.publish(event(0, "main", true)).await;
    timeline.until("it is built", "b-0", is_building).await;
    for n in 1..=CROWD {
        grid.publish(event(n, "main", false)).await;
    }
    timeline.until("the last one waits", &format!("b-{CROWD}"), waits).await;
    // In the middle of their asking again.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let asked = Instant::now();
    grid.publish(event(CROWD + 1, "main", false).replace("smoke", "other")).await;
    grid.result(&format!("b-{}", CROWD + 1), State::Published).await;
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());

    let cancels = futures::stream::iter(0..=CROWD).map(async |n| {
        let path = format!("builds/b-{n}/cancel");
        assert_eq!(timeline.post(&path, "").await.status().as_u16(), 202);
    });
    in_time("all are cancelled", cancels.buffer_unordered(8).collect::<Vec<_>>()).await;
    for n in 0..=CROWD {
        grid.result(&format!("b-{n}"), State::Cancelled).await;
    }
    grid.rabbit.until_empty().await;
    grid.ends("b-0").await;
    for n in 0..=CROWD {
        let ended = grid.results(&format!("b-{n}")).into_iter().filter(|result| result.state.is_final());
        assert_eq!(ended.count(), 1, "b-{n}");
    }
    grid.finish().await;
    timeline.stop().await;
}
