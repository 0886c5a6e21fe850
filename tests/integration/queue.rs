//! The queue against a real RabbitMQ, every test in a virtual host of its own.

mod commands;
mod faults;
mod letters;
mod topology;

use std::time::Duration;

use buildgrid::event::deploy::Identity;
use buildgrid::event::result::{ResultEvent, State};
use buildgrid::queue::{Ack, Queue};
use tokio_util::sync::CancellationToken;

use crate::support::broker::{TestBroker, next};
use crate::support::patience::in_time;

/// Publishes a deploy event of acme/shop.
async fn deploy(broker: &Queue, body: &str) {
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    broker.publish_deploy(&namespace, &app, body.as_bytes().to_vec()).await.unwrap();
}

fn result(id: &str, state: State) -> ResultEvent {
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let identity = Identity { id: id.parse().unwrap(), namespace, app };
    ResultEvent { state, finished_at: None, ..ResultEvent::rejected(identity, 1, "", "worker-1") }
}

#[tokio::test]
async fn an_event_is_delivered_and_acknowledged_once() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    deploy(&broker, "{}").await;
    let delivery = next(&mut subscription).await;
    assert_eq!((delivery.body.as_slice(), delivery.attempt, delivery.redelivered), (&b"{}"[..], 1, false));
    assert_eq!(delivery.ack().await, Ack::Done);
    assert_eq!(delivery.ack().await, Ack::Lost, "it is ours no longer");
    broker.close().await;
    rabbit.assert_drained().await;
}

#[tokio::test]
async fn a_slot_has_one_event_at_a_time() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    for body in ["1", "2", "3"] {
        deploy(&broker, body).await;
    }
    let mut subscription = broker.subscribe().await.unwrap();
    let first = next(&mut subscription).await;
    let second = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(second.is_err(), "a second event came before the first was acknowledged");
    first.ack().await;
    assert_eq!(next(&mut subscription).await.body, b"2");
}

#[tokio::test]
async fn an_event_outlives_its_subscription_and_a_released_one_goes_to_another_slot() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    deploy(&broker, "1").await;
    deploy(&broker, "2").await;
    let mut subscription = broker.subscribe().await.unwrap();
    let first = next(&mut subscription).await;
    drop(subscription);
    assert_eq!(first.ack().await, Ack::Done, "the channel lives as long as the delivery");

    let mut slot = broker.subscribe().await.unwrap();
    let second = next(&mut slot).await;
    assert_eq!(second.body, b"2");
    let mut other = broker.subscribe().await.unwrap();
    drop(slot);
    second.release().await;
    let again = next(&mut other).await;
    assert_eq!((again.body.as_slice(), again.redelivered, again.attempt), (&b"2"[..], true, 1));
    again.ack().await;
}

#[tokio::test]
async fn a_retry_comes_back_after_its_delay_with_its_attempt() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    deploy(&broker, "again").await;
    let delivery = next(&mut subscription).await;
    let since = std::time::Instant::now();
    let cancel = CancellationToken::new();
    let delay = broker.publish_retry(&delivery, 2, "the engine is away", &cancel).await.unwrap();
    assert_eq!(delay, Duration::from_secs(10));
    assert_eq!(delivery.ack().await, Ack::Done);
    let retried = next(&mut subscription).await;
    assert!(since.elapsed() >= Duration::from_secs(9), "it came back after {:?}", since.elapsed());
    assert_eq!((retried.body.as_slice(), retried.attempt), (&b"again"[..], 2));
    retried.ack().await;
}

#[tokio::test]
async fn results_are_heard_by_who_listens_and_lost_on_nobody_without_an_error() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let cancel = CancellationToken::new();
    broker.publish_result(&result("e-0", State::Started), &cancel).await.unwrap();
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let mut results = broker.results([(&namespace, &app)]).await.unwrap();
    let sent = result("e-1", State::Started);
    broker.publish_result(&sent, &cancel).await.unwrap();
    assert_eq!(in_time("the result", results.next()).await, Some(sent));
}

#[tokio::test]
async fn a_thousand_results_of_sixteen_slots_are_all_confirmed() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let mut results = broker.results([(&namespace, &app)]).await.unwrap();
    let slots = (0..16).map(|slot| {
        let broker = broker.clone();
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            for number in 0..64 {
                let event = result(&format!("e-{slot}-{number}"), State::Started);
                broker.publish_result(&event, &cancel).await.unwrap();
            }
        })
    });
    for slot in slots.collect::<Vec<_>>() {
        slot.await.unwrap();
    }
    let mut ids = std::collections::HashSet::new();
    while ids.len() < 16 * 64 {
        ids.insert(in_time("every result", results.next()).await.unwrap().id);
    }
}
