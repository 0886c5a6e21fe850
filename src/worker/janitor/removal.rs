//! What is said of what goes: a line for each thing, and one for each round.

use std::fmt::Display;
use std::path::Path;

use bytesize::ByteSize;

/// What a round has removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) things: u64,
    pub(super) bytes: u64,
}

impl Tally {
    /// Notes that the thing at `path` has been removed because of `why`, or could not be.
    pub(super) fn note(
        &mut self,
        what: &'static str,
        path: &Path,
        why: &'static str,
        removed: Result<u64, impl Display>,
    ) {
        let path = path.display();
        match removed {
            Ok(bytes) => {
                tracing::info!(%path, why, bytes, "removed {what}");
                self.count(bytes);
            }
            Err(error) => tracing::warn!(%path, why, %error, "cannot remove {what}; it is tried again later"),
        }
    }

    /// One of many small things, which get no line each.
    pub(super) fn count(&mut self, bytes: u64) {
        self.things += 1;
        self.bytes += bytes;
    }

    pub(super) fn add(&mut self, other: Self) {
        self.things += other.things;
        self.bytes += other.bytes;
    }

    pub(super) fn report(&self) {
        if self.things > 0 || self.bytes > 0 {
            let freed = ByteSize(self.bytes).display().iec();
            tracing::info!(things = self.things, bytes = self.bytes, "the janitor has freed {freed}");
        }
    }
}
