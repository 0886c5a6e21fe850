//! What both queues promise of deliveries and results. Each case runs against RabbitMQ and against the
//! embedded queue; the dead letters' part of the contract is in `letters`.

use std::time::{Duration, Instant};

use buildgrid::event::result::State;
use buildgrid::queue::{Ack, Letter, QueueConfig, QueueError, Selection, Subscription};
use tokio_util::sync::CancellationToken;

use super::world::{World, contract};
use super::{deploy, result};
use crate::support::broker::next;
use crate::support::patience::in_time;

contract! {
    an_event_is_delivered_and_acknowledged_once
    a_slot_has_one_event_at_a_time_and_the_first_published_first
    an_event_outlives_its_subscription_and_a_released_one_goes_to_another_slot
    what_is_not_settled_goes_back_with_its_subscription
    an_acknowledgement_that_comes_too_late_is_lost_and_the_event_comes_again
    what_a_crash_leaves_is_delivered_again
    a_retry_and_a_deferral_come_back_after_their_delay
    later_attempts_wait_longer
    a_deferral_waits_the_shortest_time_whatever_was_tried_before
    nothing_is_kept_for_a_caller_that_was_cancelled
    results_are_heard_by_who_listens_and_lost_on_nobody_without_an_error
    a_thousand_results_of_sixteen_slots_are_all_heard
    an_event_that_ends_its_workers_is_dead_lettered_by_the_queue
    sixteen_slots_get_every_event_once
}

/// Asserts that nothing comes for a while.
async fn nothing(subscription: &mut Subscription, why: &str) {
    let came = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(came.is_err(), "{why}");
}

async fn an_event_is_delivered_and_acknowledged_once(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    deploy(&queue, "{}").await;
    let delivery = next(&mut subscription).await;
    assert_eq!((delivery.body.as_slice(), delivery.attempt, delivery.redelivered), (&b"{}"[..], 1, false));
    assert_eq!((delivery.requeue(), delivery.reason()), (None, None));
    assert!(delivery.waited().unwrap() < Duration::from_secs(60));
    assert_eq!(delivery.ack().await, Ack::Done);
    assert_eq!(delivery.ack().await, Ack::Lost, "it is ours no longer");
    drop((subscription, delivery));
    nothing(&mut queue.subscribe().await.unwrap(), "an acknowledged event came again").await;
}

async fn a_slot_has_one_event_at_a_time_and_the_first_published_first(world: World) {
    let queue = world.queue().await;
    for body in ["1", "2", "3"] {
        deploy(&queue, body).await;
    }
    let mut subscription = queue.subscribe().await.unwrap();
    let first = next(&mut subscription).await;
    nothing(&mut subscription, "a second event came before the first was acknowledged").await;
    first.ack().await;
    for body in [b"2", b"3"] {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.body, body);
        delivery.ack().await;
    }
}

async fn an_event_outlives_its_subscription_and_a_released_one_goes_to_another_slot(world: World) {
    let queue = world.queue().await;
    deploy(&queue, "1").await;
    deploy(&queue, "2").await;
    let mut subscription = queue.subscribe().await.unwrap();
    let first = next(&mut subscription).await;
    drop(subscription);
    assert_eq!(first.ack().await, Ack::Done, "a delivery can be settled without its subscription");

    let mut slot = queue.subscribe().await.unwrap();
    let second = next(&mut slot).await;
    assert_eq!(second.body, b"2");
    let mut other = queue.subscribe().await.unwrap();
    drop(slot);
    second.release().await;
    let again = next(&mut other).await;
    assert_eq!((again.body.as_slice(), again.redelivered, again.attempt), (&b"2"[..], true, 1));
    again.ack().await;
}

async fn what_is_not_settled_goes_back_with_its_subscription(world: World) {
    let queue = world.queue().await;
    let mut other = queue.subscribe().await.unwrap();
    deploy(&queue, "1").await;
    let first = next(&mut other).await;
    let mut subscription = queue.subscribe().await.unwrap();
    deploy(&queue, "2").await;
    let second = next(&mut subscription).await;
    assert_eq!(first.ack().await, Ack::Done);
    nothing(&mut other, "an event came that another slot works on").await;
    drop((subscription, second));
    let again = next(&mut other).await;
    assert_eq!((again.body.as_slice(), again.redelivered), (&b"2"[..], true));
}

async fn an_acknowledgement_that_comes_too_late_is_lost_and_the_event_comes_again(world: World) {
    let queue = world.queue().await;
    deploy(&queue, "1").await;
    let mut subscription = queue.subscribe().await.unwrap();
    let before = next(&mut subscription).await;
    world.lose(&queue).await;
    assert_eq!(before.ack().await, Ack::Lost);
    let ended = in_time("the end of the subscription", subscription.next()).await;
    assert!(ended.is_none());
    let queue = world.queue().await;
    let again = next(&mut queue.subscribe().await.unwrap()).await;
    assert_eq!((again.body.as_slice(), again.redelivered), (&b"1"[..], true));
    assert_eq!(again.ack().await, Ack::Done);
}

async fn what_a_crash_leaves_is_delivered_again(world: World) {
    let before = world.queue().await;
    for body in ["1", "2", "3"] {
        deploy(&before, body).await;
    }
    let mut subscription = before.subscribe().await.unwrap();
    let first = next(&mut subscription).await;
    first.ack().await;
    let _second = next(&mut subscription).await;
    let after = world.crash().await;
    let mut subscription = after.subscribe().await.unwrap();
    let mut found = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut subscription).await;
        found.push((String::from_utf8(delivery.body.clone()).unwrap(), delivery.redelivered));
        delivery.ack().await;
    }
    assert_eq!(found, [("2".to_owned(), true), ("3".to_owned(), false)]);
    nothing(&mut subscription, "an acknowledged event came again after the crash").await;
}

async fn a_retry_and_a_deferral_come_back_after_their_delay(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    deploy(&queue, "deferred").await;
    let delivery = next(&mut subscription).await;
    queue.dead_letter(&delivery, "to be requeued", &cancel).await.unwrap();
    delivery.ack().await;
    let mut name = String::new();
    let note = |letter: &Letter| name.clone_from(&letter.name);
    queue.requeue_letters(&Selection::All, note).await.unwrap();
    deploy(&queue, "retried").await;

    let since = Instant::now();
    for (next_attempt, reason) in [(1, "another worker builds it"), (2, "the engine is away")] {
        let delivery = next(&mut subscription).await;
        let delay = queue.publish_retry(&delivery, next_attempt, reason, &cancel).await.unwrap();
        assert_eq!(delay, Duration::from_secs(10));
        assert_eq!(delivery.ack().await, Ack::Done);
    }
    assert_eq!(world.waiting("10s").await, 2);
    for (body, attempt, requeue) in [("deferred", 1, Some(name.as_str())), ("retried", 2, None)] {
        let delivery = next(&mut subscription).await;
        assert!(since.elapsed() >= Duration::from_secs(9), "it came back after {:?}", since.elapsed());
        assert_eq!((delivery.body.as_slice(), delivery.attempt), (body.as_bytes(), attempt));
        assert_eq!(delivery.requeue(), requeue, "{body}");
        assert!(delivery.reason().is_some(), "{body}");
        delivery.ack().await;
    }
}

async fn later_attempts_wait_longer(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for (attempt, seconds) in [(3, 60), (4, 600), (1000, 600)] {
        deploy(&queue, "{}").await;
        let delivery = next(&mut subscription).await;
        let delay = queue.publish_retry(&delivery, attempt, "the engine is away", &cancel).await.unwrap();
        assert_eq!(delay, Duration::from_secs(seconds));
        delivery.ack().await;
    }
    assert_eq!(
        [world.waiting("10s").await, world.waiting("1m").await, world.waiting("10m").await],
        [0, 1, 2]
    );
    nothing(&mut subscription, "an event came back before its time").await;
}

async fn a_deferral_waits_the_shortest_time_whatever_was_tried_before(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    for attempt in [2, 5] {
        world.put(attempt).await;
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.attempt, attempt);
        let cancel = CancellationToken::new();
        let delay = queue.publish_retry(&delivery, attempt, "another build runs", &cancel).await.unwrap();
        assert_eq!(delay, Duration::from_secs(10));
        assert_eq!(delivery.ack().await, Ack::Done);
    }
    assert_eq!(world.waiting("10s").await, 2);
    for attempt in [2, 5] {
        let delivery = next(&mut subscription).await;
        assert_eq!(delivery.attempt, attempt, "nothing was counted");
        delivery.ack().await;
    }
}

async fn nothing_is_kept_for_a_caller_that_was_cancelled(world: World) {
    let queue = world.queue().await;
    deploy(&queue, "{}").await;
    let mut subscription = queue.subscribe().await.unwrap();
    let delivery = next(&mut subscription).await;
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let retried = queue.publish_retry(&delivery, 2, "", &cancelled).await;
    assert_eq!(retried, Err(QueueError::Cancelled));
    assert_eq!(queue.dead_letter(&delivery, "", &cancelled).await, Err(QueueError::Cancelled));
    delivery.release().await;
    assert_eq!(next(&mut subscription).await.attempt, 1);
}

async fn results_are_heard_by_who_listens_and_lost_on_nobody_without_an_error(world: World) {
    let queue = world.queue().await;
    let cancel = CancellationToken::new();
    queue.publish_result(&result("e-0", State::Started), &cancel).await.unwrap();
    let (namespace, shop, blog) = ("acme".parse().unwrap(), "shop".parse().unwrap(), "blog".parse().unwrap());
    let mut results = queue.results([(&namespace, &shop)]).await.unwrap();
    let mut others = queue.results([(&namespace, &blog)]).await.unwrap();
    let sent = result("e-1", State::Started);
    queue.publish_result(&sent, &cancel).await.unwrap();
    assert_eq!(in_time("the result", results.next()).await, Some(sent));
    let heard = tokio::time::timeout(Duration::from_millis(300), others.next()).await;
    assert!(heard.is_err(), "a result came to who listens to another app");
}

async fn a_thousand_results_of_sixteen_slots_are_all_heard(world: World) {
    let queue = world.queue().await;
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let mut results = queue.results([(&namespace, &app)]).await.unwrap();
    let slots = (0..16).map(|slot| {
        let queue = queue.clone();
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            for number in 0..64 {
                let event = result(&format!("e-{slot}-{number}"), State::Started);
                queue.publish_result(&event, &cancel).await.unwrap();
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

async fn an_event_that_ends_its_workers_is_dead_lettered_by_the_queue(mut world: World) {
    world.config = QueueConfig { delivery_limit: 2, ..world.config };
    let queue = world.queue().await;
    deploy(&queue, r#"{"id": "e-1"}"#).await;
    for _ in 0..3 {
        // A worker that dies: its subscription goes with the delivery in it.
        let mut subscription = queue.subscribe().await.unwrap();
        drop(next(&mut subscription).await);
    }
    let letter = in_time("the queue's dead letter", async {
        loop {
            if let Some(letter) = queue.dead_letters(10).await.unwrap().letters.pop() {
                break letter;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(letter.reason.starts_with("the delivery limit of "), "{}", letter.reason);
    assert!(letter.reason.ends_with("every worker that took it ended before the build did"));
    assert_eq!((letter.id.unwrap().as_str(), letter.worker), ("e-1", None));
}

async fn sixteen_slots_get_every_event_once(world: World) {
    const EVENTS: usize = 100;
    let queue = world.queue().await;
    let (sender, mut done) = tokio::sync::mpsc::channel(EVENTS * 2);
    let mut slots = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let mut subscription = queue.subscribe().await.unwrap();
        let sender = sender.clone();
        slots.spawn(async move {
            while let Some(delivery) = subscription.next().await {
                assert_eq!(delivery.ack().await, Ack::Done);
                sender.send(delivery.body).await.unwrap();
            }
        });
    }
    for number in 0..EVENTS {
        deploy(&queue, &number.to_string()).await;
    }
    let mut got = Vec::new();
    while got.len() < EVENTS {
        got.push(in_time("every event", done.recv()).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(done.try_recv().is_err(), "an event came twice");
    got.sort();
    got.dedup();
    assert_eq!(got.len(), EVENTS);
    slots.shutdown().await;
}
