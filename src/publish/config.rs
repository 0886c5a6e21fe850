//! The section `publish`.

use serde::{Deserialize, Serialize};

use crate::config::Faults;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishConfig {
    /// How hard gzip tries, from 1 (fast) to 9 (small). Layers already stored keep their bytes.
    pub gzip_level: u32,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self { gzip_level: 6 }
    }
}

impl PublishConfig {
    pub fn check(&self, faults: &mut Faults) {
        if !(1..=9).contains(&self.gzip_level) {
            faults.add("publish.gzip_level", format_args!("{} is not a level; 1 to 9 are", self.gzip_level));
        }
    }
}
