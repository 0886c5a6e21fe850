//! A broker that breaks: each test has a node of its own.

use std::time::{Duration, Instant};

use buildgrid::event::result::State;

use super::{lasting, nth_event, readiness};
use crate::support::broker::TestBroker;
use crate::support::grid::TestGrid;
use crate::support::node::BrokerNode;
use crate::support::patience::{in_time, until};
use crate::support::timeline::TestTimeline;

async fn until_ready(grid: &TestGrid) {
    in_time("the worker is ready", async {
        while !readiness(grid).await.1.contains("queue: ok") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_is_consumed_from_within_ten_seconds() {
    let mut node = BrokerNode::start().await;
    let mut grid = TestGrid::on(TestBroker::on(&node), |_| ()).await;
    grid.start_worker().await;
    until_ready(&grid).await;
    node.kill();
    until("the worker has noticed", || !grid.broker.status().can_publish).await;
    assert!(!readiness(&grid).await.1.contains("queue: ok"));
    node.start_again().await;
    let back = Instant::now();
    let (namespace, app) = ("smoke".parse().unwrap(), "web".parse().unwrap());
    let event = nth_event(1, "{}");
    while grid.broker.publish_deploy(&namespace, &app, event.clone().into()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let started = async {
        while !grid.build_directory("b-1").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("it is taken", started).await;
    let away = back.elapsed();
    assert!(away < Duration::from_secs(10), "consuming again after {away:?}");
    grid.result("b-1", State::Published).await;
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_restarted_in_mid_build_costs_no_build() {
    let mut node = BrokerNode::start().await;
    let mut grid = TestGrid::on(TestBroker::on(&node), |_| ()).await;
    grid.start_worker().await;
    grid.publish(nth_event(1, &lasting(120))).await;
    grid.publish(nth_event(2, &lasting(20))).await;
    grid.log_line("b-1", "fake line 3").await;
    grid.result("b-1", State::Started).await;
    node.kill();
    // One ends while nobody can be told, the other goes on through it all.
    until("one has ended", || grid.build_directory("b-2").join("outcome.json").exists()).await;
    node.start_again().await;
    for id in ["b-1", "b-2"] {
        let published = grid.result(id, State::Published).await;
        let ends = grid.ends(id).await;
        assert!(ends.iter().all(|end| *end == published), "{ends:#?}");
        assert!(!grid.build_directory(id).join("log.1.ndjson").exists(), "there was one attempt");
    }
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_the_broker_holds_back_results_and_nothing_else() {
    let node = BrokerNode::start().await;
    let mut grid = TestGrid::on(TestBroker::on(&node), |_| ()).await;
    grid.publish(nth_event(1, "{}")).await;
    grid.publish(nth_event(2, "{}")).await;
    node.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.0)");
    grid.start_worker().await;
    for id in ["b-1", "b-2"] {
        let outcome = grid.build_directory(id).join("outcome.json");
        until("it is built during the alarm", || outcome.exists()).await;
    }
    in_time("the worker says why results wait", async {
        while !readiness(&grid).await.1.contains("memory") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Longer than the heartbeats of a connection that nobody reads from.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(grid.ends("b-1").await.is_empty() && grid.ends("b-2").await.is_empty());
    node.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4)");
    for id in ["b-1", "b-2"] {
        grid.result(id, State::Published).await;
        assert_eq!(grid.ends(id).await.len(), 1);
    }
    until_ready(&grid).await;
    grid.finish().await;
}

/// Lets the broker take deliveries back after so many seconds without an acknowledgement.
fn impatient(node: &BrokerNode, seconds: u32) {
    node.evaluate("application:set_env(rabbit, channel_tick_interval, 1000)");
    node.evaluate(&format!("application:set_env(rabbit, consumer_timeout, {seconds}000)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_outlives_the_acknowledgement_timeout_costs_its_slot_alone() {
    let node = BrokerNode::start().await;
    impatient(&node, 4);
    let mut grid = TestGrid::on(TestBroker::on(&node), |config| config.worker.slots = 2).await;
    grid.start_worker().await;
    grid.publish(nth_event(1, &lasting(170))).await;
    grid.result("b-1", State::Started).await;
    node.evaluate("persistent_term:put(before, rabbit_networking:connections())");
    // In this time it is delivered to every slot, and taken back from it.
    for n in 2..=8 {
        grid.publish(nth_event(n, &lasting(15))).await;
        grid.result(&format!("b-{n}"), State::Published).await;
    }
    // No connection was given up with a channel, and none made anew.
    node.evaluate(
        "true = lists:sort(persistent_term:get(before)) == lists:sort(rabbit_networking:connections()), ok",
    );
    assert!(!grid.build_directory("b-1").join("outcome.json").exists(), "the long one still runs");
    let published = grid.result("b-1", State::Published).await;
    grid.rabbit.until_empty().await;
    // The first slot had its channel closed; its delivery is answered with the outcome, and no more.
    let ends = grid.ends("b-1").await;
    assert!(ends.iter().all(|end| *end == published), "{ends:#?}");
    assert_eq!(grid.results("b-1").iter().filter(|result| result.state == State::Started).count(), 1);
    assert!(!grid.build_directory("b-1").join("log.1.ndjson").exists(), "there was one attempt");
    grid.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_outlives_the_acknowledgement_timeout_is_built_by_one_of_three_workers() {
    let node = BrokerNode::start().await;
    impatient(&node, 5);
    let mut grid = TestGrid::on(TestBroker::on(&node), |_| ()).await;
    let mut timeline = TestTimeline::start(&grid.config.queue).await;
    grid.tell(&timeline, None);
    grid.start_worker().await;
    let mut homes = vec![grid.config.worker.data_dir.clone()];
    for name in ["worker-2", "worker-3"] {
        homes.push(grid.start_other_worker(name).await);
    }
    grid.publish(nth_event(1, &lasting(200))).await;
    let published = grid.result("b-1", State::Published).await;
    grid.rabbit.until_empty().await;
    let ends = grid.ends("b-1").await;
    assert!(ends.iter().all(|end| *end == published), "{ends:#?}");
    let mut built = homes.iter().map(|home| home.join("builds/b-1")).filter(|build| build.exists());
    let build = timeline.has_all_of(&built.next().unwrap()).await;
    assert!(built.next().is_none(), "another worker has built it, too");
    assert_eq!(build.attempts.len(), 1, "{build:#?}");
    grid.finish().await;
    timeline.stop().await;
}
