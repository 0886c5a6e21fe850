//! A dead letter out of a message.

use lapin::BasicProperties;

use super::message::{self, AT, Death, REASON, WORKER};
use crate::queue::letter::{Fate, Letter};
use crate::store::digest::Digest;

/// Reads what a message says of itself; headers may be missing or make no sense.
pub(super) fn read(properties: &BasicProperties, body: &[u8]) -> Letter {
    let name = properties.message_id().as_ref().map(|id| id.as_str()).filter(|id| is_name(id));
    let given = message::text(properties, REASON);
    let (reason, worker, at) = match Death::newest(properties) {
        Some(death) => {
            let by_broker = death.sentence();
            let before = given.map(|given| format!("{by_broker}; before: {given}"));
            (before.unwrap_or(by_broker), None, death.at)
        }
        None => (
            given.unwrap_or_else(|| "no reason was given".to_owned()),
            message::text(properties, WORKER),
            message::text(properties, AT),
        ),
    };
    let name = name.map_or_else(|| Digest::of(body).hex()[..12].to_owned(), str::to_owned);
    Letter::new(name, body, Fate { reason, attempt: message::attempt(properties), worker, at })
}

/// Whether a message id, which any publisher may have set, can be typed on a command line.
fn is_name(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) && !id.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::{AMQPValue, FieldArray, FieldTable};

    const EVENT: &[u8] = br#"{"id": "e-1", "namespace": "acme", "app": "Not a name"}"#;

    #[test]
    fn is_named_by_its_message_or_its_body() {
        let properties =
            message::Headers::default().attempt(3).reason("bad").text(WORKER, "w").into_properties();
        let letter = read(&properties, EVENT);
        assert_eq!(letter.name, properties.message_id().as_ref().unwrap().as_str());
        assert_eq!((letter.reason.as_str(), letter.attempt, letter.worker.as_deref()), ("bad", 3, Some("w")));
        assert_eq!(letter.id.as_ref().unwrap().as_str(), "e-1");
        let strange = BasicProperties::default().with_message_id("\u{1b}[2J".into());
        let letter = read(&strange, b"\xff");
        assert_eq!(letter.name.len(), 12);
        assert_eq!(letter.reason, "no reason was given");
    }

    #[test]
    fn says_when_the_broker_gave_up() {
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
        death.insert("queue".into(), AMQPValue::LongString("buildgrid.builds".into()));
        death.insert("time".into(), AMQPValue::Timestamp(1_795_428_902));
        let mut headers = FieldTable::default();
        let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
        headers.insert("x-death".into(), AMQPValue::FieldArray(deaths));
        headers.insert(REASON.into(), AMQPValue::LongString("the engine is away".into()));
        headers.insert(WORKER.into(), AMQPValue::LongString("worker-1".into()));
        let letter = read(&BasicProperties::default().with_headers(headers), EVENT);
        assert!(letter.reason.contains("delivery limit"), "{}", letter.reason);
        assert!(letter.reason.ends_with("before: the engine is away"), "{}", letter.reason);
        assert_eq!(letter.worker, None);
        assert_eq!(letter.at.as_deref(), Some("2026-11-23T10:15:02.000Z"));
    }
}
