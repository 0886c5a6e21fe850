//! What a worker says of its attempts, and what it is answered.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::words::AttemptState;
use crate::event::result::ResultEvent;
use crate::store::digest::Digest;
use crate::timeline::entry::timestamp;

/// One worker's try at a build: a UUID of version 7, made by the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11")]
pub struct AttemptId(Uuid);

impl AttemptId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// When its worker made it, by the worker's clock.
    pub fn made_at(self) -> Option<OffsetDateTime> {
        let (seconds, _) = self.0.get_timestamp()?.to_unix();
        OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).ok()?).ok()
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for AttemptId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// `PUT /builds/{id}`: may this worker build it now?
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// The deploy event's text, byte for byte: the same id with another text is a conflict.
    pub event: String,
    /// The worker's name.
    pub worker: String,
    pub attempt: AttemptId,
    /// Counts the attempts at this event, from 1.
    pub number: u32,
    /// Names the dead letter that an operator has put back: an outcome that was not the build's fault is
    /// set aside, once for each letter.
    #[serde(default)]
    pub requeue: Option<String>,
    /// An earlier attempt of this worker, whose process has ended: its lease is over.
    #[serde(default)]
    pub replaces: Option<AttemptId>,
    /// The attempt has begun (and perhaps ended) without an answer, since the service could not be
    /// reached. It is taken down beside any other, and never told to wait.
    #[serde(default)]
    pub late: bool,
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "answer", rename_all = "lowercase")]
pub enum ClaimAnswer {
    /// Build it. The log goes on at `next_seq`.
    Go { next_seq: u64 },
    /// Not now: somebody else builds it, or it is not its turn. Defer the delivery; no attempt is counted.
    Wait { reason: String },
    /// It has ended; this was its result.
    Done {
        #[schema(value_type = Object)]
        result: Box<ResultEvent>,
    },
    /// It is not to be built any more; for this reason, unless somebody asked for its end.
    Cancelled {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The id belongs to another event, which is left alone.
    Conflict,
}

impl ClaimAnswer {
    /// The answer by its name, for the metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Go { .. } => "go",
            Self::Wait { .. } => "wait",
            Self::Done { .. } => "done",
            Self::Cancelled { .. } => "cancelled",
            Self::Conflict => "conflict",
        }
    }
}

/// `POST /builds/{id}/attempts/{attempt}/state`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StateReport {
    pub state: AttemptState,
    /// When it was entered.
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// What the commit says of itself; from the end of the fetch on.
    #[serde(default)]
    pub commit: Option<CommitInfo>,
    /// With an end: the result event. Absent for `released`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Box<ResultEvent>>,
    /// With an end: the whole log, which the service must have as well.
    #[serde(default)]
    pub log: Option<LogSum>,
}

/// What a commit says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CommitInfo {
    pub subject: String,
    pub author: String,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
}

/// A log as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogSum {
    /// How many entries it has.
    pub count: u64,
    /// The SHA-256 of its lines, each with its line feed, as they were sent.
    #[schema(value_type = String, example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    pub checksum: Digest,
}

/// The answer to a report or an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// The seq of the entry to send next: all before it are stored, durably.
    pub next_seq: u64,
    /// The build is to be ended.
    pub cancel: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_by_their_tag() {
        assert_eq!(
            serde_json::to_string(&ClaimAnswer::Go { next_seq: 0 }).unwrap(),
            r#"{"answer":"go","next_seq":0}"#
        );
        let cancelled = ClaimAnswer::Cancelled { reason: None };
        assert_eq!(serde_json::to_string(&cancelled).unwrap(), r#"{"answer":"cancelled"}"#);
        assert_eq!(serde_json::from_str::<ClaimAnswer>(r#"{"answer":"cancelled"}"#).unwrap(), cancelled);
        let wait: ClaimAnswer = serde_json::from_str(r#"{"answer":"wait","reason":"x"}"#).unwrap();
        assert_eq!(wait, ClaimAnswer::Wait { reason: "x".to_owned() });
    }
}
