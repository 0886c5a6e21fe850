//! What the broker and the network do to us, and that it is survived.

use std::time::Duration;

use buildgrid::event::result::State;
use buildgrid::queue::amqp::Broker;
use buildgrid::queue::{Ack, BrokerError, QueueConfig, QueueError};
use tokio_util::sync::CancellationToken;

use super::{deploy, result};
use crate::support::address::free_address;
use crate::support::broker::{TestBroker, connect, next, status};
use crate::support::patience::in_time;
use crate::support::proxy::Mode;

#[tokio::test]
async fn a_deleted_queue_ends_the_subscription_and_the_next_one_works() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    rabbit.control(&["delete_queue", "-p", rabbit.vhost(), "buildgrid.builds"]).await;
    let ended = in_time("the end of the subscription", subscription.next()).await;
    assert!(ended.is_none());
    let mut subscription = broker.subscribe().await.unwrap();
    deploy(&broker, "after").await;
    assert_eq!(next(&mut subscription).await.body, b"after");
}

#[tokio::test]
async fn both_connections_come_back_and_the_event_is_delivered_again() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    deploy(&broker, "1").await;
    deploy(&broker, "2").await;
    let mut subscription = broker.subscribe().await.unwrap();
    let before = next(&mut subscription).await;

    rabbit.cut().await;
    let ended = in_time("the end of the subscription", subscription.next()).await;
    assert!(ended.is_none(), "a lost connection ends the subscription");
    assert_eq!(before.ack().await, Ack::Lost);

    let mut subscription = broker.subscribe().await.unwrap();
    let again = next(&mut subscription).await;
    assert_eq!((again.body.as_slice(), again.redelivered), (&b"1"[..], true));
    let second = tokio::time::timeout(Duration::from_millis(300), subscription.next()).await;
    assert!(second.is_err(), "prefetch 1 does not hold on the new connection");
    assert_eq!(again.ack().await, Ack::Done);
    assert_eq!(next(&mut subscription).await.body, b"2");
    let cancel = CancellationToken::new();
    broker.publish_result(&result("e-1", State::Started), &cancel).await.unwrap();
    status(&broker, |status| status.is_ready()).await;
}

#[tokio::test]
async fn publishing_waits_for_the_connection_or_for_the_cancel() {
    let rabbit = TestBroker::start().await;
    let (proxy, config) = rabbit.proxied().await;
    let broker = connect(&config).await;
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let listener = rabbit.connect().await;
    let mut results = listener.results([(&namespace, &app)]).await.unwrap();

    proxy.set(Mode::Cut);
    status(&broker, |status| !status.can_consume && !status.can_publish).await;
    assert!(broker.status().error.is_some());
    let impatient = CancellationToken::new();
    impatient.cancel();
    let cancelled = broker.publish_result(&result("e-0", State::Started), &impatient).await;
    assert_eq!(cancelled, Err(QueueError::Cancelled));

    let patient = CancellationToken::new();
    let event = result("e-1", State::Started);
    let publishing = broker.publish_result(&event, &patient);
    tokio::pin!(publishing);
    let waiting = tokio::time::timeout(Duration::from_millis(300), &mut publishing).await;
    assert!(waiting.is_err(), "nobody can have confirmed it");
    proxy.set(Mode::Pass);
    in_time("the broker's confirmation", publishing).await.unwrap();
    assert_eq!(in_time("the result", results.next()).await.unwrap().id.as_str(), "e-1");
}

#[tokio::test]
async fn a_silent_peer_is_noticed_by_its_missing_heartbeats() {
    let rabbit = TestBroker::start().await;
    let (proxy, config) = rabbit.proxied().await;
    let config =
        QueueConfig { heartbeat: Duration::from_secs(1), connect_timeout: Duration::from_secs(1), ..config };
    let broker = connect(&config).await;
    let mut subscription = broker.subscribe().await.unwrap();
    proxy.set(Mode::Frozen);
    let ended = in_time("the end of the subscription", subscription.next()).await;
    assert!(ended.is_none());
    status(&broker, |status| !status.can_consume && !status.can_publish).await;
    // By now connects are accepted and never answered: each is given up in its time.
    status(&broker, |status| status.error.as_ref().is_some_and(|error| error.contains("within 1s"))).await;
    proxy.set(Mode::Pass);
    let mut subscription = broker.subscribe().await.unwrap();
    deploy(&broker, "after").await;
    assert_eq!(next(&mut subscription).await.body, b"after");
}

#[tokio::test]
async fn a_broker_that_cannot_be_reached_is_named_without_the_password() {
    let free = free_address();
    let url = format!("amqp://grid:hunter2@{free}/%2f").parse().unwrap();
    let broker = Broker::connect(&QueueConfig { url, ..QueueConfig::default() }, "enqueue");
    let error = broker.ready().await.unwrap_err();
    assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&free.to_string()), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_wrong_password_or_virtual_host_is_called_that() {
    let rabbit = TestBroker::start().await;
    let user = rabbit.user(".*", ".*", ".*").await;
    let wrong = format!("{user}x");
    let broker = Broker::connect(&rabbit.config_of(&wrong), "worker-1");
    let error = broker.ready().await.unwrap_err();
    assert!(matches!(error, BrokerError::Login { .. }), "{error:?}");
    let url = rabbit.config().url.expose().replace(rabbit.vhost(), "no-such-vhost").parse().unwrap();
    let broker = Broker::connect(&QueueConfig { url, ..QueueConfig::default() }, "worker-1");
    let error = broker.ready().await.unwrap_err();
    assert!(
        matches!(&error, BrokerError::Vhost { vhost, reason, .. }
            if vhost == "no-such-vhost" && reason.contains("no-such-vhost")),
        "{error:?}"
    );
    let sentence = error.to_string();
    assert!(!sentence.contains("login") && sentence.contains("virtual host no-such-vhost"), "{sentence}");
}
