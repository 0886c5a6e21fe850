//! The engine's disk: when it is full, and what is pruned. On an engine of the test's own.

use std::time::Duration;

use buildgrid::build::docker::{DockerEngine, EngineConfig, Prune};
use buildgrid::build::engine::BuildError;
use buildgrid::disk::DiskConfig;
use buildgrid::event::result::{Kind, State};
use buildgrid::timeline::sink::LogSink;
use tokio_util::sync::CancellationToken;

use crate::support::disk::SmallDisk;
use crate::support::docker::{BASE, build, engine, request, unique};
use crate::support::engine::TestEngine;
use crate::support::git::GitServer;
use crate::support::grid::TestGrid;
use crate::support::patience::in_time;

fn connect(engine: &TestEngine, dedicated: bool) -> DockerEngine {
    let config = EngineConfig { host: engine.host(), dedicated, ..EngineConfig::default() };
    DockerEngine::connect(&config, Duration::from_secs(3600)).unwrap()
}

/// Builds a layer of so many megabytes.
async fn built(engine: &DockerEngine, megabytes: u32) -> Result<(), BuildError> {
    let dockerfile = format!("FROM {BASE}\nRUN head -c {megabytes}m /dev/urandom > /{}\n", unique());
    let (sink, mut lines) = LogSink::channel(buildgrid::timeline::mask::Mask::none());
    let reading = tokio::spawn(async move { while lines.recv().await.is_some() {} });
    let cancel = CancellationToken::new();
    let result = match engine.build(request(&dockerfile), &sink, &cancel).await {
        Ok(built) => {
            built.remove(&cancel).await;
            Ok(())
        }
        Err(error) => Err(error),
    };
    drop(sink);
    reading.await.unwrap();
    result
}

#[tokio::test]
async fn only_the_cache_of_a_dedicated_engine_is_pruned() {
    const MB: u64 = 1 << 20;
    let disk = SmallDisk::mount("256m");
    let server = TestEngine::start_in(disk.path()).await;
    let (shared, dedicated) = (connect(&server, false), connect(&server, true));
    let root = dedicated.root().await.unwrap().unwrap();
    assert_eq!(root, disk.path());
    for _ in 0..3 {
        built(&dedicated, 20).await.unwrap();
    }
    let full = disk.fill();
    for which in [Prune::All, Prune::DownTo(1), Prune::UnusedFor(Duration::from_secs(1))] {
        assert_eq!(shared.prune(which).await.unwrap(), None);
    }
    assert_eq!(dedicated.prune(Prune::UnusedFor(Duration::from_secs(3600))).await.unwrap(), Some(0));
    assert_eq!(dedicated.prune(Prune::DownTo(500 * MB)).await.unwrap(), Some(0));
    // Of three layers one is left.
    let freed = dedicated.prune(Prune::DownTo(30 * MB)).await.unwrap().unwrap();
    assert!((39 * MB..45 * MB).contains(&freed), "{freed}");
    let freed = dedicated.prune(Prune::All).await.unwrap().unwrap();
    assert!((19 * MB..25 * MB).contains(&freed), "{freed}");
    assert!(disk.fill() < full - 20.0, "{} % of {full} % are left", disk.fill());
    built(&dedicated, 1).await.unwrap();
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_disk_is_full_costs_no_build() {
    let disk = SmallDisk::mount("256m");
    let server = TestEngine::start_in(disk.path()).await;
    let git = GitServer::start();
    let repository = git.empty("large");
    repository.write(
        "Dockerfile",
        format!("FROM {BASE}\nRUN head -c 60m /dev/urandom > /large || {{ sleep 1; exit 1; }}\n"),
    );
    let commit = repository.commit("Build a large file");
    let grid = TestGrid::with(|config| {
        config.engine.host = server.host();
        config.engine.dedicated = true;
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
    })
    .await;
    let dedicated = connect(&server, true);
    // Build cache, which a build finds in its way.
    built(&dedicated, 100).await.unwrap();
    disk.fill_to(85);
    let id = unique();
    let event = format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","repository":{{"url":"{}"}},
            "commit":"{commit}","ref":"refs/heads/main"}}"#,
        repository.url
    );
    grid.publish(event).await;
    let retrying = grid.result(&id, State::Retrying).await;
    let reason = retrying.reason.unwrap();
    assert_eq!(retrying.kind, Some(Kind::Infrastructure), "{reason}");
    assert!(reason.starts_with("the engine's disk is full; free space on it"), "{reason}");
    // By then the cache is gone.
    assert_eq!(grid.result(&id, State::Published).await.attempt, 2);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn intake_waits_for_the_engines_disk() {
    let disk = SmallDisk::mount("256m");
    let server = TestEngine::start_in(disk.path()).await;
    let shared = connect(&server, false);
    built(&shared, 50).await.unwrap();
    disk.fill_to(95);
    let said = async |grid: &TestGrid| {
        let url = format!("http://{}/readyz", grid.config.worker.status_listen);
        reqwest::get(url).await.unwrap().text().await.unwrap()
    };
    let mut grid = TestGrid::with(|config| {
        config.engine.host = server.host();
        config.disk = DiskConfig::default();
    })
    .await;
    let fault = format!("{} (the Docker engine's data) is 95 % full", disk.path().display());
    in_time("readiness says it", async {
        while !said(&grid).await.contains(&fault) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(said(&grid).await.contains("engine.dedicated"));
    assert!(disk.fill() > 94.0, "the cache of an engine that others use as well stays");
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    grid.config.engine.dedicated = true;
    grid.start_worker().await;
    in_time("the cache is pruned, and events are taken again", async {
        while disk.fill() > 85.0 || said(&grid).await.contains(&fault) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    grid.finish().await;
}

#[tokio::test]
async fn a_step_that_fills_its_shared_memory_is_the_builds_fault() {
    let dockerfile =
        format!("FROM {BASE}\nRUN echo {}; dd if=/dev/zero of=/dev/shm/x bs=1M count=100\n", unique());
    let reason = build(&engine(), request(&dockerfile)).await.failure().reason;
    assert!(reason.contains("/dev/shm") && reason.contains("a file system of the step's own"), "{reason}");
}
