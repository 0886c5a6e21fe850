//! What both queues promise of dead letters: with reason and headers, looked at without loss, put back,
//! thrown away.

use buildgrid::queue::{Ack, Letter, LetterError, Selection};
use tokio_util::sync::CancellationToken;

use super::deploy;
use super::world::{World, contract};
use crate::support::broker::next;

contract! {
    a_letter_keeps_the_event_byte_for_byte_and_says_why
    letters_are_put_back_as_a_first_attempt_or_thrown_away
    a_name_that_is_unknown_settles_nothing
}

const EVENT: &str = r#"{"version": 1, "id": "e-1", "namespace": "acme", "app": "shop"}"#;

async fn a_letter_keeps_the_event_byte_for_byte_and_says_why(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for body in [EVENT, "not an event \u{0}"] {
        deploy(&queue, body).await;
        let delivery = next(&mut subscription).await;
        queue.dead_letter(&delivery, "missing field `commit`", &cancel).await.unwrap();
        assert_eq!(delivery.ack().await, Ack::Done);
    }
    for look in 0..3 {
        let found = queue.dead_letters(10).await.unwrap();
        assert_eq!((found.letters.len(), found.more), (2, 0), "look {look} took something out");
        let letter = &found.letters[0];
        assert_eq!((letter.reason.as_str(), letter.attempt), ("missing field `commit`", 1));
        assert_eq!(letter.worker.as_deref(), Some("worker-1"));
        assert_eq!(letter.id.as_ref().unwrap().as_str(), "e-1");
        assert!(letter.at.as_ref().unwrap().ends_with('Z'));
        assert_eq!((letter.bytes, &found.letters[1].id), (EVENT.len(), &None));
    }
    assert_eq!(queue.dead_letters(1).await.unwrap().more, 1, "a bounded look tells that there are more");

    let (by_event, body) = queue.dead_letter_named("e-1").await.unwrap();
    assert_eq!(body, EVENT.as_bytes());
    let (by_name, _) = queue.dead_letter_named(&by_event.name).await.unwrap();
    assert_eq!(by_name, by_event);
    let unknown = queue.dead_letter_named("e-2").await.unwrap_err();
    assert!(matches!(unknown, LetterError::Unknown(_)), "{unknown:?}");
    // Message ids of one millisecond's neighbourhood begin alike.
    let ambiguous = queue.dead_letter_named(&by_event.name[..4]).await.unwrap_err();
    assert!(matches!(ambiguous, LetterError::Ambiguous { .. }), "{ambiguous:?}");
}

async fn letters_are_put_back_as_a_first_attempt_or_thrown_away(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    let cancel = CancellationToken::new();
    for id in ["e-1", "e-2", "e-3", "e-4"] {
        deploy(&queue, &EVENT.replace("e-1", id)).await;
        let delivery = next(&mut subscription).await;
        queue.dead_letter(&delivery, "a bug of ours", &cancel).await.unwrap();
        delivery.ack().await;
    }
    let (mut done, mut names) = (Vec::new(), Vec::new());
    let mut note = |letter: &Letter| {
        done.push(letter.id.clone().unwrap().to_string());
        names.push(letter.name.clone());
    };
    let named = Selection::Named(vec!["e-3".to_owned(), "e-1".to_owned()]);
    queue.requeue_letters(&named, &mut note).await.unwrap();
    let mut requeued = Vec::new();
    for id in ["e-3", "e-1"] {
        let delivery = next(&mut subscription).await;
        assert_eq!((&delivery.body, delivery.attempt), (&EVENT.replace("e-1", id).into_bytes(), 1));
        requeued.push(delivery.requeue().unwrap().to_owned());
        delivery.ack().await;
    }
    queue.drop_letters(&Selection::Named(vec!["e-2".to_owned()]), &mut note).await.unwrap();
    queue.requeue_letters(&Selection::All, &mut note).await.unwrap();
    assert_eq!(done, ["e-3", "e-1", "e-2", "e-4"]);
    assert_eq!(requeued, names[..2], "a delivery names the letter that it comes from");
    assert_eq!(queue.dead_letters(10).await.unwrap().letters, []);
}

async fn a_name_that_is_unknown_settles_nothing(world: World) {
    let queue = world.queue().await;
    let mut subscription = queue.subscribe().await.unwrap();
    deploy(&queue, EVENT).await;
    let delivery = next(&mut subscription).await;
    queue.dead_letter(&delivery, "a bug of ours", &CancellationToken::new()).await.unwrap();
    delivery.ack().await;
    let one_wrong = Selection::Named(vec!["e-1".to_owned(), "e-9".to_owned()]);
    for settled in [
        queue.requeue_letters(&one_wrong, |_| panic!("it was requeued")).await,
        queue.drop_letters(&one_wrong, |_| panic!("it was dropped")).await,
    ] {
        assert!(matches!(&settled, Err(LetterError::Unknown(name)) if name == "e-9"), "{settled:?}");
    }
    // What a look took is given back when its channel is gone, at the latest.
    let (letter, _) = queue.dead_letter_named("e-1").await.unwrap();
    assert_eq!(letter.reason, "a bug of ours");
}
