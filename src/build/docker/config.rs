//! The `engine` section of the configuration.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::frontend::Frontend;
use super::transport::Address;
use crate::config::Faults;

/// What build steps can reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// What the engine's containers can, behind its address translation.
    #[default]
    Default,
    /// Nothing but themselves.
    None,
}

/// The Docker engine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where the engine listens: `unix:///path` or `tcp://host:port` (without TLS: only on a trusted network), or
    /// `none` for a worker that does fake builds only.
    pub host: String,
    /// How long the engine may take to answer a short call, and a ping while it builds in silence: after three
    /// in a row without an answer it is given up, and the build is tried again.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The front ends that a Dockerfile may name by `# syntax=`: images, with a tag or digest for only that one. The
    /// engine pulls and runs them, with the whole build in their hands.
    pub frontends: Vec<Frontend>,
    /// What build steps can reach. The engine itself pulls base images all the same.
    pub network: Network,
    /// Whether the engine builds for BuildGrid alone. Only then may BuildGrid prune its build cache, in which
    /// nothing says whose it is.
    pub dedicated: bool,
    /// How much build cache a dedicated engine keeps; the longest unused goes first. Less when its disk is
    /// full.
    pub keep_cache: ByteSize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".to_owned(),
            timeout: Duration::from_secs(30),
            frontends: vec![Frontend::official()],
            network: Network::Default,
            dedicated: false,
            keep_cache: ByteSize::gib(20),
        }
    }
}

impl EngineConfig {
    /// Whether there is none: a worker for fake builds only.
    pub fn is_none(&self) -> bool {
        self.host == "none"
    }

    /// Notes every value that cannot be used.
    pub fn check(&self, faults: &mut Faults) {
        if self.is_none() {
            return;
        }
        if let Err(reason) = self.host.parse::<Address>() {
            faults.add("engine.host", reason);
        }
        if self.timeout < Duration::from_secs(1) {
            faults.add("engine.timeout", "is shorter than a second");
        }
        // The engine takes it as a signed number, and zero as no limit at all.
        if self.keep_cache.0 == 0 || i64::try_from(self.keep_cache.0).is_err() {
            faults.add("engine.keep_cache", format_args!("{} is out of range", self.keep_cache));
        }
    }
}
