//! What workers, commands and the timeline service say to each other: the bodies of `/api/v1`.
//!
//! A worker claims a build with an attempt of its own, reports the stages and sends the log under that
//! attempt, and ends it with the outcome and the log's length and checksum. Every answer may carry a
//! cancel; every call renews the lease.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::entry::{optional_timestamp, timestamp};
use crate::event::deploy::BuildId;
use crate::event::result::{Kind, ResultEvent};
use crate::publish::name::{AppName, Namespace, RepositoryName};
use crate::source::commit::CommitId;
use crate::store::digest::Digest;

/// How long a claim holds without a word from its worker.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a worker says something, if only that it is there.
pub const RENEW: Duration = Duration::from_secs(5);
/// The most that one append may hold, in bytes without compression.
pub const MAX_APPEND: usize = 4 << 20;
/// The longest line of an append, in bytes: a text of 64 KiB whose every byte is escaped, and what is around it.
pub const MAX_LINE: usize = 512 << 10;
/// The media type of log entries, one JSON object a line.
pub const NDJSON: &str = "application/x-ndjson";

/// An enumeration whose variants are words, on the wire and in the database.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// All words, for a sentence.
            pub fn list() -> String {
                [$($word),*].join(", ")
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ();

            fn from_str(text: &str) -> Result<Self, ()> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or(())
            }
        }
    };
}

/// One worker's try at a build: a UUID of version 7, made by the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "0193b2d6-6c1e-7d0a-9d2c-0b5f4f6f2c11")]
pub struct AttemptId(Uuid);

impl AttemptId {
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
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
    /// Not now: somebody else builds it. Defer the delivery; no attempt is counted.
    Wait { reason: String },
    /// It has ended; this was its result.
    Done {
        #[schema(value_type = Object)]
        result: Box<ResultEvent>,
    },
    /// It is not to be built any more.
    Cancelled,
    /// The id belongs to another event, which is left alone.
    Conflict,
}

words! {
    /// Where an attempt stands. In this order, never back.
    AttemptState {
        /// Claimed; no stage has begun.
        Claimed => "claimed",
        Fetching => "fetching",
        Building => "building",
        Publishing => "publishing",
        /// Not the build's fault; another attempt follows.
        Retrying => "retrying",
        /// Given back to the queue by a worker that was told to stop.
        Released => "released",
        Published => "published",
        Failed => "failed",
        Rejected => "rejected",
        Cancelled => "cancelled",
    }
}

impl AttemptState {
    /// How far it is: only forward. All ends are as far as each other.
    pub fn rank(self) -> u8 {
        match self {
            Self::Claimed => 0,
            Self::Fetching => 1,
            Self::Building => 2,
            Self::Publishing => 3,
            _ => 4,
        }
    }

    /// Whether the attempt has ended.
    pub fn is_end(self) -> bool {
        self.rank() == 4
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

words! {
    /// How a build stands, as it is shown.
    BuildState {
        /// Accepted; no worker has it.
        Queued => "queued",
        /// With a worker; no stage has begun.
        Claimed => "claimed",
        Fetching => "fetching",
        Building => "building",
        Publishing => "publishing",
        /// Nothing was heard of its worker for longer than its lease.
        Interrupted => "interrupted",
        /// Not the build's fault; another attempt follows.
        Retrying => "retrying",
        Published => "published",
        Failed => "failed",
        Rejected => "rejected",
        Cancelled => "cancelled",
    }
}

impl BuildState {
    /// Whether nothing more comes of it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Published | Self::Failed | Self::Rejected | Self::Cancelled)
    }

    /// Whether a worker is at it, as far as is known.
    pub fn is_running(self) -> bool {
        matches!(self, Self::Claimed | Self::Fetching | Self::Building | Self::Publishing)
    }
}

/// A build as the service shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Build {
    #[schema(value_type = String)]
    pub id: BuildId,
    #[schema(value_type = String)]
    pub namespace: Namespace,
    #[schema(value_type = String)]
    pub app: AppName,
    pub services: Vec<String>,
    /// The repository's name, as it stands in the image's.
    #[schema(value_type = String)]
    pub repository: RepositoryName,
    #[schema(value_type = String)]
    pub commit: CommitId,
    #[serde(rename = "ref")]
    pub git_ref: Option<String>,
    pub deploy_id: Option<String>,
    pub requested_by: Option<String>,
    pub fake: bool,
    pub state: BuildState,
    #[schema(value_type = Option<String>)]
    pub kind: Option<Kind>,
    /// The image was there already.
    pub reused: bool,
    /// What `docker pull` takes, once published.
    pub image: Option<String>,
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    /// The bytes that a pull of the image moves.
    pub size: Option<u64>,
    /// Why it is not published, as one sentence.
    pub reason: Option<String>,
    /// The step that failed.
    pub step: Option<String>,
    /// That step's last lines.
    pub excerpt: Vec<String>,
    /// What the commit says of itself, once it was fetched.
    pub commit_info: Option<CommitInfo>,
    /// The attempt that counts; none while it is queued.
    pub attempt: Option<AttemptId>,
    /// That attempt's number.
    pub number: Option<u32>,
    /// That attempt's worker.
    pub worker: Option<String>,
    /// When that worker was last heard of.
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub heard_at: Option<OffsetDateTime>,
    /// When somebody asked for its end, if it has not ended otherwise.
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub cancel_requested_at: Option<OffsetDateTime>,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<OffsetDateTime>,
    /// The page of the build.
    pub url: String,
}

/// One attempt at a build.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Attempt {
    pub id: AttemptId,
    pub number: u32,
    pub worker: String,
    pub state: AttemptState,
    /// Another attempt has taken its place; its log stays.
    pub fenced: bool,
    /// When each stage began, in their order.
    pub stages: Vec<StageTime>,
    /// Entries of its log that are stored.
    pub entries: u64,
    /// Whether the log is whole: count and checksum were confirmed.
    pub complete: bool,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub claimed_at: OffsetDateTime,
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<OffsetDateTime>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StageTime {
    pub state: AttemptState,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
}

/// `GET /builds/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildDetail {
    #[serde(flatten)]
    pub build: Build,
    /// Oldest first.
    pub attempts: Vec<Attempt>,
    /// What a build of this app usually takes, in seconds: the median of its last published ones.
    pub usual_s: Option<f64>,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The cursor of the next page; none on the last.
    pub next: Option<String>,
}

/// An app, as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct App {
    #[schema(value_type = String)]
    pub namespace: Namespace,
    #[schema(value_type = String)]
    pub app: AppName,
    /// The services of its last build.
    pub services: Vec<String>,
    pub last: Build,
    /// The newest build with an image.
    pub current: Option<Build>,
    /// What a build usually takes, in seconds.
    pub usual_s: Option<f64>,
}

/// `GET /services/{namespace}/{app}/{service}`: what a script asks for the image to deploy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    #[schema(value_type = String)]
    pub namespace: Namespace,
    #[schema(value_type = String)]
    pub app: AppName,
    pub service: String,
    /// The newest published image: what `docker pull` takes.
    pub image: Option<String>,
    #[schema(value_type = Option<String>)]
    pub digest: Option<Digest>,
    pub size: Option<u64>,
    #[serde(with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub published_at: Option<OffsetDateTime>,
    /// The build that made it.
    pub build: Option<Build>,
}

words! {
    /// How a deploy stands, in Maestro's words.
    DeployState {
        Waiting => "waiting",
        Running => "running",
        Done => "done",
        Failed => "failed",
        Cancelled => "cancelled",
    }
}

/// `PUT /deploys/{id}`: what Maestro reports of a deploy. Repeating it replaces what was reported.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeployReport {
    #[schema(value_type = String)]
    pub namespace: Namespace,
    #[schema(value_type = String)]
    pub app: AppName,
    pub state: DeployState,
    #[serde(default)]
    pub services: Vec<String>,
    #[serde(default, with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<OffsetDateTime>,
    #[serde(default, with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<OffsetDateTime>,
    /// Why it failed, as one sentence.
    #[serde(default)]
    pub reason: Option<String>,
}

/// `GET /deploys/{id}`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deploy {
    pub id: String,
    #[serde(flatten)]
    pub report: DeployReport,
    /// Entries of its log that are stored.
    pub entries: u64,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub reported_at: OffsetDateTime,
    /// Its builds, newest first; at most 100.
    pub builds: Vec<Build>,
}

/// An error, as `application/problem+json` (RFC 9457).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:buildgrid:` and the [`code`](ProblemCode), or `about:blank` where the status says it all.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What is wrong with this request.
    pub detail: String,
    /// With `urn:buildgrid:gap` and `urn:buildgrid:incomplete`: the seq to go on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_seq: Option<u64>,
}

/// The problems that a client acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemCode {
    /// The attempt was never claimed here, or the service has lost its data: claim it late.
    UnknownAttempt,
    /// Another attempt has taken the place of this one.
    Fenced,
    /// Entries are missing before the append.
    Gap,
    /// The log's end was reported before all of it was here.
    Incomplete,
    /// The stored log is not the one that was reported.
    Checksum,
}

impl ProblemCode {
    pub const ALL: [Self; 5] =
        [Self::UnknownAttempt, Self::Fenced, Self::Gap, Self::Incomplete, Self::Checksum];

    pub fn urn(self) -> &'static str {
        match self {
            Self::UnknownAttempt => "urn:buildgrid:unknown-attempt",
            Self::Fenced => "urn:buildgrid:fenced",
            Self::Gap => "urn:buildgrid:gap",
            Self::Incomplete => "urn:buildgrid:incomplete",
            Self::Checksum => "urn:buildgrid:checksum",
        }
    }

    pub fn of(problem: &Problem) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.urn() == problem.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_states_are_one() {
        for &state in AttemptState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        for &state in BuildState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
            assert_eq!(state.as_str().parse(), Ok(state));
        }
    }

    #[test]
    fn answers_are_told_by_their_tag() {
        assert_eq!(
            serde_json::to_string(&ClaimAnswer::Go { next_seq: 0 }).unwrap(),
            r#"{"answer":"go","next_seq":0}"#
        );
        assert_eq!(serde_json::to_string(&ClaimAnswer::Cancelled).unwrap(), r#"{"answer":"cancelled"}"#);
        let wait: ClaimAnswer = serde_json::from_str(r#"{"answer":"wait","reason":"x"}"#).unwrap();
        assert_eq!(wait, ClaimAnswer::Wait { reason: "x".to_owned() });
    }
}
