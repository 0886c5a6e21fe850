//! Headers and properties of the messages that BuildGrid writes and reads.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use time::OffsetDateTime;

use super::error::BrokerError;
use crate::queue::letter;
use crate::timeline::entry::timestamp;

/// How often the event has been tried, counting this message, from 1.
pub(super) const ATTEMPT: &str = "x-buildgrid-attempt";
/// Why the message is where it is.
pub(super) const REASON: &str = "x-buildgrid-reason";
/// The worker that put it there.
pub(super) const WORKER: &str = "x-buildgrid-worker";
/// When it did, in RFC 3339.
pub(super) const AT: &str = "x-buildgrid-at";

/// The name of the dead letter that an operator has put back into the queue: the event is to be tried
/// again, whatever became of it.
pub(super) const REQUEUE: &str = "x-buildgrid-requeue";

/// A name or routing key as AMQP writes it, at most 255 bytes long.
pub(super) fn short(text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|_| {
        BrokerError::Settings(format!("{text:.80?}… is {} bytes long; AMQP takes 255", text.len()))
    })
}

/// Headers under construction.
#[derive(Default)]
pub(super) struct Headers(FieldTable);

impl Headers {
    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.into(), AMQPValue::LongString(LongString::from(value)));
        self
    }

    pub(super) fn attempt(mut self, attempt: u32) -> Self {
        let attempt = i32::try_from(attempt).unwrap_or(i32::MAX);
        self.0.insert(ATTEMPT.into(), AMQPValue::LongInt(attempt));
        self
    }

    pub(super) fn reason(self, reason: &str) -> Self {
        self.text(REASON, &letter::bounded(reason))
    }

    pub(super) fn now(self) -> Self {
        self.text(AT, &timestamp::to_string(OffsetDateTime::now_utc()))
    }

    /// Properties of a persistent JSON message that has an id of its own.
    pub(super) fn into_properties(self) -> BasicProperties {
        let id = uuid::Uuid::now_v7().to_string();
        let seconds = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or_default();
        BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(id.into())
            .with_timestamp(seconds)
            .with_app_id("buildgrid".into())
            .with_headers(self.0)
    }
}

fn header<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(name)
}

/// A header that is text, whatever sent it.
pub(super) fn text(properties: &BasicProperties, name: &str) -> Option<String> {
    match header(properties, name)? {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}

fn integer(value: &AMQPValue) -> Option<i64> {
    match *value {
        AMQPValue::ShortShortInt(value) => Some(value.into()),
        AMQPValue::ShortShortUInt(value) => Some(value.into()),
        AMQPValue::ShortInt(value) => Some(value.into()),
        AMQPValue::ShortUInt(value) => Some(value.into()),
        AMQPValue::LongInt(value) => Some(value.into()),
        AMQPValue::LongUInt(value) => Some(value.into()),
        AMQPValue::LongLongInt(value) => Some(value),
        _ => None,
    }
}

/// The attempt that a message is; 1 where the header is absent or makes no sense.
pub(super) fn attempt(properties: &BasicProperties) -> u32 {
    let given = header(properties, ATTEMPT).and_then(integer).and_then(|value| u32::try_from(value).ok());
    given.filter(|&attempt| attempt > 0).unwrap_or(1)
}

/// How the broker itself dead-lettered a message: the newest entry of `x-death`.
pub(super) struct Death {
    reason: String,
    queue: String,
    pub at: Option<String>,
}

impl Death {
    pub(super) fn newest(properties: &BasicProperties) -> Option<Self> {
        let AMQPValue::FieldArray(deaths) = header(properties, "x-death")? else { return None };
        let AMQPValue::FieldTable(newest) = deaths.as_slice().first()? else { return None };
        let field = |name: &str| match newest.inner().get(name) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            _ => String::new(),
        };
        let at = match newest.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
            _ => None,
        };
        let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
        Some(Self { reason: field("reason"), queue: field("queue"), at: at.map(timestamp::to_string) })
    }

    pub(super) fn sentence(&self) -> String {
        match self.reason.as_str() {
            // https://www.rabbitmq.com/docs/quorum-queues#poison-message-handling
            "delivery_limit" => letter::delivery_limit(&self.queue),
            other => format!("dead-lettered by the broker from {}: {other}", self.queue),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: AMQPValue) -> BasicProperties {
        let mut table = FieldTable::default();
        table.insert(ATTEMPT.into(), value);
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn reads_any_integer_as_the_attempt_and_anything_else_as_the_first() {
        assert_eq!(attempt(&BasicProperties::default()), 1);
        assert_eq!(attempt(&with(AMQPValue::LongLongInt(3))), 3);
        assert_eq!(attempt(&with(AMQPValue::ShortShortUInt(4))), 4);
        for garbage in [
            AMQPValue::LongInt(0),
            AMQPValue::LongInt(-2),
            AMQPValue::LongLongInt(i64::MAX),
            AMQPValue::LongString("7".into()),
            AMQPValue::Void,
        ] {
            assert_eq!(attempt(&with(garbage)), 1);
        }
    }

    #[test]
    fn writes_what_it_reads() {
        let properties = Headers::default().attempt(2).reason("bad").now().into_properties();
        assert_eq!((attempt(&properties), text(&properties, REASON).as_deref()), (2, Some("bad")));
        assert!(text(&properties, AT).unwrap().ends_with('Z'));
        assert_eq!(*properties.delivery_mode(), Some(2));
    }
}
