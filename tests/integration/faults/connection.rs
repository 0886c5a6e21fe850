//! A connection to the broker that breaks, and queues that do not take or give what they should.

use std::time::{Duration, Instant};

use buildgrid::event::result::State;
use buildgrid::queue::QueueConfig;

use super::{lasting, nth_event, readiness};
use crate::program::{Worker, written};
use crate::support::address::free_address;
use crate::support::grid::TestGrid;
use crate::support::patience::{in_time, until};
use crate::support::process::buildgrid;
use crate::support::proxy::{Mode, Proxy};

/// A grid whose worker reaches the broker through a proxy, with heartbeats of two seconds; the test itself
/// does not.
async fn proxied() -> (TestGrid, Proxy) {
    let mut grid = TestGrid::idle(|_| ()).await;
    let (proxy, config) = grid.rabbit.proxied().await;
    let direct = std::mem::replace(
        &mut grid.config.queue,
        QueueConfig { heartbeat: Duration::from_secs(2), ..config },
    );
    grid.start_worker().await;
    grid.config.queue = direct;
    (grid, proxy)
}

async fn until_ready(grid: &TestGrid, wanted: bool) {
    let start = Instant::now();
    while readiness(grid).await.0 != wanted {
        assert!(start.elapsed() < Duration::from_secs(40), "{}", readiness(grid).await.1);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_noticed_within_two_heartbeats() {
    let (grid, proxy) = proxied().await;
    grid.publish(nth_event(1, &lasting(80))).await;
    grid.log_line("b-1", "fake line 3").await;
    proxy.set(Mode::Frozen);
    let frozen = Instant::now();
    until_ready(&grid, false).await;
    let noticed = frozen.elapsed();
    // Two heartbeats of two seconds, and the look at it once a second.
    assert!(noticed <= Duration::from_millis(5500), "noticed after {noticed:?}");
    proxy.set(Mode::Pass);
    until_ready(&grid, true).await;
    let published = grid.result("b-1", State::Published).await;
    assert!(grid.ends("b-1").await.iter().all(|end| *end == published));
    assert!(!grid.build_directory("b-1").join("log.1.ndjson").exists(), "there was one attempt");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_is_lost_costs_no_second_build() {
    let (grid, proxy) = proxied().await;
    grid.publish(nth_event(1, &lasting(20))).await;
    grid.log_line("b-1", "fake line 3").await;
    // What comes over the other connection passes: the result.
    proxy.set(Mode::Mute("buildgrid worker-1 consuming"));
    let published = grid.result("b-1", State::Published).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.set(Mode::Cut);
    until_ready(&grid, false).await;
    proxy.set(Mode::Pass);
    let again = grid.nth_result("b-1", State::Published, 2).await;
    assert_eq!(again, published);
    assert_eq!(grid.results("b-1").iter().filter(|result| result.state == State::Started).count(), 1);
    assert!(!grid.build_directory("b-1").join("log.1.ndjson").exists(), "it was not built again");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connection_to_the_broker_loses_nothing() {
    let (grid, proxy) = proxied().await;
    proxy.set(Mode::Throttled(4000));
    for n in 1..=4 {
        grid.publish(nth_event(n, "{\"log_lines\":3}")).await;
    }
    for n in 1..=4 {
        grid.result(&format!("b-{n}"), State::Published).await;
        assert_eq!(grid.ends(&format!("b-{n}")).await.len(), 1);
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_gone_is_asked_for_in_growing_pauses() {
    let mut grid = TestGrid::idle(|_| ()).await;
    grid.config.worker.status_listen = free_address();
    let config = written(&grid, |table| {
        let worker = table["worker"].as_table_mut().unwrap();
        worker.insert("slots".into(), 1.into());
        worker.insert("status_listen".into(), grid.config.worker.status_listen.to_string().into());
        table["queue"].as_table_mut().unwrap().insert("declare".into(), "passive".into());
    });
    let said = config.with_file_name("said");
    let worker = Worker::saying(&config, &said);
    let lines = |text: &str| std::fs::read_to_string(&said).unwrap().matches(text).count();
    until("it has started", || lines("worker started") == 1).await;
    until_ready(&grid, true).await;
    grid.rabbit.control(&["delete_queue", "--vhost", grid.rabbit.vhost(), "buildgrid.builds"]).await;
    until("it has noticed", || lines("the broker ended the subscription") == 1).await;
    until_ready(&grid, false).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (is_ready, said) = readiness(&grid).await;
    assert!(!is_ready && said.contains("no slot is subscribed"), "{said}");
    let tries = lines("cannot subscribe; trying again");
    assert!((2..=4).contains(&tries), "{tries} tries within ten seconds");
    // It may not make the queue; once somebody has, it goes on by itself.
    grid.broker.declare().await.unwrap();
    grid.publish(nth_event(1, "{}")).await;
    grid.result("b-1", State::Published).await;
    worker.ends().await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_retry_queue_holds_the_event_where_it_is() {
    let grid = TestGrid::with(|config| config.queue.max_attempts = 2).await;
    let vhost = grid.rabbit.vhost();
    let full = r#"{"max-length-bytes":1}"#;
    grid.rabbit.control(&["set_policy", "--vhost", vhost, "full", "retry.10s$", full]).await;
    // One waits there, and with it the queue is over its limit.
    grid.publish(nth_event(1, r#"{"log_lines":1,"outcome":"infrastructure"}"#)).await;
    grid.result("b-1", State::Retrying).await;
    grid.publish(nth_event(2, r#"{"log_lines":1,"outcome":"infrastructure"}"#)).await;
    grid.result("b-2", State::Retrying).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    grid.rabbit.control(&["clear_policy", "--vhost", vhost, "full"]).await;
    for n in 1..=2 {
        grid.result(&format!("b-{n}"), State::Failed).await;
        assert!(grid.dead_letter().await.reason.contains("2 attempts"));
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_kills_its_workers_ends_in_the_dead_letters() {
    let mut grid = TestGrid::idle(|config| config.queue.delivery_limit = 2).await;
    grid.config.worker.slots = 1;
    let config = written(&grid, |table| {
        table["queue"].as_table_mut().unwrap().insert("delivery_limit".into(), 2.into());
        table["worker"].as_table_mut().unwrap().insert("slots".into(), 1.into());
    });
    grid.publish(nth_event(1, &lasting(400))).await;
    for attempt in 1..=3 {
        let mut worker = Worker::start(&config);
        let earlier = grid.build_directory("b-1").join(format!("log.{}.ndjson", attempt - 1));
        until("it is taken again", || attempt == 1 || earlier.exists()).await;
        grid.log_line("b-1", "fake line 1").await;
        worker.signal("-KILL");
        worker.exit_code().await;
    }
    // The next one is left in peace.
    let worker = Worker::start(&config);
    grid.publish(nth_event(2, "{}")).await;
    grid.result("b-2", State::Published).await;
    let listed = buildgrid(&config).args(["dead-letters", "list"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("the delivery limit of") && listed.contains("smoke/web"), "{listed}");
    assert!(grid.ends("b-1").await.is_empty());
    worker.ends().await;
    grid.broker.drop_letters(&buildgrid::queue::Selection::All, |_| ()).await.unwrap();
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_whose_channel_is_gone_keep_no_place() {
    let grid = TestGrid::idle(|_| ()).await;
    let status = free_address().to_string();
    let config = written(&grid, |table| {
        table["worker"].as_table_mut().unwrap().insert("status_listen".into(), status.clone().into());
    });
    let log = config.with_file_name("log");
    let worker = Worker::saying(&config, &log);
    grid.publish(nth_event(1, &lasting(400))).await;
    grid.log_line("b-1", "attempt 1").await;
    let again = "delivered again while it is being built";
    for cut in 1..=3 {
        // The worker's connections, as an operator closes them.
        grid.rabbit.cut_client("worker-1").await;
        until("it is delivered again", || {
            std::fs::read_to_string(&log).unwrap().matches(again).count() == cut
        })
        .await;
    }
    let attached = async || {
        let metrics = reqwest::get(format!("http://{status}/metrics")).await.unwrap().text().await.unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix("buildgrid_deliveries_attached "));
        line.unwrap().to_owned()
    };
    in_time("only the last one waits", async {
        while attached().await != "1" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(!grid.build_directory("b-1").join("outcome.json").exists(), "it still runs");
    // Which is acknowledged with the build: nothing is left, says `finish`.
    grid.result("b-1", State::Published).await;
    grid.rabbit.until_empty().await;
    assert_eq!(attached().await, "0");
    worker.ends().await;
    grid.finish().await;
}
