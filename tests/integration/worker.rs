//! Events through the whole worker: real RabbitMQ, real store, builds that are fake.

mod cancel;
mod disk;
mod logs;
mod outages;
mod policy;
mod service;
mod timeline;

use std::time::Duration;

use buildgrid::config::Config;
use buildgrid::event::result::{Kind, State};
use buildgrid::publish::name::ImageName;
use buildgrid::queue::{Queue, Selection};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Part, Store};
use buildgrid::timeline::entry::Stream;
use oci_spec::image::ImageManifest;
use tokio_util::sync::CancellationToken;

use crate::support::blob::{bytes_of, file_of};
use crate::support::grid::{TestGrid, fake_event, read_log};
use crate::support::patience::in_time;

const COMMIT: &str = "9fceb02d0ae598e95dc970b74767f19372d61af8";

/// A quick fake with an image of its own.
fn quick(seed: u32) -> String {
    format!(r#"{{"log_lines":10,"layers":2,"layer_bytes":4096,"seed":{seed}}}"#)
}

/// The event, for another commit, whose image is not there yet.
fn other_commit(event: &str) -> String {
    event.replace(COMMIT, &COMMIT.replace('9', "8"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_pullable_image() {
    let grid = TestGrid::start().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let started = grid.result("b-1", State::Started).await;
    assert_eq!((started.attempt, started.worker.as_str()), (1, "worker-1"));
    let published = grid.result("b-1", State::Published).await;
    let host = &grid.config.registry.host;
    assert_eq!(published.image.as_deref(), Some(format!("{host}/smoke/web.fake:{COMMIT}").as_str()));
    assert!(!published.reused && published.kind.is_none() && published.finished_at.is_some());

    // Everything the manifest names is in the store, and of the digest it says.
    let store = Store::open_read_only(&grid.config.store).unwrap();
    let repository = "smoke/web.fake".parse().unwrap();
    let digest = published.digest.unwrap();
    let manifest = store.manifest(&repository, digest).await.unwrap().unwrap();
    assert_eq!(Digest::of(&manifest), digest);
    let manifest: ImageManifest = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest.layers().len(), 2);
    for part in manifest.layers().iter().chain([manifest.config()]) {
        let part_digest: Digest = part.digest().to_string().parse().unwrap();
        let blob = store.blob(&repository, part_digest).await.unwrap().unwrap();
        assert_eq!(Digest::of(&bytes_of(&blob).await), part_digest);
        assert_eq!(blob.size, part.size());
    }

    let log = grid.log("b-1");
    assert_eq!(log.iter().filter(|entry| entry.stream == Stream::Stdout).count(), 10);
    assert!(log.iter().all(|entry| entry.server == "worker-1"));
    assert!(log.last().unwrap().text.contains(&format!("published {host}/smoke/web.fake:{COMMIT}")));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_published_five_times_is_built_once() {
    let grid = TestGrid::with(|config| config.worker.slots = 2).await;
    let event = fake_event("b-1", r#"{"log_lines":60,"line_interval_ms":50,"layers":1,"layer_bytes":10}"#);
    for _ in 0..5 {
        grid.publish(event.clone()).await;
    }
    // Four attach to the running build, and keep no slot from another one.
    grid.publish(other_commit(&fake_event("b-2", &quick(1)))).await;
    grid.result("b-2", State::Published).await;
    assert!(!grid.build_directory("b-1").join("outcome.json").exists());
    grid.result("b-1", State::Published).await;
    // What comes after the end is answered again, and what comes at it needs no answer.
    in_time("it is answered again", async {
        while grid.ends("b-1").await.len() < 2 {
            grid.publish(event.clone()).await;
        }
    })
    .await;
    assert_eq!(grid.results("b-1").iter().filter(|r| r.state == State::Started).count(), 1);
    let directory = grid.build_directory("b-1");
    assert!(!directory.join("log.1.ndjson").exists(), "there was one attempt");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_another_body_is_a_conflict() {
    let grid = TestGrid::start().await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let first = grid.result("b-1", State::Published).await;
    grid.publish(fake_event("b-1", &quick(2))).await;
    let letter = grid.dead_letter().await;
    assert!(letter.reason.contains("b-1") && letter.reason.contains("another event"), "{}", letter.reason);
    grid.publish(fake_event("b-1", &quick(1))).await;
    assert_eq!(grid.nth_result("b-1", State::Published, 2).await, first, "the first is untouched");
    assert!(grid.results("b-1").iter().all(|result| result.state != State::Rejected));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_events_are_dead_lettered_and_the_worker_goes_on() {
    let grid = TestGrid::start().await;
    let good = fake_event("x", "{}");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "empty"),
        (b"\xff\xfe".to_vec(), "not UTF-8"),
        (good.as_bytes()[..good.len() / 2].to_vec(), "JSON"),
        ("[".repeat(100_000).into_bytes(), "recursion"),
        (format!("{{\"pad\":\"{}\"}}", "x".repeat(1 << 20)).into_bytes(), "1048576"),
        (good.replace("\"version\":1", "\"version\":1,\"version\":1").into_bytes(), "twice"),
        (good.replace("\"version\":1", "\"version\":2").into_bytes(), "version 2"),
        (good.replace("\"app\":\"web\",", "").into_bytes(), "app"),
        (good.replace("\"fake\":{}", "\"fake\":{},\"build\":{\"no_cash\":true}").into_bytes(), "no_cash"),
        (good.replace(COMMIT, "main").into_bytes(), "not a full commit id"),
        (good.replace("\"app\":\"web\"", "\"app\":\"We.b\"").into_bytes(), "We.b"),
        (good.replace("\"fake\":{}", "\"fake\":{},\"build\":{\"root\":\"../..\"}").into_bytes(), "leaves"),
        (
            good.replace("\"fake\":{}", "\"fake\":{},\"build\":{\"timeout_s\":-1}").into_bytes(),
            "out of range",
        ),
        (good.replace("\"app\":\"web\"", "\"app\":\"w\\u0000b\"").into_bytes(), "NUL"),
        (
            good.replace("\"namespace\":\"smoke\"", "\"namespace\":\"acme\"")
                .replace("\"x\"", "\"y\"")
                .into_bytes(),
            "fake.namespaces",
        ),
        (
            good.replace("\"fake\":{}", "\"fake\":{},\"build\":{\"secrets\":[\"../npm\"]}")
                .replace("\"x\"", "\"z\"")
                .into_bytes(),
            "build.secrets",
        ),
    ];
    for (body, word) in cases {
        grid.publish(body.clone()).await;
        let letter = grid.dead_letter().await;
        assert!(letter.reason.contains(word), "{word:?} is not in {:?}", letter.reason);
        assert_eq!(letter.body, body, "the original bytes are kept ({word})");
    }
    let rejected = grid.nth_result("x", State::Rejected, 3).await;
    assert_eq!(rejected.kind, Some(Kind::Event));
    grid.publish(fake_event("good", &quick(1))).await;
    grid.result("good", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_build_fails_for_good() {
    let grid = TestGrid::start().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":3,"outcome":"build_failed"}"#)).await;
    let failed = grid.result("b-1", State::Failed).await;
    assert_eq!(failed.kind, Some(Kind::Build));
    assert!(failed.step.is_some() && !failed.excerpt.is_empty() && failed.reason.is_some());
    assert!(grid.results("b-1").iter().all(|result| result.state != State::Retrying));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn infrastructure_is_tried_again_and_then_given_up() {
    let grid = TestGrid::with(|config| config.queue.max_attempts = 2).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"infrastructure"}"#)).await;
    let retrying = grid.result("b-1", State::Retrying).await;
    assert_eq!((retrying.attempt, retrying.kind), (1, Some(Kind::Infrastructure)));
    // The first retry queue holds it for ten seconds.
    let failed = grid.result("b-1", State::Failed).await;
    assert_eq!((failed.attempt, failed.kind), (2, Some(Kind::Infrastructure)));
    let letter = grid.dead_letter().await;
    assert!(letter.reason.contains("2 attempts"), "{}", letter.reason);
    assert!(grid.build_directory("b-1").join("log.1.ndjson").exists(), "the first attempt's log is kept");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requeued_dead_letter_is_tried_again() {
    let mut grid = TestGrid::with(|config| config.fake.namespaces.clear()).await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    let rejected = grid.result("b-1", State::Rejected).await;
    assert!(rejected.reason.unwrap().contains("fake.namespaces"));
    // The operator mends the configuration and puts the event back.
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    grid.config.fake.namespaces = vec!["smoke".parse().unwrap()];
    grid.start_worker().await;
    grid.broker.requeue_letters(&Selection::All, |_| ()).await.unwrap();
    grid.result("b-1", State::Published).await;
    // What comes again by itself is answered, not built.
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.nth_result("b-1", State::Published, 2).await;
    assert_eq!(grid.results("b-1").iter().filter(|r| r.state == State::Started).count(), 2);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_event_under_a_known_id_does_not_touch_the_first() {
    let grid = TestGrid::start().await;
    let good = fake_event("b-1", &quick(1));
    grid.publish(good.clone()).await;
    grid.result("b-1", State::Published).await;
    grid.publish(good.replace("\"fake\"", "\"build\":{\"no_cash\":true},\"fake\"")).await;
    assert!(grid.dead_letter().await.reason.contains("no_cash"));
    grid.publish(good).await;
    grid.nth_result("b-1", State::Published, 2).await;
    assert!(grid.results("b-1").iter().all(|result| result.state != State::Rejected));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_image_is_repaired_by_building_it_again() {
    let grid = TestGrid::start().await;
    grid.publish(fake_event("first", &quick(1))).await;
    let first = grid.result("first", State::Published).await;
    let hex = first.digest.unwrap().hex();
    let manifest = grid
        .config
        .store
        .path
        .join("docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(&hex)
        .join("data");
    let store = Store::open_read_only(&grid.config.store).unwrap();
    let repository = "smoke/web.fake".parse().unwrap();
    let rot = || std::fs::write(&manifest, "rot").unwrap();
    // As on a bad block.
    let hide = || {
        std::fs::remove_file(&manifest).unwrap();
        std::os::unix::fs::symlink("data", &manifest).unwrap();
    };
    let damages: [&dyn Fn(); 3] = [&rot, &hide, &hide];
    for ((id, build), damage) in
        [("second", "{}"), ("third", "{}"), ("fourth", r#"{"rebuild":true}"#)].into_iter().zip(damages)
    {
        damage();
        let event = fake_event(id, &quick(1));
        grid.publish(event.replace("\"fake\"", &format!("\"build\":{build},\"fake\""))).await;
        let repaired = grid.result(id, State::Published).await;
        assert!(!repaired.reused, "{id}");
        assert_eq!(repaired.digest, first.digest, "the same image");
        assert!(store.manifest(&repository, first.digest.unwrap()).await.unwrap().is_some(), "{id}");
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scrub_puts_into_quarantine_is_made_anew_by_building_again() {
    let grid = TestGrid::start().await;
    grid.publish(fake_event("first", &quick(1))).await;
    let first = grid.result("first", State::Published).await.digest.unwrap();
    let store = Store::open_read_only(&grid.config.store).unwrap();
    let repository = "smoke/web.fake".parse().unwrap();
    let manifest = store.manifest(&repository, first).await.unwrap().unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    let blob = store.blob(&repository, layer).await.unwrap().unwrap();
    let mut bytes = std::fs::read(file_of(&blob)).unwrap();
    bytes[100] ^= 1;
    std::fs::write(file_of(&blob), bytes).unwrap();
    let scrub = || store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    let found = scrub();
    assert_eq!(found.damaged.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [layer]);
    assert_eq!(found.damaged[0].images.len(), 1, "{found:?}");
    assert!(store.blob(&repository, layer).await.unwrap().is_none(), "it is not served");
    // The tag stands, and its manifest is as it was.
    grid.publish(fake_event("second", &quick(1))).await;
    let second = grid.result("second", State::Published).await;
    assert!(!second.reused && second.digest == Some(first), "{second:?}");
    assert!(store.blob(&repository, layer).await.unwrap().is_some());
    assert!(!scrub().is_damaged());
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_has_its_share_of_the_store_builds_no_more() {
    let rules = "[namespaces]\nsmoke = { max_store = \"100 kB\" }\n";
    let rules = Config::parse("", rules, []).unwrap().namespaces;
    let grid = TestGrid::with(|config| config.namespaces = rules).await;
    let large = |seed| format!(r#"{{"log_lines":1,"layers":1,"layer_bytes":60000,"seed":{seed}}}"#);
    let event = |id: &str, seed: usize| {
        let commit = format!("{seed:040x}");
        fake_event(id, &large(seed)).replace("9fceb02d0ae598e95dc970b74767f19372d61af8", &commit)
    };
    for seed in [1, 2] {
        let id = format!("b-{seed}");
        grid.publish(event(&id, seed)).await;
        grid.result(&id, State::Published).await;
    }
    grid.publish(event("b-3", 3)).await;
    let rejected = grid.result("b-3", State::Rejected).await;
    let reason = rejected.reason.unwrap();
    for part in ["namespace smoke has 12", "KiB in the store", "namespaces.smoke.max_store allows 97.7 KiB"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert_eq!(grid.dead_letter().await.reason, reason);
    // What is there already needs no more room.
    grid.publish(event("b-4", 2)).await;
    let fourth = grid.result("b-4", State::Published).await;
    assert!(fourth.reused);
    // Nor does what repairs it: what is missing counts already.
    let hex = fourth.digest.unwrap().hex();
    let blobs = grid.config.store.path.join("docker/registry/v2/blobs/sha256");
    for (id, build) in [("b-5", "{}"), ("b-6", r#"{"rebuild":true}"#)] {
        std::fs::remove_file(blobs.join(&hex[..2]).join(&hex).join("data")).unwrap();
        grid.publish(event(id, 2).replace("\"fake\"", &format!("\"build\":{build},\"fake\""))).await;
        let repaired = grid.result(id, State::Published).await;
        assert!(!repaired.reused && repaired.digest == fourth.digest, "{repaired:?}");
    }
    grid.publish(event("b-7", 2).replace("\"fake\"", "\"build\":{\"rebuild\":true},\"fake\"")).await;
    assert!(grid.result("b-7", State::Rejected).await.reason.unwrap().contains("max_store"));
    assert!(grid.dead_letter().await.reason.contains("max_store"));
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_build_ends_at_its_time_limit() {
    let grid = TestGrid::start().await;
    let event = fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#);
    grid.publish(event.replace("\"fake\"", "\"build\":{\"timeout_s\":1},\"fake\"")).await;
    let failed = grid.result("b-1", State::Failed).await;
    assert_eq!(failed.kind, Some(Kind::Build));
    assert!(failed.reason.as_deref().unwrap().contains("time limit of 1 s"), "{:?}", failed.reason);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_build_ends_at_its_namespaces_limit() {
    let rules = "[namespaces]\nsmoke = { idle_timeout = \"1s\" }\n\"*\" = { idle_timeout = \"1h\" }\n";
    let rules = Config::parse("", rules, []).unwrap().namespaces;
    let grid = TestGrid::with(|config| config.namespaces = rules).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":1,"outcome":"hang"}"#)).await;
    let failed = grid.result("b-1", State::Failed).await;
    assert_eq!(failed.kind, Some(Kind::Build));
    let reason = failed.reason.unwrap();
    assert!(
        reason.contains("no sign of life for 1 s, which is the limit (namespaces.smoke.idle_timeout)"),
        "{reason}"
    );
    // One that says something all the time is not silent, however long it takes.
    grid.publish(fake_event("b-2", r#"{"log_lines":15,"line_interval_ms":100}"#)).await;
    grid.result("b-2", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_the_namespace_may_not_build_is_refused_with_the_rule() {
    let rules = "[namespaces]\nsmoke = { repositories = [\"https://git.example.com/acme/\"] }\n";
    let rules = Config::parse("", rules, []).unwrap().namespaces;
    let grid = TestGrid::with(|config| config.namespaces = rules).await;
    let event = r#"{"version":1,"id":"b-1","namespace":"smoke","app":"web","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8",
        "repository":{"url":"https://git.example.com/acme-2/shop.git"}}"#;
    grid.publish(event).await;
    let rejected = grid.result("b-1", State::Rejected).await;
    assert_eq!(rejected.kind, Some(Kind::Event));
    let reason = rejected.reason.unwrap();
    assert!(
        reason.ends_with("namespaces.smoke.repositories allows https://git.example.com/acme/"),
        "{reason}"
    );
    assert_eq!(grid.dead_letter().await.reason, reason);
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_reused_kept_apart_or_replaced() {
    let grid = TestGrid::start().await;
    let with = |id: &str, seed: u32, build: &str| {
        fake_event(id, &quick(seed)).replace("\"fake\"", &format!("\"build\":{build},\"fake\""))
    };
    grid.publish(with("first", 1, "{}")).await;
    let first = grid.result("first", State::Published).await;

    grid.publish(with("same", 1, "{}")).await;
    let same = grid.result("same", State::Published).await;
    assert!(same.reused);
    assert_eq!((same.digest, same.size), (first.digest, first.size));

    grid.publish(with("other", 2, "{}")).await;
    let other = grid.result("other", State::Rejected).await;
    assert!(other.reason.as_deref().unwrap().contains("variant"), "{:?}", other.reason);
    assert!(grid.dead_letter().await.reason.contains("variant"));

    grid.publish(with("variant", 2, r#"{"variant":"debug"}"#)).await;
    let variant = grid.result("variant", State::Published).await;
    assert!(variant.image.as_deref().unwrap().ends_with("-debug") && variant.digest != first.digest);

    grid.publish(with("rebuild", 2, r#"{"rebuild":true}"#)).await;
    let rebuild = grid.result("rebuild", State::Published).await;
    assert!(!rebuild.reused && rebuild.digest != first.digest);
    let store = Store::open_read_only(&grid.config.store).unwrap();
    let name = ImageName { repository: "smoke/web.fake".parse().unwrap(), tag: COMMIT.parse().unwrap() };
    assert_eq!(store.tag(&name).await.unwrap(), rebuild.digest);
    let earlier = store.manifest(&name.repository, first.digest.unwrap()).await.unwrap();
    assert!(earlier.is_some(), "the earlier image is still pullable by its digest");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_does_not_touch_the_build() {
    let grid = TestGrid::with(|config| config.worker.slots = 2).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":60,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    grid.rabbit.cut_client("worker-1").await;
    grid.result("b-1", State::Published).await;
    assert_eq!(grid.results("b-1").iter().filter(|r| r.state == State::Started).count(), 1);
    assert!(!grid.build_directory("b-1").join("log.1.ndjson").exists(), "there was one attempt");
    // The redelivery that attached has been acked as well: nothing is left, says `finish`.
    grid.publish(other_commit(&fake_event("b-2", &quick(1)))).await;
    grid.result("b-2", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drain_ends_what_runs_and_takes_nothing_new() {
    let mut grid = TestGrid::with(|config| config.worker.slots = 1).await;
    grid.publish(fake_event("b-1", r#"{"log_lines":20,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    grid.publish(other_commit(&fake_event("b-2", r#"{"log_lines":1,"outcome":"build_failed"}"#))).await;
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    grid.result("b-1", State::Published).await;
    assert!(!grid.build_directory("b-2").exists(), "nothing new was taken");
    grid.start_worker().await;
    grid.result("b-2", State::Failed).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_build_is_given_back_and_built_again() {
    let mut grid = TestGrid::start().await;
    grid.publish(fake_event("b-1", r#"{"log_lines":100,"line_interval_ms":100}"#)).await;
    grid.log_line("b-1", "attempt 1").await;
    let shutdown = grid.shutdown();
    shutdown.drain.cancel();
    shutdown.abort.cancel();
    grid.worker_ended().await.unwrap();
    let directory = grid.build_directory("b-1");
    assert!(!directory.join("outcome.json").exists() && !directory.join("spool").exists());
    // The same event, with a worker that is there again.
    grid.start_worker().await;
    grid.nth_result("b-1", State::Started, 2).await;
    grid.result("b-1", State::Published).await;
    assert!(read_log(&directory.join("log.1.ndjson")).len() < 100, "the first attempt was cut short");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_made_again() {
    let grid = TestGrid::start().await;
    grid.rabbit.control(&["delete_queue", "--vhost", grid.rabbit.vhost(), "buildgrid.builds"]).await;
    in_time("the worker declares its queue again", async {
        let list = ["list_queues", "--vhost", grid.rabbit.vhost(), "name", "consumers"];
        while !grid.rabbit.control(&list).await.contains("buildgrid.builds\t2") {}
    })
    .await;
    grid.publish(fake_event("b-1", &quick(1))).await;
    grid.result("b-1", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_refuses_the_start() {
    let grid = TestGrid::idle(|_| ()).await;
    let mut config = grid.config.clone();
    config.queue.delivery_limit = 7;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let queue = Queue::amqp(&config.queue, "worker-1");
    let run = buildgrid::worker::daemon::run(&config, queue, listener, Default::default(), || ());
    let error = tokio::time::timeout(Duration::from_secs(30), run).await.unwrap().unwrap_err();
    let words = format!("{error:#}");
    assert!(words.contains("buildgrid.builds") && words.contains("x-delivery-limit"), "{words}");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_pages_tell_what_is_wrong() {
    let mut grid = TestGrid::with(|config| {
        config.engine.host = "unix:///nowhere/docker.sock".to_owned();
    })
    .await;
    let page = |path: &str| format!("http://{}{path}", grid.config.worker.status_listen);
    let health = reqwest::get(page("/healthz")).await.unwrap();
    assert_eq!((health.status().as_u16(), health.text().await.unwrap().as_str()), (200, "ok\n"));
    let ready = reqwest::get(page("/readyz")).await.unwrap();
    assert_eq!(ready.status().as_u16(), 503);
    let text = ready.text().await.unwrap();
    assert!(text.contains("queue: ok") && text.contains("engine: "), "{text}");
    let metrics = reqwest::get(page("/metrics")).await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains("buildgrid_slots_total") && metrics.contains("buildgrid_broker_connected"),
        "{metrics}"
    );
    // Without an engine nothing is taken from the queue.
    grid.publish(fake_event("b-1", &quick(1))).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!grid.build_directory("b-1").exists());
    grid.shutdown().drain.cancel();
    grid.worker_ended().await.unwrap();
    grid.config.engine.host = "none".to_owned();
    grid.start_worker().await;
    grid.result("b-1", State::Published).await;
    grid.finish().await;
}
