//! Several workers at one broker and one timeline service: processes of the program, killed and frozen.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use buildgrid::event::result::State;
use buildgrid::timeline::protocol::{BuildState, LEASE};
use tempfile::TempDir;

use super::{lasting, nth_event};
use crate::program::{Worker, written};
use crate::support::grid::{TestGrid, fake_event, files};
use crate::support::patience::until;
use crate::support::timeline::TestTimeline;

/// A worker of its own name and data directory, to be started and ended.
struct Place {
    home: TempDir,
    config: PathBuf,
}

impl Place {
    fn new(grid: &TestGrid, timeline: &TestTimeline, name: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let section: toml::Table =
            format!("url = {:?}\ntoken_file = {:?}", timeline.url(), timeline.token_file("worker"))
                .parse()
                .unwrap();
        let written = written(grid, |table| {
            let worker = table["worker"].as_table_mut().unwrap();
            worker.insert("name".into(), name.into());
            worker.insert("data_dir".into(), home.path().join("data").display().to_string().into());
            table["queue"].as_table_mut().unwrap().insert("heartbeat".into(), "5s".into());
            table.insert("timeline".into(), section.into());
        });
        let config = home.path().join("worker-config.toml");
        std::fs::rename(written, &config).unwrap();
        Self { home, config }
    }

    fn build(&self, id: &str) -> PathBuf {
        self.home.path().join("data/builds").join(id)
    }
}

/// The grid's final results of one build, once there is one and nothing is on its way any more. A worker that
/// was killed holds its lease for a while, in which other workers put the event off.
async fn end(grid: &TestGrid, id: &str) -> Vec<buildgrid::event::result::ResultEvent> {
    let deadline = Instant::now() + 4 * LEASE;
    loop {
        let ends = grid.ends(id).await;
        if !ends.is_empty() {
            return ends;
        }
        assert!(Instant::now() < deadline, "{id} has not ended: {:#?}", grid.results(id));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_workers_killed_at_random_end_every_event_once() {
    const EVENTS: usize = 12;
    const KILLS: usize = 12;
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let places = ["worker-1", "worker-2", "worker-3"].map(|name| Place::new(&grid, &timeline, name));
    let mut workers = places.each_ref().map(|place| Worker::start(&place.config));
    // Every event comes five times, in rounds, so that the copies of one are spread.
    for _ in 0..5 {
        for n in 0..EVENTS {
            grid.publish(nth_event(n, &lasting(25))).await;
        }
    }
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(rand::random_range(200..1500))).await;
        let which = rand::random_range(0..workers.len());
        workers[which].signal("-KILL");
        workers[which].exit_code().await;
        workers[which] = Worker::start(&places[which].config);
    }
    for n in 0..EVENTS {
        let id = format!("b-{n}");
        let ends = end(&grid, &id).await;
        assert!(ends.iter().all(|end| end.state == State::Published), "{ends:#?}");
        let digests: std::collections::HashSet<_> = ends.iter().map(|end| end.digest).collect();
        assert_eq!(digests.len(), 1, "one image: {ends:#?}");
    }
    // The copies that were put off are answered, and every log is whole.
    let deadline = Instant::now() + 2 * LEASE;
    while !grid.rabbit.is_empty().await {
        assert!(Instant::now() < deadline, "events are left in the queues");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for n in 0..EVENTS {
        let id = format!("b-{n}");
        let mut complete = 0;
        for build in
            places.iter().map(|place| place.build(&id)).filter(|build| build.join("report.json").exists())
        {
            let build = timeline.has_all_of(&build).await;
            assert_eq!(build.build.state, BuildState::Published);
            complete = build.attempts.iter().filter(|attempt| attempt.complete).count();
        }
        assert!(complete > 0, "{id} has no whole log");
    }
    for worker in workers {
        worker.ends().await;
    }
    for place in &places {
        let left = files(&place.home.path().join("data/builds"));
        assert!(!left.iter().any(|file| file.to_string_lossy().contains("/spool/")), "{left:?}");
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_frozen_for_longer_than_its_lease_gives_its_build_up() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let places = ["worker-1", "worker-2"].map(|name| Place::new(&grid, &timeline, name));
    let frozen = Worker::start(&places[0].config);
    grid.publish(nth_event(1, &lasting(200))).await;
    let here = places[0].build("b-1");
    let log = here.join("log.ndjson");
    until("it builds", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("fake line 9"))).await;
    let other = Worker::start(&places[1].config);
    frozen.signal("-STOP");
    let since = Instant::now();
    // The broker takes the delivery back after two heartbeats; the lease lasts for longer.
    let there = places[1].build("b-1/log.ndjson");
    while !there.exists() {
        assert!(since.elapsed() < 2 * LEASE, "the other worker has not taken over");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(since.elapsed() > LEASE - Duration::from_secs(6), "the lease was still live");
    frozen.signal("-CONT");
    let ends = end(&grid, "b-1").await;
    // Its delivery is given back, and answered with the other one's result.
    grid.rabbit.until_empty().await;
    let (first, ends) = (ends[0].clone(), grid.ends("b-1").await);
    assert_eq!((first.state, first.worker.as_str(), first.reused), (State::Published, "worker-2", false));
    assert!(ends.iter().all(|end| *end == first), "one end stands: {ends:#?}");
    assert!(!here.join("outcome.json").exists(), "the frozen one has not ended it");
    let report = std::fs::read_to_string(here.join("report.json")).unwrap();
    assert!(report.contains("fenced"), "{report}");
    let build = timeline.has_all_of(&places[1].build("b-1")).await;
    assert_eq!((build.build.state, build.attempts.len()), (BuildState::Published, 2));
    assert_eq!(build.attempts.iter().map(|attempt| attempt.fenced).collect::<Vec<_>>(), [true, false]);
    for worker in [frozen, other] {
        worker.ends().await;
    }
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_without_a_timeline_tell_the_same_end() {
    let mut grid = TestGrid::idle(|config| config.worker.slots = 1).await;
    grid.start_worker().await;
    grid.start_other_worker("worker-2").await;
    grid.publish(nth_event(1, &lasting(20))).await;
    grid.publish(nth_event(1, &lasting(20))).await;
    grid.nth_result("b-1", State::Published, 2).await;
    let ends = grid.ends("b-1").await;
    let [first, second] = ends.as_slice() else { panic!("{ends:#?}") };
    // Both have built it.
    let started = grid.results("b-1").into_iter().filter(|result| result.state == State::Started);
    assert_eq!(started.map(|result| result.worker).collect::<HashSet<_>>().len(), 2);
    assert_eq!(first, second);
    grid.finish().await;
}

/// A worker dies between its end and the build directory; the next one finds the timeline service away.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_event_is_not_built_by_a_worker_that_can_ask_nobody() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let (first, second) =
        (Place::new(&grid, &timeline, "worker-1"), Place::new(&grid, &timeline, "worker-2"));
    let mut dies = Worker::killed_at(&first.config, "rename", &first.build("b-1").join(".outcome.json.new"));
    grid.publish(fake_event("b-1", r#"{"log_lines":100,"line_interval_ms":50}"#)).await;
    timeline.until("it is built", "b-1", |build| build.build.state == BuildState::Building).await;
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);
    assert_eq!(dies.exit_code().await, None, "it was killed");
    timeline.stop().await;

    let worker = Worker::start(&second.config);
    let told = grid.result("b-1", State::Cancelled).await;
    assert_eq!(told.worker, "worker-1");
    let log = std::fs::read_to_string(second.build("b-1").join("log.ndjson")).unwrap();
    assert!(log.contains("cancelled already, by worker-1 (attempt 1)"), "{log}");

    timeline.start_again().await;
    let shown = timeline.has_all_of(&second.build("b-1")).await;
    assert_eq!(shown.build.state, BuildState::Cancelled);
    worker.ends().await;
    assert!(grid.ends("b-1").await.iter().all(|end| *end == told), "more than one end");
    grid.rabbit.until_empty().await;
    grid.finish().await;
    timeline.stop().await;
}

/// The other way round: what was built while nobody could be asked stands, whoever wants it cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_published_event_cannot_be_cancelled_any_more() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    let (first, second) =
        (Place::new(&grid, &timeline, "worker-1"), Place::new(&grid, &timeline, "worker-2"));
    // Known to the service, and given back.
    let mut stopped = Worker::start(&first.config);
    grid.publish(fake_event("b-1", r#"{"log_lines":100,"line_interval_ms":50}"#)).await;
    timeline.until("it is built", "b-1", |build| build.build.state == BuildState::Building).await;
    stopped.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(200)).await;
    stopped.signal("-TERM");
    stopped.exit_code().await;
    timeline.until("it is given back", "b-1", |build| build.build.state == BuildState::Queued).await;
    timeline.stop().await;
    let mut dies = Worker::killed_at(&first.config, "rename", &first.build("b-1").join(".outcome.json.new"));
    assert_eq!(dies.exit_code().await, None, "it was killed");
    timeline.start_again().await;
    assert_eq!(timeline.post("builds/b-1/cancel", "").await.status().as_u16(), 202);

    let worker = Worker::start(&second.config);
    let told = grid.result("b-1", State::Published).await;
    assert_eq!(told.worker, "worker-1");
    let is_published = |build: &buildgrid::timeline::protocol::BuildDetail| {
        build.build.state == BuildState::Published && build.build.digest == told.digest
    };
    timeline.until("its image is shown", "b-1", is_published).await;
    worker.ends().await;
    assert!(grid.ends("b-1").await.iter().all(|end| *end == told), "more than one end");
    grid.finish().await;
    timeline.stop().await;
}
