//! What only the embedded queue has: a file, its lock, other processes beside it, a disk that can be full.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use buildgrid::cli::exit::Exit;
use buildgrid::queue::embedded::EmbeddedQueue;
use buildgrid::queue::{Ack, FileError, Queue, QueueConfig, QueueError, Selection};
use tokio_util::sync::CancellationToken;

use super::world::{database, open};
use super::{commands, deploy};
use crate::support::broker::{next, status};
use crate::support::disk::SmallDisk;
use crate::support::patience::in_time;

#[tokio::test]
async fn a_dropped_delivery_is_given_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::from(open(folder.path(), &QueueConfig::default()).await);
    deploy(&queue, "{}").await;
    let mut subscription = queue.subscribe().await.unwrap();
    drop(next(&mut subscription).await);
    let since = Instant::now();
    assert!(next(&mut subscription).await.redelivered);
    assert!(since.elapsed() < Duration::from_secs(1), "not at once");
}

#[tokio::test]
async fn a_release_does_not_count_towards_the_delivery_limit() {
    let folder = tempfile::tempdir().unwrap();
    let config = QueueConfig { delivery_limit: 1, ..QueueConfig::default() };
    let queue = Queue::from(open(folder.path(), &config).await);
    deploy(&queue, "{}").await;
    let mut subscription = queue.subscribe().await.unwrap();
    for _ in 0..5 {
        next(&mut subscription).await.release().await;
    }
    assert_eq!(next(&mut subscription).await.ack().await, Ack::Done);
}

#[tokio::test]
async fn only_one_process_takes_events() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("queue");
    let config = QueueConfig::default();
    let queue = open(&directory, &config).await;
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let refused = EmbeddedQueue::open(&directory, &config, "worker-2").await.err().unwrap();
    assert!(matches!(&refused, FileError::Locked { path, .. } if *path == directory.join("queue.db")));
    assert!(refused.to_string().contains("in use by another BuildGrid process"), "{refused}");
    queue.close().await;
    assert_eq!(queue.subscribe().await.err(), Some(QueueError::Cancelled));
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let closed = Queue::from(queue).publish_deploy(&namespace, &app, Vec::new()).await;
    assert_eq!(closed, Err(QueueError::Cancelled));
    open(&directory, &config).await;
}

#[tokio::test]
async fn a_killed_process_leaves_its_events_and_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "queue::embedded::victim", "--ignored", "--nocapture"])
        .env(VICTIM, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(victim.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("taken")), "the victim took nothing");
    victim.kill().unwrap();
    victim.wait().unwrap();
    let queue = open(folder.path(), &QueueConfig::default()).await;
    let mut subscription = Queue::from(queue).subscribe().await.unwrap();
    for (body, redelivered) in [(b"1", true), (b"2", false)] {
        let delivery = next(&mut subscription).await;
        assert_eq!((delivery.body.as_slice(), delivery.redelivered), (&body[..], redelivered));
        delivery.ack().await;
    }
}

/// The directory of the victim's queue.
const VICTIM: &str = "BUILDGRID_TEST_VICTIM";

#[tokio::test]
#[ignore = "not a test: the process that the test above kills"]
async fn victim() {
    let directory = std::env::var_os(VICTIM).expect("started by the test above");
    let queue = Queue::from(open(directory.as_ref(), &QueueConfig::default()).await);
    deploy(&queue, "1").await;
    deploy(&queue, "2").await;
    let _delivery = next(&mut queue.subscribe().await.unwrap()).await;
    println!("taken");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn another_process_publishes_and_settles_letters_and_the_slots_notice() {
    let folder = tempfile::tempdir().unwrap();
    let missing = EmbeddedQueue::attach(folder.path(), "cli").await.err().unwrap();
    assert_eq!(missing, FileError::Missing(folder.path().join("queue.db")));
    assert!(!folder.path().join("queue.db").exists(), "a look made a queue");

    let queue = Queue::from(open(folder.path(), &QueueConfig::default()).await);
    let mut subscription = queue.subscribe().await.unwrap();
    let attached = Queue::from(EmbeddedQueue::attach(folder.path(), "cli").await.unwrap());
    for refused in [attached.subscribe().await.err(), attached.results([]).await.err()] {
        assert!(matches!(refused, Some(QueueError::File(FileError::Attached(_)))), "{refused:?}");
    }
    deploy(&attached, r#"{"id": "e-1"}"#).await;
    let since = Instant::now();
    let delivery = next(&mut subscription).await;
    queue.dead_letter(&delivery, "a bug of ours", &CancellationToken::new()).await.unwrap();
    delivery.ack().await;

    let listed = commands::letters(&attached, &["list"]).await;
    assert!(listed.1.contains("a bug of ours"), "{listed:?}");
    let (ended, said) = commands::letters(&attached, &["requeue", "e-1"]).await;
    assert_eq!((ended, said.starts_with("requeued ")), (Exit::Done, true), "{said}");
    assert!(next(&mut subscription).await.requeue().is_some());
    assert!(since.elapsed() < Duration::from_secs(5), "two events took {:?}", since.elapsed());
    assert_eq!(attached.dead_letters(10).await.unwrap().letters, []);
}

#[tokio::test]
async fn what_waits_comes_in_the_order_of_its_being_due_and_behind_what_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let queue = Queue::from(open(folder.path(), &QueueConfig::default()).await);
    let mut subscription = queue.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for (body, attempt) in [("late", 4), ("soon", 2), ("clock", 4)] {
        deploy(&queue, body).await;
        let delivery = next(&mut subscription).await;
        queue.publish_retry(&delivery, attempt, "the engine is away", &cancel).await.unwrap();
        delivery.ack().await;
    }
    deploy(&queue, "held").await;
    deploy(&queue, "ready").await;
    let held = next(&mut subscription).await;
    // Eleven minutes pass; and from where the clock was an hour ahead, nobody waits an hour.
    let pool = database(folder.path()).await;
    let pass = "UPDATE events SET position = CASE CAST(body AS TEXT) WHEN 'clock' THEN position + 3600000 \
                ELSE position - 660000 END WHERE state = 'waiting'";
    sqlx::query(pass).execute(&pool).await.unwrap();
    let all_ready = "SELECT count(*) FROM events WHERE state = 'waiting'";
    in_time("all are ready", async {
        while sqlx::query_scalar::<_, i64>(all_ready).fetch_one(&pool).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    held.ack().await;
    for body in ["ready", "soon", "late", "clock"] {
        let delivery = next(&mut subscription).await;
        assert_eq!(String::from_utf8_lossy(&delivery.body), body);
        delivery.ack().await;
    }
}

#[tokio::test]
async fn the_reason_of_the_last_attempt_stays_with_an_event_that_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = QueueConfig { delivery_limit: 1, ..QueueConfig::default() };
    let queue = Queue::from(open(folder.path(), &config).await);
    let mut subscription = queue.subscribe().await.unwrap();
    deploy(&queue, "{}").await;
    let delivery = next(&mut subscription).await;
    queue.publish_retry(&delivery, 2, "the engine is away", &CancellationToken::new()).await.unwrap();
    delivery.ack().await;
    let pool = database(folder.path()).await;
    sqlx::query("UPDATE events SET position = 0").execute(&pool).await.unwrap();
    for _ in 0..2 {
        drop(next(&mut subscription).await);
    }
    in_time("the dead letter", async {
        while queue.dead_letters(1).await.unwrap().letters.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let letter = queue.dead_letters(1).await.unwrap().letters.remove(0);
    assert!(letter.reason.ends_with("; before: the engine is away"), "{}", letter.reason);
    assert_eq!((letter.attempt, letter.worker), (2, None));
}

#[tokio::test]
async fn a_newer_or_a_foreign_file_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let config = QueueConfig::default();
    open(folder.path(), &config).await.close().await;
    let pool = database(folder.path()).await;
    sqlx::query("PRAGMA user_version = 7").execute(&pool).await.unwrap();
    for refused in [
        EmbeddedQueue::open(folder.path(), &config, "worker-1").await.err().unwrap(),
        EmbeddedQueue::attach(folder.path(), "cli").await.err().unwrap(),
    ] {
        let words = refused.to_string();
        assert!(matches!(refused, FileError::Newer { found: 7, known: 1, .. }), "{words}");
        assert!(words.contains("version 7") && words.contains("upgrade"), "{words}");
    }
    sqlx::query("PRAGMA user_version = 0").execute(&pool).await.unwrap();
    let foreign = EmbeddedQueue::open(folder.path(), &config, "worker-1").await.err().unwrap();
    assert!(matches!(foreign, FileError::Foreign(_)), "{foreign}");
    pool.close().await;

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("queue.db"), "something else entirely").unwrap();
    let broken = EmbeddedQueue::open(folder.path(), &config, "worker-1").await.err().unwrap();
    assert!(broken.to_string().contains("not a database"), "{broken}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_takes_nothing_and_space_heals_it() {
    let disk = SmallDisk::mount("1m");
    let directory = disk.path().join("queue");
    let queue = Queue::from(open(&directory, &QueueConfig::default()).await);
    let mut subscription = queue.subscribe().await.unwrap();
    deploy(&queue, "first").await;
    let first = next(&mut subscription).await;
    deploy(&queue, "second").await;

    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while std::io::Write::write(&mut file, &[7; 4096]).is_ok() {}
    drop(file);
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let error = queue.publish_deploy(&namespace, &app, vec![b' '; 100_000]).await.unwrap_err();
    assert_eq!(error, QueueError::File(FileError::Full(directory.join("queue.db"))));
    let told = queue.status();
    assert!(!told.is_ready() && told.error.unwrap().contains("no space is left"));
    assert_eq!(first.ack().await, Ack::Lost, "it could not be written down");
    drop(first);
    let given = tokio::time::timeout(Duration::from_millis(2500), subscription.next()).await;
    assert!(given.is_err(), "an event was given out that could not be settled");

    let cancel = CancellationToken::new();
    std::fs::remove_file(&ballast).unwrap();
    status(&queue, |status| status.is_ready()).await;
    for body in [b"first".as_slice(), b"second"] {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.body, body);
        queue.dead_letter(&delivery, "kept", &cancel).await.unwrap();
        assert_eq!(delivery.ack().await, Ack::Done);
    }
    assert_eq!(queue.dead_letters(10).await.unwrap().letters.len(), 2);
    queue.drop_letters(&Selection::All, |_| ()).await.unwrap();
    drop(subscription);
    queue.close().await;
}
