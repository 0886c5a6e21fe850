//! What is kept of logs: no secret, and no more than there is room for, of which the log tells itself.

use std::os::unix::fs::PermissionsExt;

use buildgrid::event::result::State;
use buildgrid::timeline::entry::{LogEntry, Stream};
use bytesize::ByteSize;

use super::{COMMIT, quick};
use crate::support::disk::SmallDisk;
use crate::support::grid::{TestGrid, fake_event};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_secrets_that_others_can_read_refuses_the_start() {
    let secrets = tempfile::tempdir().unwrap();
    std::fs::set_permissions(secrets.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let directory = secrets.path().to_owned();
    let grid = TestGrid::idle(|config| config.worker.credentials_dir = Some(directory)).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let queue = grid.broker.clone();
    let refused =
        buildgrid::worker::daemon::run(&grid.config, queue, listener, Default::default(), || ()).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("chmod 0700"), "{error}");
    grid.finish().await;
}
