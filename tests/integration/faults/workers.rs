//! Several workers at one broker and one timeline service: processes of the program, killed and frozen.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use buildgrid::event::result::State;
use buildgrid::timeline::protocol::{BuildState, LEASE};
use tempfile::TempDir;

use super::{lasting, nth_event};
use crate::program::{Worker, written};
use crate::support::grid::{TestGrid, files};
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
async fn of_two_workers_without_a_timeline_the_loser_reports_the_image_as_reused() {
    let mut grid = TestGrid::idle(|config| config.worker.slots = 1).await;
    grid.start_worker().await;
    grid.start_other_worker("worker-2").await;
    grid.publish(nth_event(1, &lasting(20))).await;
    grid.publish(nth_event(1, &lasting(20))).await;
    grid.nth_result("b-1", State::Published, 2).await;
    let ends = grid.ends("b-1").await;
    let [first, second] = ends.as_slice() else { panic!("{ends:#?}") };
    assert_ne!(first.worker, second.worker);
    assert_eq!((first.digest, first.image.as_ref()), (second.digest, second.image.as_ref()));
    assert_eq!([first.reused, second.reused].iter().filter(|reused| **reused).count(), 1, "{ends:#?}");
    grid.finish().await;
}
