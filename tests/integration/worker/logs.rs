//! What is kept of logs: no secret, and no more than there is room for, of which the log tells itself.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buildgrid::event::deploy::DeployEvent;
use buildgrid::event::result::State;
use buildgrid::pipeline::Outcome;
use buildgrid::timeline::entry::{LogEntry, Stream};
use buildgrid::worker::attempt::{Attempt, Place};
use buildgrid::worker::daemon::assemble;
use buildgrid::worker::secrets::Secrets;
use bytesize::ByteSize;
use tokio_util::sync::CancellationToken;

use super::{COMMIT, quick};
use crate::support::disk::SmallDisk;
use crate::support::grid::{TestGrid, fake_event};
use crate::support::patience::in_time;
use crate::support::timeline::TestTimeline;

/// How many lines of output are in the log, how many it says are missing, and in what words.
fn counted(log: &[LogEntry]) -> (u64, u64, Vec<&str>) {
    let outputs = log.iter().filter(|entry| entry.stream == Stream::Stdout).count() as u64;
    let marks = log.iter().filter(|entry| entry.text.contains(" missing here: "));
    let marks: Vec<&str> = marks.map(|entry| entry.text.as_str()).collect();
    let missing = marks.iter().map(|mark| mark.split(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    (outputs, missing, marks)
}

/// An event for a commit of its own.
fn event(id: &str, fake: &str) -> String {
    let last = id.chars().last().unwrap();
    fake_event(id, fake).replace(COMMIT, &COMMIT.replace('9', &last.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_lines_that_are_counted_and_never_the_build() {
    let disk = SmallDisk::mount("8m");
    let mut grid = TestGrid::idle(|config| config.worker.data_dir = disk.path().join("data")).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    grid.tell(&timeline, None);
    grid.start_worker().await;
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![7; 5 << 20]).unwrap();
    grid.publish(fake_event("b-1", r#"{"log_lines":40000,"layers":1,"layer_bytes":100}"#)).await;
    let published = grid.result("b-1", State::Published).await;
    assert!(published.digest.is_some());

    let log = grid.log("b-1");
    let (outputs, missing, marks) = counted(&log);
    assert!(outputs > 1000 && missing > 1000, "{outputs} lines are kept, {missing} are missing");
    assert_eq!(outputs + missing, 40_000);
    assert!(marks.iter().all(|mark| mark.contains("the disk of worker.data_dir was full")), "{marks:?}");
    assert!(log.last().unwrap().text.starts_with("published "), "{:?}", log.last());

    // The service gets it as it is, count and checksum among it.
    std::fs::remove_file(&ballast).unwrap();
    timeline.start_again().await;
    let build = timeline.has_all_of(&grid.build_directory("b-1")).await;
    assert!(build.attempts[0].complete);
    assert_eq!(build.attempts[0].entries, log.len() as u64);
    grid.publish(event("b-2", &quick(2))).await;
    grid.result("b-2", State::Published).await;
    assert_eq!(counted(&grid.log("b-2")).1, 0, "there is room again");
    timeline.has_all_of(&grid.build_directory("b-2")).await;
    grid.finish().await;
    timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_service_that_is_away_is_bounded() {
    let mut grid = TestGrid::idle(|config| config.worker.max_spool = ByteSize::mib(1)).await;
    let mut timeline = TestTimeline::away(&grid.config.queue);
    grid.tell(&timeline, None);
    grid.start_worker().await;
    let long = r#"{"log_lines":10000,"layers":1,"layer_bytes":100}"#;
    for id in ["b-1", "b-2"] {
        grid.publish(event(id, long)).await;
        grid.result(id, State::Published).await;
        let log = grid.log(id);
        let (outputs, missing, marks) = counted(&log);
        assert_eq!((outputs + missing, marks.len()), (10_000, 1), "{marks:?}");
        assert!(marks[0].contains("worker.max_spool (1.0 MiB)"), "{marks:?}");
        assert_eq!(outputs > 0, id == "b-1", "the first has taken all the room");
        let own = |words: &str| log.iter().any(|entry| entry.step.is_none() && entry.text.starts_with(words));
        assert!(own("attempt 1 on") && own("publishing ") && own("published "), "{log:#?}");
    }
    timeline.start_again().await;
    for id in ["b-1", "b-2"] {
        assert!(timeline.has_all_of(&grid.build_directory(id)).await.attempts[0].complete);
    }
    grid.publish(event("b-3", long)).await;
    grid.result("b-3", State::Published).await;
    let (outputs, missing, _) = counted(&grid.log("b-3"));
    assert!(outputs > 0 && outputs + missing == 10_000);
    timeline.has_all_of(&grid.build_directory("b-3")).await;
    grid.finish().await;
    timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_cut_with_a_mark() {
    let grid = TestGrid::with(|config| config.worker.max_log = ByteSize::mib(1)).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":10000,"layers":1,"layer_bytes":100}"#)).await;
    grid.result("b-1", State::Published).await;
    let (outputs, missing, marks) = {
        let log = grid.log("b-1");
        let (outputs, missing, marks) = counted(&log);
        (outputs, missing, marks.join("\n"))
    };
    assert!(outputs > 1000 && outputs + missing == 10_000, "{outputs} {missing}");
    assert!(marks.lines().count() == 1 && marks.contains("worker.max_log (1.0 MiB)"), "{marks}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_masked_in_logs_and_results_as_they_are_now() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let write = |name: &str, value: &str| std::fs::write(secrets.path().join(name), value).unwrap();
    write("secret.smoke.line", "line 3 of 6\n");
    write("secret.acme.line", "line 4 of 6\n");
    write("secret.smoke.pin", "1");
    let directory = secrets.path().to_owned();
    let grid = TestGrid::with(|config| config.worker.credentials_dir = Some(directory)).await;
    let failing = r#"{"log_lines":6,"outcome":"build_failed"}"#;
    grid.publish(fake_event("b-1", failing)).await;
    grid.result("b-1", State::Failed).await;
    let text = |id| grid.log(id).into_iter().map(|entry| entry.text).collect::<Vec<_>>().join("\n");
    let log = text("b-1");
    assert!(log.contains("fake ***\nfake line 4 of 6") && !log.contains("line 3 of 6"), "{log}");
    assert!(log.contains("secret pin is not masked in this log"), "{log}");

    write("secret.smoke.line", "line 6 of 6\n");
    write("secret.smoke.step", "exit code 1");
    grid.publish(fake_event("b-2", failing)).await;
    let failed = grid.result("b-2", State::Failed).await;
    assert_eq!(failed.excerpt, ["fake line 4 of 6", "fake line 5 of 6", "fake ***"]);
    assert_eq!(failed.reason.as_deref(), Some("step [2/2] RUN fake step: ***"));
    assert!(text("b-2").contains("fake line 3 of 6"), "{}", text("b-2"));
    grid.finish().await;
}

/// A directory of secrets, and a place where it can be moved out of the way.
fn private() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (directory, away) = (folder.path().join("secrets"), folder.path().join("away"));
    std::fs::create_dir(&directory).unwrap();
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::write(directory.join("secret.smoke.line"), "line 2 of 3").unwrap();
    (folder, directory, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_that_cannot_be_read_hold_the_intake_and_cost_no_attempt() {
    let (_folder, directory, away) = private();
    let configured = directory.clone();
    let grid = TestGrid::with(|config| config.worker.credentials_dir = Some(configured)).await;
    let readiness = async || {
        let url = format!("http://{}/readyz", grid.config.worker.status_listen);
        let page = reqwest::get(url).await.unwrap().text().await.unwrap();
        page.lines().find(|line| line.starts_with("secrets: ")).unwrap().to_owned()
    };
    let turns = async |closed: bool| {
        in_time("the secrets' gate turns", async {
            while (readiness().await == "secrets: ok") == closed {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    };
    turns(false).await;
    std::fs::rename(&directory, &away).unwrap();
    turns(true).await;
    let said = readiness().await;
    assert!(said.contains("(worker.credentials_dir) cannot be read (No such file"), "{said}");
    assert!(said.contains("make it, with mode 0700"), "{said}");
    grid.publish(fake_event("b-1", r#"{"log_lines":3}"#)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!grid.build_directory("b-1").exists(), "the event stays in the queue");
    std::fs::rename(&away, &directory).unwrap();
    turns(false).await;
    let published = grid.result("b-1", State::Published).await;
    assert_eq!(published.attempt, 1);
    assert!(grid.log("b-1").iter().any(|entry| entry.text == "fake ***"));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_secrets_cannot_be_read_says_so() {
    let (_folder, directory, away) = private();
    std::fs::rename(&directory, &away).unwrap();
    let grid = TestGrid::idle(|config| config.worker.credentials_dir = Some(directory)).await;
    let (pipeline, data) = assemble(&grid.config, &grid.config.worker.data_dir).unwrap();
    let body = fake_event("b-1", "{}");
    let (event, _) = DeployEvent::parse(body.as_bytes()).unwrap();
    let place = Place {
        worker: "worker-1".to_owned(),
        registry_host: "localhost:5000".to_owned(),
        timeline: None,
        mirror: Arc::new(|_| ()),
        secrets: Secrets::new(&grid.config),
        max_log: 1 << 20,
    };
    let attempt = Attempt {
        event: &event,
        body: body.as_bytes(),
        number: 1,
        directory: data.build(&event.id),
        place: &place,
        cancel: &CancellationToken::new(),
        telling: None,
        on_board: None,
    };
    let outcome = Box::pin(attempt.run(&pipeline)).await;
    let Outcome::Infrastructure(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("the secrets cannot be read, without which nothing is built: /"), "{reason}");
    assert!(reason.contains("(worker.credentials_dir)") && !reason.contains("build directory"), "{reason}");
    drop((pipeline, data));
    grid.finish().await;
}
