//! The queue against a real RabbitMQ, every test in a virtual host of its own.

use buildgrid::queue::amqp::Ack;
use tokio_util::sync::CancellationToken;

use crate::support::broker::{TestBroker, next};

#[tokio::test]
async fn an_event_goes_through_and_is_acknowledged_once() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    broker.publish_deploy(&namespace, &app, b"{}".to_vec()).await.unwrap();
    let delivery = next(&mut subscription).await;
    assert_eq!((delivery.body.as_slice(), delivery.attempt, delivery.redelivered), (&b"{}"[..], 1, false));
    let cancel = CancellationToken::new();
    broker.dead_letter(&delivery, "not an event", &cancel).await.unwrap();
    assert_eq!(delivery.ack().await, Ack::Done);
    assert_eq!(delivery.ack().await, Ack::Lost);
    broker.close().await;
}
