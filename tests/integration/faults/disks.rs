//! Disks that hang under a whole worker.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use buildgrid::disk::DiskConfig;

use crate::program::{Worker, written};
use crate::support::disk::SmallDisk;
use crate::support::grid::TestGrid;
use crate::support::patience::until;
use crate::support::process::output;

/// Whether the janitor is at files, and what its thread waits for in the kernel.
fn janitor(worker: &Worker) -> Option<String> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", worker.id())).unwrap();
    let mut threads = threads.map(|thread| thread.unwrap().path());
    let is_janitor = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == "janitor")
    };
    threads.find(is_janitor).map(|thread| std::fs::read_to_string(thread.join("wchan")).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_under_the_janitor_delays_no_end() {
    let disk = SmallDisk::mount("64m");
    let data_dir = disk.path().join("data");
    let grid = TestGrid::idle(|config| {
        config.worker.data_dir = data_dir;
        config.disk = DiskConfig::default();
    })
    .await;
    let config = written(&grid, |_| ());
    let log = disk.path().join("log");
    let worker = Worker::saying(&config, &log);
    until("it has started", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("worker started")))
        .await;
    until("the first round is over", || janitor(&worker).is_none()).await;

    // Whoever opens it waits in the kernel, as before a disk that does not answer.
    let hangs = grid.config.store.path.join("buildgrid/tmp/hangs");
    output(Command::new("mkfifo").arg(&hangs));
    disk.fill_to(93);
    until("the janitor hangs", || janitor(&worker).is_some_and(|at| at == "wait_for_partner")).await;

    let told = Instant::now();
    worker.ends().await;
    assert!(told.elapsed() < Duration::from_secs(15), "it took {:?}", told.elapsed());
    std::fs::remove_file(hangs).unwrap();
    disk.clear();
    grid.finish().await;
}
