//! Dead letters: with reason and headers, looked at without loss, put back, thrown away.

use buildgrid::queue::{Ack, Letter, LetterError, QueueConfig, Selection};
use tokio_util::sync::CancellationToken;

use super::deploy;
use crate::support::broker::{TestBroker, connect, next};
use crate::support::patience::in_time;

const EVENT: &str = r#"{"version": 1, "id": "e-1", "namespace": "acme", "app": "shop"}"#;

#[tokio::test]
async fn a_letter_keeps_the_event_byte_for_byte_and_says_why() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for body in [EVENT, "not an event \u{0}"] {
        deploy(&broker, body).await;
        let delivery = next(&mut subscription).await;
        broker.dead_letter(&delivery, "missing field `commit`", &cancel).await.unwrap();
        assert_eq!(delivery.ack().await, Ack::Done);
    }
    for look in 0..3 {
        let found = broker.dead_letters(10).await.unwrap();
        assert_eq!((found.letters.len(), found.more), (2, 0), "look {look} took something out");
        let letter = &found.letters[0];
        assert_eq!((letter.reason.as_str(), letter.attempt), ("missing field `commit`", 1));
        assert_eq!(letter.worker.as_deref(), Some("worker-1"));
        assert_eq!(letter.id.as_ref().unwrap().as_str(), "e-1");
        assert!(letter.at.as_ref().unwrap().ends_with('Z'));
        assert_eq!((letter.bytes, &found.letters[1].id), (EVENT.len(), &None));
    }
    assert_eq!(broker.dead_letters(1).await.unwrap().more, 1, "a bounded look tells that there are more");

    let (by_event, body) = broker.dead_letter_named("e-1").await.unwrap();
    assert_eq!(body, EVENT.as_bytes());
    let (by_name, _) = broker.dead_letter_named(&by_event.name).await.unwrap();
    assert_eq!(by_name, by_event);
    let unknown = broker.dead_letter_named("e-2").await.unwrap_err();
    assert!(matches!(unknown, LetterError::Unknown(_)), "{unknown:?}");
    // Message ids of one millisecond's neighbourhood begin alike.
    let ambiguous = broker.dead_letter_named(&by_event.name[..4]).await.unwrap_err();
    assert!(matches!(ambiguous, LetterError::Ambiguous { .. }), "{ambiguous:?}");
}

#[tokio::test]
async fn letters_are_put_back_as_a_first_attempt_or_thrown_away() {
    let rabbit = TestBroker::start().await;
    let broker = rabbit.connect().await;
    let mut subscription = broker.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for id in ["e-1", "e-2", "e-3", "e-4"] {
        deploy(&broker, &EVENT.replace("e-1", id)).await;
        let delivery = next(&mut subscription).await;
        broker.dead_letter(&delivery, "a bug of ours", &cancel).await.unwrap();
        delivery.ack().await;
    }
    let mut done = Vec::new();
    let mut note = |letter: &Letter| done.push(letter.id.clone().unwrap().to_string());
    let named = Selection::Named(vec!["e-3".to_owned(), "e-1".to_owned()]);
    broker.requeue_letters(&named, &mut note).await.unwrap();
    for id in ["e-3", "e-1"] {
        let delivery = next(&mut subscription).await;
        assert_eq!((&delivery.body, delivery.attempt), (&EVENT.replace("e-1", id).into_bytes(), 1));
        delivery.ack().await;
    }
    broker.drop_letters(&Selection::Named(vec!["e-2".to_owned()]), &mut note).await.unwrap();
    broker.requeue_letters(&Selection::All, &mut note).await.unwrap();
    assert_eq!(done, ["e-3", "e-1", "e-2", "e-4"]);
    assert_eq!(broker.dead_letters(10).await.unwrap().letters, []);
}

#[tokio::test]
async fn an_event_that_ends_its_workers_is_dead_lettered_by_the_broker() {
    let rabbit = TestBroker::start().await;
    let broker = connect(&QueueConfig { delivery_limit: 2, ..rabbit.config() }).await;
    deploy(&broker, EVENT).await;
    for _ in 0..3 {
        // A worker that dies: its channel goes with the delivery in it.
        let mut subscription = broker.subscribe().await.unwrap();
        drop(next(&mut subscription).await);
    }
    let letter = in_time("the broker's dead letter", async {
        loop {
            if let Some(letter) = broker.dead_letters(10).await.unwrap().letters.pop() {
                break letter;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(letter.reason.starts_with("the delivery limit of buildgrid.builds"), "{}", letter.reason);
    assert_eq!((letter.id.unwrap().as_str(), letter.worker), ("e-1", None));
}
