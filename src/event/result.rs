//! Result events, version 1: what BuildGrid says of a build on the exchange `buildgrid.events`.
//!
//! They are sent at least once; a consumer tells repeats by `id`, `attempt` and `state`.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::deploy::{BuildId, DeployEvent, Identity};
use crate::publish::name::{AppName, Namespace, RepositoryName};
use crate::source::commit::CommitId;
use crate::store::digest::Digest;
use crate::timeline::entry::optional_timestamp;

/// The version written into every result event.
pub const VERSION: u32 = 1;

/// What has become of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Started,
    /// Not the build's fault; it is tried again after a while.
    Retrying,
    Published,
    Failed,
    Rejected,
    Cancelled,
}

impl State {
    /// Whether nothing more comes of this id.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Started | Self::Retrying)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Retrying => "retrying",
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The build's own: a failing step, no Dockerfile, a commit that is not there.
    Build,
    /// Ours: an engine, a store or a network that was away.
    Infrastructure,
    /// The event's: it could not be read or is not allowed.
    Event,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Infrastructure => "infrastructure",
            Self::Event => "event",
        }
    }
}

/// A result event. Fields without a value are written as `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultEvent {
    pub version: u32,
    /// The deploy event's id.
    pub id: BuildId,
    pub deploy_id: Option<String>,
    /// Counts the attempts at this event, from 1.
    pub attempt: u32,
    pub namespace: Namespace,
    pub app: AppName,
    /// Empty where a rejected event did not get so far.
    pub services: Vec<String>,
    /// The repository's name, as it stands in the image's.
    pub repository: Option<RepositoryName>,
    pub commit: Option<CommitId>,
    pub state: State,
    pub kind: Option<Kind>,
    /// The image was there already: nothing was built, or another build of the commit was first.
    pub reused: bool,
    /// What `docker pull` takes, once published.
    pub image: Option<String>,
    /// The digest of the image's manifest.
    pub digest: Option<Digest>,
    /// The bytes that a pull of the image moves: configuration and compressed layers.
    pub size: Option<u64>,
    /// Why the build is not published, as one sentence.
    pub reason: Option<String>,
    /// The step that failed, as the log names it.
    pub step: Option<String>,
    /// Where that step stands: the Dockerfile's path in the repository and the line, as `docker/Dockerfile:7`.
    #[serde(default)]
    pub location: Option<String>,
    /// The last lines of that step.
    pub excerpt: Vec<String>,
    /// What its author may try, where that can be told.
    #[serde(default)]
    pub advice: Option<String>,
    pub log_url: Option<String>,
    #[serde(with = "optional_timestamp")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "optional_timestamp")]
    pub finished_at: Option<OffsetDateTime>,
    /// The worker that says so.
    pub worker: String,
}

impl ResultEvent {
    /// Whether another attempt may end otherwise, so that an operator's requeue tries it again.
    pub fn may_change(&self) -> bool {
        matches!(self.kind, Some(Kind::Infrastructure | Kind::Event))
    }

    /// What is known of an accepted event; the caller sets what became of it.
    pub fn of(event: &DeployEvent, attempt: u32, state: State, worker: &str) -> Self {
        Self {
            deploy_id: event.deploy_id.clone(),
            services: event.services.clone(),
            repository: Some(event.repository.clone()),
            commit: Some(event.commit.clone()),
            ..Self::bare(event.identity(), attempt, state, worker)
        }
    }

    /// An event that was rejected and of which no more is known than who sent it.
    pub fn rejected(identity: Identity, attempt: u32, reason: &str, worker: &str) -> Self {
        Self {
            kind: Some(Kind::Event),
            reason: Some(reason.to_owned()),
            finished_at: Some(OffsetDateTime::now_utc()),
            ..Self::bare(identity, attempt, State::Rejected, worker)
        }
    }

    fn bare(identity: Identity, attempt: u32, state: State, worker: &str) -> Self {
        Self {
            version: VERSION,
            id: identity.id,
            deploy_id: None,
            attempt,
            namespace: identity.namespace,
            app: identity.app,
            services: Vec::new(),
            repository: None,
            commit: None,
            state,
            kind: None,
            reused: false,
            image: None,
            digest: None,
            size: None,
            reason: None,
            step: None,
            location: None,
            excerpt: Vec::new(),
            advice: None,
            log_url: None,
            started_at: None,
            finished_at: None,
            worker: worker.to_owned(),
        }
    }

    /// `build.<state>.<namespace>.<app>`
    pub fn routing_key(&self) -> String {
        format!("build.{}.{}.{}", self.state, self.namespace, self.app)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn is_written_as_documented() {
        let identity = Identity {
            id: "0193b2d6".parse().unwrap(),
            namespace: "acme".parse().unwrap(),
            app: "shop".parse().unwrap(),
        };
        let mut event = ResultEvent::rejected(identity, 2, "missing field `commit`", "worker-1");
        event.finished_at = Some(datetime!(2026-11-23 10:15:02.123 UTC));
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(
            json,
            r#"{"version":1,"id":"0193b2d6","deploy_id":null,"attempt":2,"namespace":"acme","app":"shop","services":[],"repository":null,"commit":null,"state":"rejected","kind":"event","reused":false,"image":null,"digest":null,"size":null,"reason":"missing field `commit`","step":null,"location":null,"excerpt":[],"advice":null,"log_url":null,"started_at":null,"finished_at":"2026-11-23T10:15:02.123Z","worker":"worker-1"}"#
        );
        assert_eq!(serde_json::from_str::<ResultEvent>(&json).unwrap(), event);
        assert_eq!(event.routing_key(), "build.rejected.acme.shop");
        assert!(event.state.is_final() && !State::Retrying.is_final());
    }

    #[test]
    fn states_are_written_as_they_are_called() {
        for state in [
            State::Started,
            State::Retrying,
            State::Published,
            State::Failed,
            State::Rejected,
            State::Cancelled,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
