//! The section `up`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Faults;

/// Where `buildgrid up` keeps everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpConfig {
    /// The one directory for everything that `buildgrid up` keeps; empty means `buildgrid` in
    /// `$XDG_DATA_HOME`, or in `~/.local/share`.
    pub data_dir: PathBuf,
}

impl UpConfig {
    /// Nothing to check: a directory that cannot be made is told when it is needed.
    pub fn check(&self, _: &mut Faults) {}

    /// The directory: the configured one, else the user's own.
    pub fn resolved_data_dir(&self) -> PathBuf {
        if !self.data_dir.as_os_str().is_empty() {
            return self.data_dir.clone();
        }
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let data = named("XDG_DATA_HOME")
            // XDG Base Directory Specification: a relative path is to be ignored.
            .filter(|path| path.is_absolute())
            .or_else(|| named("HOME").map(|home| home.join(".local/share")));
        data.unwrap_or_else(|| PathBuf::from("/var/lib")).join("buildgrid")
    }
}
