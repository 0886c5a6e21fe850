//! The section `store` of the configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Faults;

/// Where images are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The directory of the store, all of it on one file system. A registry may have it mounted
    /// read-only. A timeline service needs none: where it sees one, its pages show what images hold, and
    /// manage credentials if it may write.
    pub path: PathBuf,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { path: PathBuf::from("/var/lib/buildgrid/store") }
    }
}

impl StoreConfig {
    pub fn check(&self, faults: &mut Faults) {
        if self.path.as_os_str().is_empty() {
            faults.add("store.path", "is empty; name the directory where images are kept");
        }
    }
}
