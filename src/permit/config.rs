//! The section `namespaces` of the configuration: what builds of each namespace may do.

use std::collections::BTreeMap;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::build::docker::Network;
use crate::config::Faults;
use crate::publish::name::Namespace;
use crate::source::UrlPrefix;

/// The entry of all namespaces that have none of their own, and for what an own entry leaves out.
const ALL: &str = "*";

/// What builds may do, by namespace; `"*"` stands for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamespacesConfig(BTreeMap<String, NamespaceConfig>);

/// What builds of one namespace may do. What is left out holds as for `"*"`, and else as the rest of the
/// configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NamespaceConfig {
    /// The beginnings of the URLs that may be built from; without it, all.
    pub repositories: Option<Vec<UrlPrefix>>,
    /// What build steps can reach, as `engine.network`.
    pub network: Option<Network>,
    /// The longest time limit that an event may have; a longer one is cut to it.
    #[serde(with = "humantime_serde")]
    pub max_build_timeout: Option<Duration>,
    /// How long a build may go on without a sign of life.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Option<Duration>,
    /// How much the namespace's images may take in the store; one that has as much builds no more.
    pub max_store: Option<ByteSize>,
}

/// A value and the key that it stands in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set<T> {
    pub value: T,
    pub key: String,
}

impl NamespacesConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (name, entry) in &self.0 {
            let key = format!("namespaces.{name}");
            if name != ALL
                && let Err(error) = name.parse::<Namespace>()
            {
                faults.add(&key, error);
            }
            for (field, limit) in
                [("max_build_timeout", entry.max_build_timeout), ("idle_timeout", entry.idle_timeout)]
            {
                if limit.is_some_and(|limit| limit.is_zero()) {
                    faults.add_entry(&key, field, "is zero; no build could end in time");
                }
            }
        }
    }

    /// How much each namespace may have in the store, as words.
    pub fn quotas(&self) -> Vec<String> {
        let limited = self.0.iter().filter_map(|(name, entry)| Some((name, entry.max_store?)));
        let words = limited.map(|(name, most)| {
            let who = if name == ALL { "each other namespace" } else { name };
            format!("{who}: {}", most.display().iec())
        });
        words.collect()
    }

    /// What is set for a namespace in one field, by its own entry or for all.
    pub(super) fn find<T: Clone>(
        &self,
        namespace: &Namespace,
        name: &str,
        field: impl Fn(&NamespaceConfig) -> &Option<T>,
    ) -> Option<Set<T>> {
        [namespace.as_str(), ALL].into_iter().find_map(|entry| {
            let value = field(self.0.get(entry)?).clone()?;
            let entry = if entry == ALL { "\"*\"" } else { entry };
            Some(Set { value, key: format!("namespaces.{entry}.{name}") })
        })
    }
}
