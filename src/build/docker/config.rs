//! The `engine` section of the configuration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::transport::Address;
use crate::config::Faults;

/// The Docker engine that builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where the engine listens: `unix:///path` or `tcp://host:port` (without TLS: only on a trusted network).
    pub host: String,
    /// How long the engine may take to answer a short call, and to a ping while it builds in silence.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The longest that one build may take; also what applies to an event that names no limit.
    #[serde(with = "humantime_serde")]
    pub build_timeout: Duration,
    /// Whether the engine works for BuildGrid alone. Only then is its build cache ours to prune.
    pub dedicated: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".to_owned(),
            timeout: Duration::from_secs(30),
            build_timeout: Duration::from_secs(3600),
            dedicated: false,
        }
    }
}

impl EngineConfig {
    /// Notes every value that cannot be used.
    pub fn check(&self, faults: &mut Faults) {
        if let Err(reason) = self.host.parse::<Address>() {
            faults.add("engine.host", reason);
        }
        for (key, value) in [("engine.timeout", self.timeout), ("engine.build_timeout", self.build_timeout)] {
            if value < Duration::from_secs(1) {
                faults.add(key, "is shorter than a second");
            }
        }
        if self.build_timeout < self.timeout {
            faults.add("engine.build_timeout", "is shorter than engine.timeout");
        }
    }
}
