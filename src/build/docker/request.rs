//! What is to be built, and what of it the engine is told.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;

use bollard::query_parameters::BuildImageOptions;
use bytes::Bytes;
use futures::Stream;

use super::config::{EngineConfig, Network};
use super::dockerfile::Dockerfile;
use super::tags::EngineBuildId;
use crate::build::credentials::BuildCredentials;
use crate::build::engine::{BuildError, BuildFailure};
use crate::publish::name::Namespace;
use crate::source::files::ContextFiles;
use crate::store::digest::Digest;

/// The build context. What is wrong with it breaks it off, which looks like trouble with the engine: whoever makes
/// the context knows the cause, and whose fault it is.
pub enum Context {
    /// A tar archive, uncompressed, in pieces: sent whole.
    Tar(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>),
    /// Files that the engine asks for.
    Files(ContextFiles),
}

/// A build for the Docker engine.
pub struct BuildRequest {
    /// Of this request alone.
    pub id: EngineBuildId,
    /// Whose cache mounts (`RUN --mount=type=cache`) the build may use: those of its namespace.
    pub namespace: Namespace,
    /// The Dockerfile's path in the context.
    pub dockerfile: String,
    /// What stands in it.
    pub text: Dockerfile,
    /// The stage to build; the last one if `None`.
    pub target: Option<String>,
    /// With the labels at most 64 KiB, percent-encoded.
    pub args: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// `os/architecture[/variant]`; the engine's own if `None`.
    pub platform: Option<String>,
    pub no_cache: bool,
    /// What its steps can reach.
    pub network: Network,
    /// What the engine is given when the build asks for it, and nothing else.
    pub credentials: BuildCredentials,
    pub context: Context,
}

/// Keeps the cache mounts of namespaces apart (BuildKit, frontend/dockerfile/builder, `keyCacheNSArg`).
const CACHE_MOUNT_NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";
/// A name that leads nowhere (RFC 6761), under which a step's `/etc/hosts` has the namespace.
const NAMESPACE_HOST: &str = "namespace.buildgrid.invalid";
/// The arguments with a meaning for BuildKit that an event may give. Any other is refused:
/// `BUILDKIT_SYNTAX` would run a front end of the event's choice, and what later versions add is unknown.
const PASSED_ON: [&str; 3] =
    ["BUILDKIT_CONTEXT_KEEP_GIT_DIR", "BUILDKIT_INLINE_CACHE", "BUILDKIT_SANDBOX_HOSTNAME"];

impl BuildRequest {
    /// Refuses what no build may ask for.
    pub(super) fn check(&self, config: &EngineConfig) -> Result<(), BuildError> {
        let failed = |reason| Err(BuildError::Failed(BuildFailure { reason, ..BuildFailure::default() }));
        let refused = |name: &&String| name.starts_with("BUILDKIT_") && !PASSED_ON.contains(&name.as_str());
        if let Some(name) = self.args.keys().find(refused) {
            return failed(format!(
                "build.args: {name} is not allowed; of BuildKit's own arguments only {} are passed on",
                PASSED_ON.join(", ")
            ));
        }
        if self.text.is_json() {
            return failed(format!(
                "{} is JSON, which only a foreign front end reads; write instructions",
                self.dockerfile
            ));
        }
        let foreign = |image: &&str| !config.frontends.iter().any(|frontend| frontend.allows(image));
        if let Some(image) = self.text.frontends().into_iter().find(foreign) {
            let allowed = config.frontends.iter().map(ToString::to_string).collect::<Vec<_>>();
            let allowed = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
            return failed(format!(
                "{} names the front end {image:?} (syntax=), which this worker does not allow; engine.frontends \
                 allows {allowed}",
                self.dockerfile
            ));
        }
        Ok(())
    }

    /// Something that is part of the cache key of every step, and does nothing else: BuildKit leaves the values of
    /// secrets out of it, so that another namespace's build with the same Dockerfile would be given what a step has
    /// made of this one's secrets. The names of extra hosts are in the key in all versions (moby/buildkit,
    /// solver/llbsolver/ops/exec.go, `CacheMap`).
    fn cache_key(&self) -> Option<String> {
        self.credentials.is_private().then(|| format!("{}.{NAMESPACE_HOST}:127.0.0.1", self.namespace))
    }

    /// By which the engine keeps files of the context for the next build of the same in the same namespace. It looks
    /// not into a file that it has, but at what a directory says of it: its time and length, and its mode. Within one
    /// commit these need tell no two files of one path apart, since there are none. What else decides which files are
    /// used is part of it, so that folders have the times that they had, too.
    pub(super) fn shared_key(&self) -> String {
        match &self.context {
            Context::Tar(_) => String::new(),
            Context::Files(files) => {
                let used = (&self.target, &self.args, &self.platform);
                Digest::of(format!("{}\0{}\0{used:?}", self.namespace, files.key()).as_bytes()).hex()
            }
        }
    }

    /// The query of `POST /build` for this request.
    pub(super) fn options(&self) -> BuildImageOptions {
        let mut args: HashMap<_, _> = self.args.clone().into_iter().collect();
        args.insert(CACHE_MOUNT_NAMESPACE.to_owned(), self.namespace.to_string());
        BuildImageOptions {
            dockerfile: self.dockerfile.clone(),
            t: Some(self.id.private_tag()),
            nocache: self.no_cache,
            buildargs: Some(args),
            extrahosts: self.cache_key(),
            networkmode: match self.network {
                Network::Default => None,
                Network::None => Some("none".to_owned()),
            },
            labels: Some(self.labels.clone().into_iter().collect()),
            platform: self.platform.clone().unwrap_or_default(),
            target: self.target.clone().unwrap_or_default(),
            remote: match self.context {
                Context::Tar(_) => None,
                Context::Files(_) => Some("client-session".to_owned()),
            },
            ..BuildImageOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(args: &[(&str, &str)]) -> BuildRequest {
        BuildRequest {
            id: EngineBuildId::generate(),
            namespace: "acme".parse().unwrap(),
            dockerfile: "Dockerfile".into(),
            text: Dockerfile::default(),
            target: None,
            args: args.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            labels: BTreeMap::new(),
            platform: None,
            no_cache: false,
            network: Network::Default,
            credentials: BuildCredentials::default(),
            context: Context::Tar(Box::pin(futures::stream::empty())),
        }
    }

    #[test]
    fn refuses_the_arguments_that_would_change_buildkit_itself() {
        let config = EngineConfig::default();
        let allowed = [("RAILS_ENV", "production"), ("BUILDKIT_INLINE_CACHE", "1")];
        assert!(request(&allowed).check(&config).is_ok());
        for name in ["BUILDKIT_SYNTAX", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_OF_TOMORROW"] {
            let Err(BuildError::Failed(failure)) = request(&[(name, "x")]).check(&config) else {
                panic!("{name}")
            };
            assert!(failure.reason.contains(name), "{}", failure.reason);
        }
    }

    #[test]
    fn refuses_front_ends_that_are_not_on_the_list() {
        let mut config = EngineConfig::default();
        let with = |text: &str| BuildRequest { text: Dockerfile::new(text.as_bytes()), ..request(&[]) };
        for text in ["FROM a\n", "# syntax=docker/dockerfile:1.7@sha256:00\nFROM a\n"] {
            assert!(with(text).check(&config).is_ok(), "{text}");
        }
        let Err(BuildError::Failed(failure)) = with("# syntax=evil/frontend\nFROM a\n").check(&config) else {
            panic!("it was allowed");
        };
        assert!(
            failure.reason.contains("\"evil/frontend\"") && failure.reason.ends_with("docker/dockerfile")
        );
        config.frontends.clear();
        assert!(with("# syntax=docker/dockerfile:1\nFROM a\n").check(&config).is_err());
        assert!(with("FROM a\n").check(&config).is_ok(), "the engine's own");
    }

    #[test]
    fn cache_mounts_are_those_of_the_namespace() {
        let args = request(&[("A", "1")]).options().buildargs.unwrap();
        assert_eq!(args[CACHE_MOUNT_NAMESPACE], "acme");
        assert_eq!(args["A"], "1");
    }
}
