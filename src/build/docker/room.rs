//! Whether the engine's disk ran full in the course of a build. Programs say so in many ways, or not at all
//! (busybox: "I/O error"), so the disk itself is looked at, where it is on this machine.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::DockerEngine;
use crate::disk::Fill;

/// How often it is looked at. The engine keeps what a failed step has written until the build is over.
const LOOK: Duration = Duration::from_millis(50);
/// How long the end of a build waits for the last look.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long after it was seen full a failure is put down to that.
const BLAME: Duration = Duration::from_secs(5);
/// With so little space, or the hundredth part of the whole, a write may fail.
const FULL: u64 = 64 << 20;

pub(super) struct Room {
    root: Option<PathBuf>,
    seen_full: Mutex<Option<Instant>>,
}

impl Room {
    pub(super) async fn on(engine: &DockerEngine) -> Self {
        Self { root: engine.known_root().await, seen_full: Mutex::default() }
    }

    /// What comes of `work`, during which the disk is looked at.
    pub(super) async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let look = async {
            loop {
                self.look().await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            done = work => done,
            () = look => unreachable!("it is looked at without end"),
        }
    }

    /// Whether it is full, or was just now.
    pub(super) async fn ran_out(&self) -> bool {
        // A disk that hangs does not delay the build's end.
        let _ = tokio::time::timeout(PATIENCE, self.look()).await;
        self.seen_full().is_some_and(|seen| seen.elapsed() <= BLAME)
    }

    fn seen_full(&self) -> MutexGuard<'_, Option<Instant>> {
        self.seen_full.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self) {
        let Some(root) = self.root.clone() else { return std::future::pending().await };
        let fill = tokio::task::spawn_blocking(move || Fill::of(&root)).await;
        if matches!(fill, Ok(Ok(fill)) if is_full(&fill)) {
            *self.seen_full() = Some(Instant::now());
        }
    }
}

fn is_full(fill: &Fill) -> bool {
    let whole = fill.used.saturating_add(fill.free);
    whole > 0 && fill.free < FULL.min(whole / 100) || fill.inodes.is_some_and(|(used, all)| used >= all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_when_next_to_nothing_is_left() {
        const GIB: u64 = 1 << 30;
        let fill = |used, free| Fill { used, free, inodes: Some((5, 10)), read_only: false };
        assert!(is_full(&fill(100 * GIB, 0)) && is_full(&fill(1000 * GIB, FULL - 1)));
        assert!(!is_full(&fill(1000 * GIB, FULL)) && !is_full(&fill(98, 2)));
        assert!(is_full(&Fill { inodes: Some((10, 10)), ..fill(1, GIB) }));
        assert!(!is_full(&Fill { inodes: None, ..fill(0, 0) }), "one that has no blocks");
    }
}
