//! What Maestro reports of deploys, and what is shown of them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::build::Build;
use super::words::DeployState;
use crate::publish::name::{AppName, Namespace};
use crate::timeline::entry::{optional_timestamp, timestamp};

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
    /// The image that it runs, where that is not the one of its builds: what `docker pull` takes.
    #[serde(default)]
    pub image: Option<String>,
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

/// `GET /images/in-use`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImagesInUse {
    /// What `docker pull` takes, with `@` and the digest where it is known.
    pub images: Vec<String>,
    /// `<namespace>/<app>`: the apps of which a deploy is known that is done. What others run is not known, even where
    /// `images` names none of theirs; a service that does not say it knows of none.
    #[serde(default)]
    pub apps: Vec<String>,
}
