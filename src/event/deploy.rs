//! The deploy event, version 1: from the bytes on the wire to a [`DeployEvent`] in which every field
//! has been checked, or to a [`Rejected`] that says which one is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fake::FakeBuild;
use super::fields::{
    MAX_TEXT, checked_id, checked_path, checked_platform, checked_ref, free_text, leaves, renamed, sentence,
};
use super::strict::Strict;
use crate::publish::name::{AppName, ImageName, ImageRepository, Namespace, RepositoryName, Tag, Variant};
use crate::source::commit::CommitId;
use crate::source::url::RepositoryUrl;
use crate::store::digest::Digest;

/// The largest event taken, in bytes.
pub const MAX_EVENT: usize = 1 << 20;
/// Services, build arguments, secrets and SSH agents of one event, each.
const MAX_ITEMS: usize = 256;
/// The shortest and longest time limit a build may ask for, in seconds.
const TIMEOUT_S: std::ops::RangeInclusive<i64> = 1..=86_400;

/// The id of an event and of its build: `[A-Za-z0-9_-]{1,64}`. The same id never builds twice.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct BuildId(String);

impl BuildId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new id, which sorts by the time it was made.
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an event id: 1 to 64 of A-Z, a-z, 0-9, '_' and '-'")]
pub struct InvalidId(String);

impl FromStr for BuildId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidId(text.chars().take(80).collect())),
        }
    }
}

impl<'de> Deserialize<'de> for BuildId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A deploy event in which every field has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployEvent {
    pub id: BuildId,
    /// Joins the builds of one deploy.
    pub deploy_id: Option<String>,
    pub namespace: Namespace,
    pub app: AppName,
    pub services: Vec<String>,
    pub repository: RepositoryName,
    pub commit: CommitId,
    /// The ref the commit was seen on; where to look if the server does not serve commits by id.
    pub git_ref: Option<String>,
    pub options: BuildOptions,
    pub requested_by: Option<String>,
    pub work: Work,
    /// The digest of the event's bytes as they came: the same id with another body is a conflict.
    pub body: Digest,
}

/// What is to be done: build from a repository, or pretend to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    Repository(RepositoryUrl),
    Fake(FakeBuild),
}

/// The `build` object of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildOptions {
    /// The folder of the repository that is the build context; empty for the whole repository.
    pub root: String,
    /// The Dockerfile, relative to `root`.
    pub dockerfile: String,
    pub target: Option<String>,
    pub args: BTreeMap<String, String>,
    /// Names only: a secret never travels in an event.
    pub secrets: BTreeSet<String>,
    /// The SSH agents that the build may use, by name.
    pub ssh: BTreeSet<String>,
    pub platform: Option<String>,
    pub no_cache: bool,
    pub timeout: Option<Duration>,
    pub variant: Option<Variant>,
    pub rebuild: bool,
}

impl DeployEvent {
    /// Reads an event. Returns with it the paths of the fields that were ignored, for the log.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Vec<String>), Rejected> {
        if bytes.len() > MAX_EVENT {
            return Err(Rejected::unknown(format!(
                "the event is {} bytes long; at most {MAX_EVENT} are taken",
                bytes.len()
            )));
        }
        if bytes.is_empty() {
            return Err(Rejected::unknown("the event is empty".to_owned()));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Rejected::unknown(format!("the event is not UTF-8: {error}")))?;
        let Strict(value) = serde_json::from_str(text)
            .map_err(|error| Rejected::unknown(format!("the event is not JSON as it must be: {error}")))?;
        let reject = |reason: String| Rejected {
            identity: Identity::find(&value).map(Box::new),
            reason: sentence(&reason),
        };
        if !value.is_object() {
            return Err(reject("the event is not a JSON object".to_owned()));
        }
        match value.get("version") {
            Some(version) if version.as_u64() == Some(1) => {}
            Some(version) => {
                return Err(reject(format!(
                    "event version {version} is not known; this worker reads version 1"
                )));
            }
            None => return Err(reject("missing field `version`".to_owned())),
        }
        // serde would read an array as the fields in their order.
        for key in ["repository", "build", "fake"] {
            if value.get(key).is_some_and(|part| !part.is_object() && !part.is_null()) {
                return Err(reject(format!("{key}: is not a JSON object")));
            }
        }
        let mut ignored = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(value.clone(), &mut track);
        let parsed =
            serde_ignored::deserialize::<_, _, Wire>(deserializer, |path| ignored.push(path.to_string()));
        let wire = parsed.map_err(|error| {
            let path = track.path().to_string();
            match path.as_str() {
                "." => reject(error.to_string()),
                path => reject(format!("{path}: {error}")),
            }
        })?;
        let event = wire.check(Digest::of(bytes)).map_err(reject)?;
        Ok((event, ignored))
    }

    /// The name of the image that this event asks for.
    pub fn image(&self) -> ImageName {
        ImageName {
            repository: ImageRepository {
                namespace: self.namespace.clone(),
                app: self.app.clone(),
                repository: self.repository.clone(),
            },
            tag: Tag::of(&self.commit, self.options.variant.as_ref()),
        }
    }

    pub fn identity(&self) -> Identity {
        Identity { id: self.id.clone(), namespace: self.namespace.clone(), app: self.app.clone() }
    }

    /// The digest of what is built: two events with the same definition and commit ask for the same
    /// image. `platform` is the one that the engine would build for.
    pub fn definition(&self, platform: &str) -> Digest {
        let fake = match &self.work {
            Work::Fake(fake) => Some(fake),
            Work::Repository(_) => None,
        };
        // A struct and not `json!`: its fields stay in this order whatever features serde_json has,
        // and the digest must be the same in every version.
        #[derive(Serialize)]
        struct Definition<'a> {
            root: &'a str,
            dockerfile: &'a str,
            target: Option<&'a str>,
            args: &'a BTreeMap<String, String>,
            secrets: &'a BTreeSet<String>,
            platform: &'a str,
            fake: Option<&'a FakeBuild>,
            // Later than the others: a definition without it has the digest that it always had.
            #[serde(skip_serializing_if = "BTreeSet::is_empty")]
            ssh: &'a BTreeSet<String>,
        }
        let options = &self.options;
        let definition = serde_json::to_vec(&Definition {
            root: &options.root,
            dockerfile: &options.dockerfile,
            target: options.target.as_deref(),
            args: &options.args,
            secrets: &options.secrets,
            platform: options.platform.as_deref().unwrap_or(platform),
            fake,
            ssh: &options.ssh,
        });
        Digest::of(&definition.expect("a struct of strings is always valid JSON"))
    }
}

/// Who an event is from, as far as it could be read: what a result event needs at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub id: BuildId,
    pub namespace: Namespace,
    pub app: AppName,
}

impl Identity {
    fn find(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str);
        Some(Self {
            id: text("id")?.parse().ok()?,
            namespace: text("namespace")?.parse().ok()?,
            app: text("app")?.parse().ok()?,
        })
    }
}

/// An event that can never be built, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Rejected {
    pub reason: String,
    /// Boxed: errors travel far and should be small.
    pub identity: Option<Box<Identity>>,
}

impl Rejected {
    fn unknown(reason: String) -> Self {
        Self { reason: sentence(&reason), identity: None }
    }
}

/// The event as it stands on the wire.
#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "version")]
    _version: u64,
    id: BuildId,
    deploy_id: Option<String>,
    namespace: Namespace,
    app: AppName,
    services: Option<Vec<String>>,
    repository: Option<WireRepository>,
    commit: CommitId,
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    build: Option<WireBuild>,
    requested_by: Option<String>,
    fake: Option<FakeBuild>,
}

#[derive(Deserialize)]
struct WireRepository {
    url: Option<RepositoryUrl>,
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WireBuild {
    root: Option<String>,
    dockerfile: Option<String>,
    target: Option<String>,
    args: Option<BTreeMap<String, String>>,
    secrets: Option<Vec<String>>,
    ssh: Option<Vec<String>>,
    platform: Option<String>,
    no_cache: bool,
    timeout_s: Option<i64>,
    variant: Option<Variant>,
    rebuild: bool,
}

impl Wire {
    fn check(self, body: Digest) -> Result<DeployEvent, String> {
        let (url, given) = match self.repository {
            Some(repository) => (repository.url, repository.name),
            None => (None, None),
        };
        let named = match (given, &url, &self.fake) {
            (Some(name), _, _) => name,
            (None, Some(url), _) => url.last_segment().to_owned(),
            (None, None, _) => "fake".to_owned(),
        };
        let work = match (self.fake, url) {
            (Some(fake), _) => {
                fake.check()?;
                Work::Fake(fake)
            }
            (None, Some(url)) => Work::Repository(url),
            (None, None) => return Err("repository.url: missing; only a fake build needs none".to_owned()),
        };
        if leaves(&named) {
            return Err(format!("repository.name: {named:?} is a path, not a name; '..' is not allowed"));
        }
        let repository = RepositoryName::fold(&named).map_err(|error| {
            format!("repository.name: {named:?} cannot be made into an image's name: {error}")
        })?;
        ImageRepository::new(self.namespace.clone(), self.app.clone(), repository.clone())
            .map_err(|error| format!("repository.name: {error}"))?;
        let services = self.services.unwrap_or_else(|| vec![self.app.to_string()]);
        if services.is_empty() || services.len() > MAX_ITEMS {
            return Err(format!("services: {} services; 1 to {MAX_ITEMS} are taken", services.len()));
        }
        let mut seen = BTreeSet::new();
        for service in &services {
            service
                .parse::<AppName>()
                .map_err(|error| format!("services: {}", renamed(&error, "service")))?;
            if !seen.insert(service) {
                return Err(format!("services: {service:?} stands twice"));
            }
        }
        Ok(DeployEvent {
            id: self.id,
            deploy_id: free_text("deploy_id", self.deploy_id)?,
            namespace: self.namespace,
            app: self.app,
            services,
            repository,
            commit: self.commit,
            git_ref: self.git_ref.map(checked_ref).transpose()?,
            options: self.build.unwrap_or_default().check()?,
            requested_by: free_text("requested_by", self.requested_by)?,
            work,
            body,
        })
    }
}

impl WireBuild {
    fn check(self) -> Result<BuildOptions, String> {
        let root = checked_path("build.root", self.root.as_deref().unwrap_or("."))?;
        let dockerfile =
            checked_path("build.dockerfile", self.dockerfile.as_deref().unwrap_or("Dockerfile"))?;
        if dockerfile.is_empty() {
            return Err("build.dockerfile: names no file".to_owned());
        }
        let target = free_text("build.target", self.target)?;
        if target.as_deref() == Some("") {
            return Err("build.target: is empty; leave it out to build the last stage".to_owned());
        }
        let args = self.args.unwrap_or_default();
        if args.len() > MAX_ITEMS {
            return Err(format!("build.args: {} arguments; at most {MAX_ITEMS} are taken", args.len()));
        }
        for name in args.keys() {
            let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'=';
            if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(allowed) {
                return Err(format!("build.args: {name:?} is not the name of an argument"));
            }
        }
        let secrets = names("build.secrets", "secrets", self.secrets)?;
        let ssh = names("build.ssh", "SSH agents", self.ssh)?;
        let timeout = match self.timeout_s {
            None => None,
            Some(seconds) if TIMEOUT_S.contains(&seconds) => {
                Some(Duration::from_secs(seconds.unsigned_abs()))
            }
            Some(seconds) => {
                return Err(format!(
                    "build.timeout_s: {seconds} is out of range; {} to {} seconds are taken",
                    TIMEOUT_S.start(),
                    TIMEOUT_S.end()
                ));
            }
        };
        Ok(BuildOptions {
            root,
            dockerfile,
            target,
            args,
            secrets,
            ssh,
            platform: self.platform.map(checked_platform).transpose()?,
            no_cache: self.no_cache,
            timeout,
            variant: self.variant,
            rebuild: self.rebuild,
        })
    }
}

/// Names of what lies in the worker's credentials directory.
fn names(field: &str, what: &str, given: Option<Vec<String>>) -> Result<BTreeSet<String>, String> {
    let given = given.unwrap_or_default();
    if given.len() > MAX_ITEMS {
        return Err(format!("{field}: {} {what}; at most {MAX_ITEMS} are taken", given.len()));
    }
    given.iter().try_for_each(|name| checked_id(field, name))?;
    Ok(given.into_iter().collect())
}

#[cfg(test)]
#[path = "deploy_tests.rs"]
mod tests;
