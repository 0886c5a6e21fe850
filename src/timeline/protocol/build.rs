//! What is shown of builds, their attempts, apps and services.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::attempt::{AttemptId, CommitInfo};
use super::words::{AttemptState, BuildState};
use crate::event::deploy::BuildId;
use crate::event::result::Kind;
use crate::publish::name::{AppName, Namespace, RepositoryName};
use crate::source::commit::CommitId;
use crate::store::digest::Digest;
use crate::timeline::entry::{optional_timestamp, timestamp};

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
    /// It was asked for although the image was there: it replaces that one.
    #[serde(default)]
    pub rebuild: bool,
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
    /// Where it stands: the Dockerfile's path in the repository and the line.
    #[serde(default)]
    pub location: Option<String>,
    /// That step's last lines.
    pub excerpt: Vec<String>,
    /// What its author may try.
    #[serde(default)]
    pub advice: Option<String>,
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
    /// Why it is not its turn, where its worker was told to wait: it asks again every ten seconds.
    #[serde(default)]
    pub waiting: Option<String>,
    /// When the next attempt is due, of one that is to be tried again.
    #[serde(default, with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retry_at: Option<OffsetDateTime>,
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
    /// Entries of its log that were stored.
    pub entries: u64,
    /// Whether the log is whole: count and checksum were confirmed.
    pub complete: bool,
    /// When its log was removed, which is no longer kept.
    #[serde(default, with = "optional_timestamp")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub log_removed_at: Option<OffsetDateTime>,
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
    /// The services of its last build, then the others of its last 50 builds and of the deploys since then.
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
