//! The section `publish`.

use serde::{Deserialize, Serialize};

use crate::build::docker::Way;
use crate::config::Faults;

/// What layers are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Which every client can pull.
    #[default]
    Gzip,
    /// Smaller and faster; Docker before version 23 cannot pull it.
    Zstd,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PublishConfig {
    /// How images come off the Docker engine.
    pub source: Way,
    /// What layers are compressed with. Layers already stored keep their bytes.
    pub compression: Compression,
    /// How hard gzip tries, from 1 (fast) to 9 (small). At 4, layers of programs are a hundredth larger than by gzip(1) at its 6,
    /// and at 6 it takes a third longer.
    pub gzip_level: u32,
    /// How hard zstd tries, from 1 (fast) to 19 (small).
    pub zstd_level: u32,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self { source: Way::Auto, compression: Compression::Gzip, gzip_level: 4, zstd_level: 3 }
    }
}

impl PublishConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (key, level, most) in
            [("publish.gzip_level", self.gzip_level, 9), ("publish.zstd_level", self.zstd_level, 19)]
        {
            if !(1..=most).contains(&level) {
                faults.add(key, format_args!("{level} is not a level; 1 to {most} are"));
            }
        }
    }
}
