//! The section `keeping` of the configuration: when the store is looked after.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Faults;

/// Every how long something may be done, other than never.
const OFTENEST: Duration = Duration::from_secs(60);
/// The shortest grace.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

/// When the store is looked after by the workers that publish into it: one of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepingConfig {
    /// Every how long garbage is collected; zero: only by `buildgrid store gc`.
    #[serde(with = "humantime_serde")]
    pub gc_every: Duration,
    /// How long something must have been without use before it is removed. A publish that takes longer may have to be
    /// done again.
    #[serde(with = "humantime_serde")]
    pub gc_grace: Duration,
}

impl Default for KeepingConfig {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { gc_every: day, gc_grace: day }
    }
}

impl KeepingConfig {
    pub fn check(&self, faults: &mut Faults) {
        if !self.gc_every.is_zero() && self.gc_every < OFTENEST {
            faults.add("keeping.gc_every", "is shorter than a minute; 0s means never");
        }
        if self.gc_grace < SHORTEST_GRACE {
            faults.add("keeping.gc_grace", "is shorter than a second; make it longer than any publish takes");
        }
    }
}
