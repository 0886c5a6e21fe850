//! Disks that run full: the intake pauses, what can be spared goes, and all goes on by itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use buildgrid::config::Config;
use buildgrid::disk::DiskConfig;
use buildgrid::event::result::{Kind, State};
use buildgrid::publish::name::ImageName;
use buildgrid::source::url::RepositoryUrl;
use buildgrid::source::{Errand, Permit, Sources};
use buildgrid::store::Store;
use buildgrid::telemetry::pulse::Pulse;
use buildgrid::timeline::sink::LogSink;
use tokio_util::sync::CancellationToken;

use super::{COMMIT, other_commit, quick};
use crate::support::disk::{SmallDisk, age};
use crate::support::git::GitServer;
use crate::support::grid::{TestGrid, fake_event, files};
use crate::support::patience::in_time;
use crate::support::timeline::TestTimeline;

const HOUR: Duration = Duration::from_secs(3600);

/// Data directory and store on this small disk, and the marks as they are by default: how full the disk of
/// this machine is must not count.
fn on(disk: &SmallDisk) -> impl FnOnce(&mut Config) {
    let [data_dir, store] = ["data", "store"].map(|name| disk.path().join(name));
    move |config| {
        config.worker.data_dir = data_dir;
        config.store.path = store;
        config.disk = DiskConfig::default();
    }
}

async fn page(grid: &TestGrid, name: &str) -> String {
    let url = format!("http://{}/{name}", grid.config.worker.status_listen);
    reqwest::get(url).await.unwrap().text().await.unwrap()
}

/// What `/readyz` says of the disks.
async fn fault(grid: &TestGrid) -> Option<String> {
    let said = page(grid, "readyz").await;
    said.lines().find(|line| line.starts_with("disk: ")).map(str::to_owned).filter(|line| line != "disk: ok")
}

/// Waits until `/readyz` says of the disks what has all these words.
async fn says(grid: &TestGrid, words: &[&str]) -> String {
    in_time(&format!("readiness says {words:?}"), async {
        loop {
            match fault(grid).await {
                Some(said) if words.iter().all(|word| said.contains(word)) => return said,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    })
    .await
}

async fn is_well(grid: &TestGrid) {
    in_time("the disks are well", async {
        while fault(grid).await.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
}

/// A file of some megabytes.
fn heavy(path: &Path, megabytes: usize) {
    std::fs::write(path, vec![7; megabytes << 20]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn intake_pauses_at_the_high_mark_and_resumes_below_the_low_one() {
    let disk = SmallDisk::mount("64m");
    let grid = TestGrid::with(on(&disk)).await;
    is_well(&grid).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":100,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    disk.fill_to(93);
    let said = says(&grid, &["93 % full (high mark 90 %; intake resumes below 85 %)"]).await;
    let data_dir = grid.config.worker.data_dir.display().to_string();
    assert!(said.starts_with(&format!("disk: {data_dir} (worker.data_dir) is ")), "{said}");
    assert!(said.contains("free space there"), "{said}");
    grid.publish(other_commit(&fake_event("b-2", &quick(2)))).await;
    grid.result("b-1", State::Published).await;

    // Between the marks nothing turns: it is looked at twice.
    disk.fill_to(87);
    says(&grid, &["87 % full"]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    says(&grid, &["87 % full"]).await;
    assert!(!grid.build_directory("b-2").exists(), "no event is taken");
    disk.clear();
    grid.result("b-2", State::Published).await;
    assert_eq!(fault(&grid).await, None);

    let metrics = page(&grid, "metrics").await;
    let free = |path: &str| {
        let name = format!("buildgrid_disk_free_bytes{{path=\"{path}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
        value.unwrap_or_else(|| panic!("{name} is not in {metrics}")).parse::<f64>().unwrap()
    };
    assert!((60e6..68e6).contains(&free("data")), "{metrics}");
    assert!(free("store") > 0.0);
    assert!(metrics.contains("\nbuildgrid_store_bytes "), "{metrics}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_larger_than_the_disk_pause_nothing_there() {
    let disk = SmallDisk::mount("64m");
    let grid = TestGrid::with(|config| {
        on(&disk)(config);
        config.disk.high = "1 TiB".parse().unwrap();
        config.disk.low = "900 TiB".parse().unwrap();
    })
    .await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    assert_eq!(fault(&grid).await, None);
    disk.fill_to(93);
    says(&grid, &["93 % full (high mark 90 %; intake resumes below 85 %)"]).await;
    disk.clear();
    is_well(&grid).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_goes_and_nothing_else() {
    let day = 24 * HOUR;
    let mut grid = TestGrid::with(|_| ()).await;
    for id in ["old", "new"] {
        grid.publish(fake_event(id, &quick(1))).await;
        grid.result(id, State::Published).await;
    }
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    let mut timeline = TestTimeline::away(&grid.config.queue);
    grid.tell(&timeline, None);
    grid.start_worker().await;
    grid.publish(other_commit(&fake_event("untold", &quick(1)))).await;
    grid.result("untold", State::Published).await;
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();

    for id in ["old", "untold"] {
        age(&grid.build_directory(id).join("outcome.json"), 8 * day);
    }
    let foreign = grid.build_directory("lost+found?");
    std::fs::create_dir(&foreign).unwrap();
    age(&foreign, 99 * day);
    let mirrors = grid.config.worker.data_dir.join("mirrors");
    let [used, unused] = ["a", "b"].map(|digit| mirrors.join(digit.repeat(64)));
    for folder in [&used, &unused] {
        std::fs::create_dir_all(folder.join("full-0")).unwrap();
    }
    age(&used, 29 * day);
    age(&unused, 31 * day);
    let blobs = files(&grid.config.store.path.join("docker/registry/v2/blobs"));
    let stored: u64 = blobs.iter().map(|blob| std::fs::metadata(blob).unwrap().len()).sum();

    grid.start_worker().await;
    // The size of the store is counted last.
    in_time("the janitor has gone round", async {
        while !page(&grid, "metrics").await.contains(&format!("\nbuildgrid_store_bytes {stored}\n")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(!grid.build_directory("old").exists() && !unused.exists());
    assert!(grid.build_directory("untold").exists(), "the timeline has not heard of it yet");
    assert!(grid.build_directory("new").exists() && used.exists() && foreign.exists());
    std::fs::remove_dir(&foreign).unwrap();
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_space_leaves_nothing_and_is_made_up_for() {
    let disk = SmallDisk::mount("64m");
    let store = disk.path().join("store");
    let grid = TestGrid::with(|config| config.store.path.clone_from(&store)).await;
    let event = r#"{"log_lines":80,"line_interval_ms":100,"layers":1,"layer_bytes":1000000}"#;
    grid.publish(fake_event("b-1", event)).await;
    grid.log_line("b-1", "attempt 1").await;
    disk.fill_to(100);
    let retrying = grid.result("b-1", State::Retrying).await;
    let reason = retrying.reason.unwrap();
    assert_eq!(retrying.kind, Some(Kind::Infrastructure), "{reason}");
    assert!(reason.contains("no space is left for ") && reason.contains("free space"), "{reason}");
    assert_eq!(files(&store.join("buildgrid/tmp")), [] as [PathBuf; 0]);
    let reader = Store::open_read_only(&grid.config.store).unwrap();
    let name = ImageName { repository: "smoke/web.fake".parse().unwrap(), tag: COMMIT.parse().unwrap() };
    assert_eq!(reader.tag(&name).await.unwrap(), None);
    assert!(reader.credentials().await.unwrap().usable.is_empty(), "what is there can be read");
    says(&grid, &["(store.path) is 100 % full", "move the store"]).await;

    // The retry waits for ten seconds in its queue, and then for space.
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(grid.results("b-1").iter().filter(|result| result.state == State::Started).count(), 1);
    disk.clear();
    let published = grid.result("b-1", State::Published).await;
    assert_eq!(published.attempt, 2);
    assert_eq!(reader.tag(&name).await.unwrap(), published.digest);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_byte_is_cleared_and_recovers_by_itself() {
    let disk = SmallDisk::mount("64m");
    let store = disk.path().join("store");
    let mut grid = TestGrid::with(on(&disk)).await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();

    // What crashes have left, and not a byte beside it.
    let [stale, fresh] = ["stale", "fresh"].map(|name| store.join("buildgrid/tmp").join(name));
    heavy(&stale, 20);
    heavy(&fresh, 1);
    // As its writer does.
    let writer = std::fs::File::open(&fresh).unwrap();
    writer.try_lock().unwrap();
    let left = grid.build_directory("left");
    std::fs::create_dir(&left).unwrap();
    heavy(&left.join("half"), 1);
    age(&left, 2 * HOUR);
    disk.fill_to(100);
    assert!(disk.fill() > 99.9);

    grid.start_worker().await;
    grid.publish(other_commit(&fake_event("b-2", &quick(2)))).await;
    grid.result("b-2", State::Published).await;
    assert!(!stale.exists() && !left.exists());
    assert!(fresh.exists(), "it may be a publish in progress");
    assert!(grid.build_directory("b-1").exists(), "its log is nowhere else");
    assert_eq!(fault(&grid).await, None);
    drop(writer);
    std::fs::remove_file(&fresh).unwrap();
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_space_is_short_the_oldest_builds_go_that_the_timeline_has() {
    let disk = SmallDisk::mount("64m");
    let mut grid = TestGrid::with(on(&disk)).await;
    let build = async |grid: &TestGrid, id: &str| {
        grid.publish(fake_event(id, &quick(1))).await;
        grid.result(id, State::Published).await;
    };
    // One of the time before there was a timeline service.
    build(&grid, "alone").await;
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    for id in ["oldest", "older", "young"] {
        build(&grid, id).await;
        timeline.has_all_of(&grid.build_directory(id)).await;
    }
    for (id, hours) in [("alone", 9), ("oldest", 8), ("older", 7)] {
        let directory = grid.build_directory(id);
        heavy(&directory.join("log.9.ndjson"), 8);
        age(&directory.join("outcome.json"), HOUR * hours);
    }
    heavy(&grid.build_directory("young").join("log.9.ndjson"), 8);
    disk.fill_to(94);
    in_time("the oldest goes", async {
        while grid.build_directory("oldest").exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    is_well(&grid).await;
    for id in ["alone", "older", "young"] {
        assert!(grid.build_directory(id).exists(), "{id} is gone");
    }
    // Its event is answered from the timeline.
    grid.publish(fake_event("oldest", &quick(1))).await;
    let again = grid.nth_result("oldest", State::Published, 2).await;
    assert_eq!(again, grid.result("oldest", State::Published).await);
    grid.finish().await;
    timeline.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_space_is_short_the_longest_unused_mirrors_go() {
    let disk = SmallDisk::mount("64m");
    let mut grid = TestGrid::idle(on(&disk)).await;
    grid.config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
    let server = GitServer::start();
    let mirrors = grid.config.worker.data_dir.join("mirrors");
    let sources = Arc::new(Sources::new(grid.config.source.clone(), mirrors.clone()).unwrap());
    let mut folders = Vec::new();
    for (fixture, hours) in [("hello", 3), ("build-fails", 2), ("slow-build", 1)] {
        let repository = server.fixture(fixture);
        fetch(&sources, &repository.url, &repository.head()).await;
        let all = std::fs::read_dir(&mirrors).unwrap().map(|entry| entry.unwrap().path());
        let folder = all.into_iter().find(|folder| !folders.contains(folder)).unwrap();
        heavy(&folder.join("shallow-0/objects/pack/pack-heavy.pack"), 8);
        folders.push(folder);
        age(folders.last().unwrap(), HOUR * hours);
    }
    drop(sources);
    disk.fill_to(94);
    grid.start_worker().await;
    in_time("the longest unused goes", async {
        while folders[0].exists() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    is_well(&grid).await;
    assert!(folders[1].exists() && folders[2].exists(), "there is room again");
    grid.finish().await;
}

#[tokio::test]
async fn what_many_fetches_have_left_is_packed() {
    let mut grid = TestGrid::idle(|_| ()).await;
    grid.config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
    let server = GitServer::start();
    let repository = server.empty("busy");
    let mirrors = grid.config.worker.data_dir.join("mirrors");
    let sources = Sources::new(grid.config.source.clone(), mirrors.clone()).unwrap();
    for number in 0..10 {
        repository.write("file", format!("{number}\n"));
        fetch(&sources, &repository.url, &repository.commit("Next")).await;
    }
    drop(sources);
    let folder = std::fs::read_dir(&mirrors).unwrap().next().unwrap().unwrap().path();
    let packs = |mirror: &str| {
        let entries = std::fs::read_dir(folder.join(mirror).join("objects/pack")).ok()?;
        Some(entries.filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "pack").count())
    };
    assert_eq!(packs("shallow-0"), Some(10));
    grid.start_worker().await;
    in_time("the mirror is packed", async {
        while packs("shallow-0").is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(packs("shallow-1"), Some(1));
    grid.finish().await;
}

async fn fetch(sources: &Sources, url: &str, commit: &str) {
    let (log, mut lines) = LogSink::channel(buildgrid::timeline::mask::Mask::none());
    let reading = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let (url, commit) = (url.parse().unwrap(), commit.parse().unwrap());
    let errand = Errand {
        namespace: &"acme".parse().unwrap(),
        permit: &(Arc::new(|_: &RepositoryUrl| Ok(())) as Permit),
        log: &log,
        cancel: &CancellationToken::new(),
        pulse: &Pulse::default(),
    };
    sources.fetch(errand, &url, &commit, Some("refs/heads/main")).await.unwrap();
    drop(log);
    reading.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_turns_read_only_is_not_the_builds_fault() {
    let disk = SmallDisk::mount("64m");
    let grid = TestGrid::with(|config| config.store.path = disk.path().join("store")).await;
    let event = r#"{"log_lines":30,"line_interval_ms":100,"layers":1,"layer_bytes":1000}"#;
    grid.publish(fake_event("b-1", event)).await;
    grid.log_line("b-1", "attempt 1").await;
    disk.remount("ro");
    let retrying = grid.result("b-1", State::Retrying).await;
    let reason = retrying.reason.unwrap();
    assert_eq!(retrying.kind, Some(Kind::Infrastructure), "{reason}");
    assert!(reason.contains("cannot be written: it is mounted or opened read-only"), "{reason}");
    says(&grid, &["(store.path) is mounted read-only", "mount it read-write"]).await;
    disk.remount("rw");
    assert_eq!(grid.result("b-1", State::Published).await.attempt, 2);
    is_well(&grid).await;
    grid.finish().await;
}
