//! One dead letter: what a listing shows of it and the names it answers to.

use lapin::BasicProperties;
use serde::Serialize;
use serde_json::Value;

use super::error::BrokerError;
use super::message::{self, AT, Death, REASON, WORKER};
use crate::event::deploy::BuildId;
use crate::publish::name::{AppName, Namespace};
use crate::store::digest::Digest;

/// The shortest beginning of a name that stands for it, in characters.
const MIN_PREFIX: usize = 4;

/// An event that could not be handled, without its body.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    /// The message's id, or the beginning of its body's SHA-256 where it has none.
    pub name: String,
    /// The event's id, namespace and app, where they can be read and are valid.
    pub id: Option<BuildId>,
    pub namespace: Option<Namespace>,
    pub app: Option<AppName>,
    pub reason: String,
    pub attempt: u32,
    /// The worker that gave it up; none where the broker did.
    pub worker: Option<String>,
    /// When it was given up, in RFC 3339.
    pub at: Option<String>,
    /// The length of the event, in bytes.
    pub bytes: usize,
}

/// The oldest letters.
#[derive(Debug, Clone, PartialEq)]
pub struct Letters {
    pub letters: Vec<Letter>,
    /// How many more there are, where the listing was bounded.
    pub more: u32,
}

/// Which letters a command is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Each by its name, the beginning of its name (4 characters or more), or its event's id.
    Named(Vec<String>),
    All,
}

#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    #[error("no dead letter is called {0:?}; `buildgrid dead-letters list` shows what there is")]
    Unknown(String),
    #[error("{given:?} stands for {} dead letters: {}; name one", letters.len(), letters.join(", "))]
    Ambiguous { given: String, letters: Vec<String> },
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Letter {
    pub(super) fn read(properties: &BasicProperties, body: &[u8]) -> Self {
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |key: &str| event.get(key).and_then(Value::as_str);
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
        Self {
            name: name.map_or_else(|| Digest::of(body).hex()[..12].to_owned(), str::to_owned),
            id: field("id").and_then(|id| id.parse().ok()),
            namespace: field("namespace").and_then(|name| name.parse().ok()),
            app: field("app").and_then(|name| name.parse().ok()),
            reason,
            attempt: message::attempt(properties),
            worker,
            at,
            bytes: body.len(),
        }
    }

    pub(super) fn answers_to(&self, given: &str) -> bool {
        let prefix = given.len() >= MIN_PREFIX && self.name.starts_with(given);
        prefix || self.name == given || self.id.as_ref().is_some_and(|id| id.as_str() == given)
    }
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
        let letter = Letter::read(&properties, EVENT);
        assert_eq!(letter.name, properties.message_id().as_ref().unwrap().as_str());
        assert_eq!((letter.reason.as_str(), letter.attempt, letter.worker.as_deref()), ("bad", 3, Some("w")));
        assert_eq!(letter.id.as_ref().unwrap().as_str(), "e-1");
        assert_eq!(letter.app, None);
        assert!(letter.answers_to("e-1") && letter.answers_to(&letter.name[..4]));
        assert!(!letter.answers_to(&letter.name[..3]) && !letter.answers_to(""));
        let strange = BasicProperties::default().with_message_id("\u{1b}[2J".into());
        let letter = Letter::read(&strange, b"\xff");
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
        let letter = Letter::read(&BasicProperties::default().with_headers(headers), EVENT);
        assert!(letter.reason.contains("delivery limit"), "{}", letter.reason);
        assert!(letter.reason.ends_with("before: the engine is away"), "{}", letter.reason);
        assert_eq!(letter.worker, None);
        assert_eq!(letter.at.as_deref(), Some("2026-11-23T10:15:02.000Z"));
    }
}
