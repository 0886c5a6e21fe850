//! One dead letter: what a listing shows of it and the names it answers to.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use super::amqp::BrokerError;
use super::error::QueueError;
use crate::event::deploy::BuildId;
use crate::publish::name::{AppName, Namespace};

/// The shortest beginning of a name that stands for it, in characters.
const MIN_PREFIX: usize = 4;
/// The longest reason that is kept, in bytes: over AMQP headers must fit into one frame, 128 KiB by
/// RabbitMQ's default, and a reason is read in a listing. The log has the rest.
const MAX_REASON: usize = 2048;

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
    /// The worker that gave it up; none where the queue did.
    pub worker: Option<String>,
    /// When it was given up, in RFC 3339.
    pub at: Option<String>,
    /// The length of the event, in bytes.
    pub bytes: usize,
}

/// How an event became a dead letter.
pub(super) struct Fate {
    pub reason: String,
    pub attempt: u32,
    pub worker: Option<String>,
    pub at: Option<String>,
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
    Queue(#[from] QueueError),
}

impl From<BrokerError> for LetterError {
    fn from(error: BrokerError) -> Self {
        Self::Queue(error.into())
    }
}

impl Letter {
    pub(super) fn new(name: String, body: &[u8], fate: Fate) -> Self {
        let event: Value = serde_json::from_slice(body).unwrap_or_default();
        let field = |key: &str| event.get(key).and_then(Value::as_str);
        Self {
            name,
            id: field("id").and_then(|id| id.parse().ok()),
            namespace: field("namespace").and_then(|name| name.parse().ok()),
            app: field("app").and_then(|name| name.parse().ok()),
            reason: fate.reason,
            attempt: fate.attempt,
            worker: fate.worker,
            at: fate.at,
            bytes: body.len(),
        }
    }

    pub(super) fn answers_to(&self, given: &str) -> bool {
        let prefix = given.len() >= MIN_PREFIX && self.name.starts_with(given);
        prefix || self.name == given || self.id.as_ref().is_some_and(|id| id.as_str() == given)
    }
}

/// The one that `given` stands for, out of all that answer to it.
pub(super) fn the_one<T>(
    given: &str,
    mut found: Vec<T>,
    letter: impl Fn(&T) -> &Letter,
) -> Result<T, LetterError> {
    // A full name is no prefix of another letter's.
    if let Some(exact) = found.iter().position(|candidate| letter(candidate).name == given) {
        return Ok(found.swap_remove(exact));
    }
    match found.len() {
        0 => Err(LetterError::Unknown(given.to_owned())),
        1 => Ok(found.swap_remove(0)),
        _ => Err(LetterError::Ambiguous {
            given: given.to_owned(),
            letters: found.iter().map(|candidate| letter(candidate).name.clone()).collect(),
        }),
    }
}

/// A reason in the length that is kept.
pub(super) fn bounded(reason: &str) -> Cow<'_, str> {
    let cut = reason.floor_char_boundary(MAX_REASON);
    match cut == reason.len() {
        true => Cow::Borrowed(reason),
        false => Cow::Owned(format!("{}…", &reason[..cut])),
    }
}

/// Why `queue` itself gave an event up that was delivered too often.
pub(super) fn delivery_limit(queue: &str) -> String {
    format!("the delivery limit of {queue}: every worker that took it ended before the build did")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(name: &str) -> Letter {
        let fate = Fate { reason: "bad".to_owned(), attempt: 1, worker: None, at: None };
        Letter::new(name.to_owned(), br#"{"id": "e-1", "namespace": "acme", "app": "Not a name"}"#, fate)
    }

    #[test]
    fn answers_to_its_name_its_beginning_and_its_event() {
        let letter = letter("0193b2d6");
        assert_eq!((letter.id.as_ref().map(|id| id.as_str()), &letter.app), (Some("e-1"), &None));
        assert!(letter.answers_to("e-1") && letter.answers_to("0193") && letter.answers_to("0193b2d6"));
        assert!(!letter.answers_to("019") && !letter.answers_to(""));
    }

    #[test]
    fn a_full_name_is_no_beginning_of_another() {
        let pick = |given| the_one(given, vec![letter("0193b2d6"), letter("0193b2d6ff")], |letter| letter);
        assert_eq!(pick("0193b2d6").unwrap().name, "0193b2d6");
        assert!(matches!(pick("0193"), Err(LetterError::Ambiguous { letters, .. }) if letters.len() == 2));
        assert!(matches!(the_one("x", Vec::new(), |letter: &Letter| letter), Err(LetterError::Unknown(_))));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(bounded("short"), "short");
        let cut = bounded(&"é".repeat(MAX_REASON)).into_owned();
        assert!(cut.len() <= MAX_REASON + '…'.len_utf8() && cut.ends_with('…'));
    }
}
