//! What the configuration lets go of the store, and what it lets nobody add.

use super::Report;
use crate::config::Config;

/// Which images stay, how much a namespace may have, and who looks after the store.
pub(super) fn keeping(report: &mut Report, config: &Config, is_up: bool) {
    let has_timeline = is_up || config.timeline.base().is_some();
    match config.retention.is_set() {
        false => report.note("retention", "none: every image is kept, whatever its age"),
        true if !has_timeline => report.note(
            "retention",
            "[retention] is set, and no image goes by it: timeline.url is empty, and nobody else knows what deploys run",
        ),
        true => report.good("retention", &config.retention),
    }
    let quotas = config.namespaces.quotas();
    if !quotas.is_empty() {
        report.good("quota", quotas.join(", "));
    }
    for (every, key, what) in [
        (
            config.keeping.gc_every,
            "gc_every",
            "garbage is collected by `buildgrid store gc` alone, or by its timer",
        ),
        (
            config.keeping.scrub_every,
            "scrub_every",
            "blobs are verified by `buildgrid store scrub` alone, or by its timer",
        ),
    ] {
        if every.is_zero() {
            report.note("keeping", format_args!("keeping.{key} is 0s: {what}"));
        }
    }
}
