//! The section `history` of the configuration: how long the timeline service keeps logs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Faults;

/// The shortest age at which a log may go: until then a worker that was away may still ask for it.
const SHORTEST_KEEP: Duration = Duration::from_secs(24 * 3600);
/// As good as for ever.
const LONGEST_KEEP: Duration = Duration::from_secs(36_525 * 24 * 3600);
/// The most logs of an app that may be kept whatever their age.
const MOST_KEPT: u32 = 1_000_000;

/// What goes is too old by `keep_logs`, not among the last by `keep_last`, and not the log of an image that is
/// there. Builds and deploys themselves stay in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How long a log is kept after its build or deploy was last heard of.
    #[serde(with = "humantime_serde")]
    pub keep_logs: Duration,
    /// How many builds of an app, and how many deploys, keep their logs whatever their age: the last ones.
    pub keep_last: u32,
    /// Whether the log of an image is kept as long as the image is in the store.
    pub keep_with_images: bool,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { keep_logs: Duration::from_secs(90 * 24 * 3600), keep_last: 100, keep_with_images: true }
    }
}

impl HistoryConfig {
    /// Notes every value that cannot be used.
    pub fn check(&self, faults: &mut Faults) {
        if self.keep_logs < SHORTEST_KEEP {
            faults.add(
                "history.keep_logs",
                "is shorter than a day; a worker that was away may send the rest of a log within that",
            );
        }
        if self.keep_logs > LONGEST_KEEP {
            faults.add("history.keep_logs", "is longer than 100 years");
        }
        if self.keep_last > MOST_KEPT {
            faults.add("history.keep_last", format_args!("is more than {MOST_KEPT}"));
        }
    }
}
