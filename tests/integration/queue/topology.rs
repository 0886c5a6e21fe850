//! Exchanges and queues: made, made again, checked, refused.

use buildgrid::queue::amqp::{Broker, BrokerError, DeclareError};
use buildgrid::queue::{Declare, QueueConfig};

use crate::support::broker::TestBroker;

#[tokio::test]
async fn is_declared_and_declared_again() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    broker.declare().await.unwrap();
    let queues = rabbit.control(&["list_queues", "-p", rabbit.vhost(), "name", "type", "durable"]).await;
    let mut queues: Vec<&str> = queues.lines().filter(|line| line.starts_with("buildgrid.")).collect();
    queues.sort_unstable();
    assert_eq!(
        queues,
        [
            "buildgrid.builds\tquorum\ttrue",
            "buildgrid.builds.retry.10m\tquorum\ttrue",
            "buildgrid.builds.retry.10s\tquorum\ttrue",
            "buildgrid.builds.retry.1m\tquorum\ttrue",
            "buildgrid.dead\tquorum\ttrue",
        ]
    );
    let passive = QueueConfig { declare: Declare::Passive, ..rabbit.config() };
    Broker::connect(&passive, "worker-2").declare().await.unwrap();
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_the_argument() {
    let rabbit = TestBroker::start().await;
    rabbit.connect().await;
    // Under this name the queue of dead letters exists, which has no dead-letter exchange.
    let other = QueueConfig {
        builds: "buildgrid.dead".to_owned(),
        dead: "buildgrid.other".to_owned(),
        ..rabbit.config()
    };
    let error = Broker::connect(&other, "worker-2").declare().await.unwrap_err();
    assert!(error.is_permanent());
    let DeclareError::Arguments { object, argument, .. } = &error else { panic!("{error:?}") };
    assert_eq!(
        (object.as_str(), argument.as_str()),
        ("queue buildgrid.dead", "argument \"x-dead-letter-exchange\"")
    );
    assert!(error.to_string().contains("queue buildgrid.dead exists with another argument"), "{error}");
}

#[tokio::test]
async fn an_exchange_of_another_kind_is_named() {
    let rabbit = TestBroker::start().await;
    rabbit.connect().await;
    let other =
        QueueConfig { deploys: "buildgrid.dead".to_owned(), dead: "other".to_owned(), ..rabbit.config() };
    let error = Broker::connect(&other, "worker-2").declare().await.unwrap_err();
    let DeclareError::Arguments { object, argument, .. } = &error else { panic!("{error:?}") };
    assert_eq!((object.as_str(), argument.as_str()), ("exchange buildgrid.dead", "argument \"type\""));
}

#[tokio::test]
async fn what_is_missing_is_named_when_only_looking() {
    let rabbit = TestBroker::start().await;
    let passive = QueueConfig { declare: Declare::Passive, ..rabbit.config() };
    let broker = Broker::connect(&passive, "worker-1");
    let error = broker.declare().await.unwrap_err();
    assert_eq!(error, DeclareError::Missing { object: "exchange maestro.deploys".to_owned() });
    let refused = broker.subscribe().await.err().unwrap();
    assert!(matches!(refused, BrokerError::Topology(_)), "{refused:?}");
}

#[tokio::test]
async fn a_user_without_the_right_is_told_so() {
    let rabbit = TestBroker::start().await;
    let user = rabbit.user("^$", ".*", ".*").await;
    let broker = Broker::connect(&rabbit.config_of(&user), "worker-1");
    let error = broker.declare().await.unwrap_err();
    let DeclareError::Access { object, .. } = &error else { panic!("{error:?}") };
    assert_eq!(object, "exchange maestro.deploys");
}

#[tokio::test]
async fn an_event_that_no_worker_waits_for_is_an_error() {
    let rabbit = TestBroker::start().await;
    let broker = Broker::connect(&rabbit.config(), "enqueue");
    let (namespace, app) = ("acme".parse().unwrap(), "shop".parse().unwrap());
    let error = broker.publish_deploy(&namespace, &app, b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(error, BrokerError::Missing(_)), "no exchange: {error:?}");
    broker.declare().await.unwrap();
    rabbit.control(&["delete_queue", "-p", rabbit.vhost(), "buildgrid.builds"]).await;
    let error = broker.publish_deploy(&namespace, &app, b"{}".to_vec()).await.unwrap_err();
    assert!(matches!(error, BrokerError::Unroutable { .. }), "no queue: {error:?}");
}
