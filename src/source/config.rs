//! The section `source` of the configuration: how long a fetch may take, how much it may bring, and
//! which addresses it may go to.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::address::AllowedAddress;
use crate::config::Faults;
use crate::network::NetworkConfig;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// How long it may take to resolve the git server's name and to connect to it.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long the git server may stay silent, before its answer or in the middle of it.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// How long one fetch may take altogether.
    #[serde(with = "humantime_serde")]
    pub fetch_timeout: Duration,
    /// How much one fetch may receive, compressed as git sends it.
    pub max_pack: ByteSize,
    /// How many git objects one fetch may receive.
    pub max_objects: u64,
    /// How many files and folders a build context may have, ignored ones left out.
    pub max_files: u64,
    /// How large the files of a build context may be altogether.
    pub max_context: ByteSize,
    /// How large one file of a build context may be. libgit2 reads a file whole, and with it what git
    /// stored it as a difference to, which may be larger: the memory that a context takes is some
    /// multiple of this, and what bounds it against a hostile repository is the worker's memory limit.
    pub max_file: ByteSize,
    /// Git servers on private, loopback and link-local addresses that builds may be fetched from:
    /// host names, addresses or networks, such as "git.internal", "10.1.2.3" or "10.0.0.0/8". All
    /// other addresses that are not on the public internet are refused, after the name is resolved.
    pub allow_private_addresses: Vec<String>,
    /// The keys of SSH servers that repositories may be fetched from, as OpenSSH keeps them (`ssh-keyscan`); names
    /// may be hashed, and have no wildcards. Read at every fetch.
    pub known_hosts: PathBuf,
    /// How long the mirror of a repository is kept that nothing is fetched from any more. When the disk is
    /// full, the longest unused go earlier.
    #[serde(with = "humantime_serde")]
    pub keep_mirrors: Duration,
    /// The section `network`.
    #[serde(skip)]
    pub network: NetworkConfig,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(60),
            fetch_timeout: Duration::from_secs(15 * 60),
            max_pack: ByteSize::gib(4),
            max_objects: 20_000_000,
            max_files: 250_000,
            max_context: ByteSize::gib(4),
            max_file: ByteSize::mib(256),
            allow_private_addresses: Vec::new(),
            known_hosts: PathBuf::from("/etc/ssh/ssh_known_hosts"),
            keep_mirrors: Duration::from_secs(30 * 24 * 3600),
            network: NetworkConfig::default(),
        }
    }
}

impl SourceConfig {
    /// Notes every value that cannot be used.
    pub fn check(&self, faults: &mut Faults) {
        for (key, duration) in [
            ("source.connect_timeout", self.connect_timeout),
            ("source.stall_timeout", self.stall_timeout),
            ("source.fetch_timeout", self.fetch_timeout),
        ] {
            if duration.is_zero() {
                faults.add(key, "must be longer than zero");
            }
        }
        for (key, limit) in [
            ("source.max_pack", self.max_pack.0),
            ("source.max_objects", self.max_objects),
            ("source.max_files", self.max_files),
            ("source.max_context", self.max_context.0),
            ("source.max_file", self.max_file.0),
        ] {
            if limit == 0 {
                faults.add(key, "must be more than zero");
            }
        }
        for entry in &self.allow_private_addresses {
            if let Err(error) = entry.parse::<AllowedAddress>() {
                faults.add("source.allow_private_addresses", error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_fault() {
        let config: SourceConfig = toml::from_str(
            r#"
            stall_timeout = "0s"
            max_file = "0B"
            allow_private_addresses = ["10.0.0.0/8", "git.internal", "10.0.0.0/64", "http://x"]
            "#,
        )
        .unwrap();
        let mut faults = Faults::default();
        config.check(&mut faults);
        let faults = format!("{faults:?}");
        for named in ["stall_timeout", "max_file", "10.0.0.0/64", "http://x"] {
            assert!(faults.contains(named), "{named} is not in {faults}");
        }
        assert_eq!(faults.matches("(\"source.").count(), 4, "{faults}");
    }

    #[test]
    fn the_defaults_are_sound() {
        let mut faults = Faults::default();
        SourceConfig::default().check(&mut faults);
        assert_eq!(format!("{faults:?}"), format!("{:?}", Faults::default()));
    }
}
