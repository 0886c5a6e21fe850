//! The section `keeping` of the configuration: when the store is looked after.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::publish::publisher;

/// Every how long something may be done, other than never.
const OFTENEST: Duration = Duration::from_secs(60);
/// The shortest grace.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The usual grace: no publish takes so long.
const USUAL_GRACE: Duration = Duration::from_secs(2 * 24 * 3600);
const _: () = assert!(USUAL_GRACE.as_secs() > publisher::LONGEST.as_secs());

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
    /// Every how long a part of the store is read and verified; zero: only by `buildgrid store scrub`.
    #[serde(with = "humantime_serde")]
    pub scrub_every: Duration,
    /// How many parts are all of it; 1 to 256.
    pub scrub_parts: u16,
}

impl Default for KeepingConfig {
    fn default() -> Self {
        Self { gc_every: DAY, gc_grace: USUAL_GRACE, scrub_every: DAY, scrub_parts: 30 }
    }
}

impl KeepingConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (key, every) in [("keeping.gc_every", self.gc_every), ("keeping.scrub_every", self.scrub_every)] {
            if !every.is_zero() && every < OFTENEST {
                faults.add(key, "is shorter than a minute; 0s means never");
            }
        }
        if !(1..=256).contains(&self.scrub_parts) {
            faults.add(
                "keeping.scrub_parts",
                format_args!("{} is out of range; 1 to 256 are", self.scrub_parts),
            );
        }
        if self.gc_grace < SHORTEST_GRACE {
            faults.add("keeping.gc_grace", "is shorter than a second; make it longer than any publish takes");
        }
    }
}
