//! Whether the engine's disk ran full in the course of a build. Programs say so in many ways, or not at all
//! (busybox: "I/O error"), so the disk itself is looked at, where it is on this machine.

use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::engine::DockerEngine;
use crate::disk::{Fill, aside};

/// How often it is looked at. The engine keeps what a failed step has written until the build is over.
const LOOK: Duration = Duration::from_millis(50);
/// How long the end of a build waits for the last look.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long after it was seen full a failure is put down to that.
const BLAME: Duration = Duration::from_secs(5);
/// With so little space, or the hundredth part of the whole, a write may fail.
const FULL: u64 = 64 << 20;

/// The engine's disk, which a thread looks at until this is dropped.
pub(super) struct Room {
    seen: Arc<Seen>,
    /// Asks the thread for a look at once; it answers when it has looked.
    ask: mpsc::Sender<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Seen(Mutex<Option<Instant>>);

impl Room {
    pub(super) async fn on(engine: &DockerEngine) -> Self {
        let (ask, asked) = mpsc::channel();
        let seen = Arc::<Seen>::default();
        // Of a disk that is elsewhere, nothing is seen.
        if let Some(root) = engine.known_root().await {
            let seen = seen.clone();
            if let Err(error) = aside("engine's disk", move || seen.keep_looking(&root, &asked)) {
                tracing::warn!(%error, "whether the engine's disk runs full is not looked at");
            }
        }
        Self { seen, ask }
    }

    /// Whether it is full, or was just now.
    pub(super) async fn ran_out(&self) -> bool {
        let (looked, look) = oneshot::channel();
        if self.ask.send(looked).is_ok() {
            // A disk that hangs does not delay the build's end.
            let _ = tokio::time::timeout(PATIENCE, look).await;
        }
        self.seen.full().is_some_and(|seen| seen.elapsed() <= BLAME)
    }
}

impl Seen {
    fn full(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, root: &Path) {
        if Fill::of(root).is_ok_and(|fill| is_full(&fill)) {
            *self.full() = Some(Instant::now());
        }
    }

    fn keep_looking(&self, root: &Path, asked: &mpsc::Receiver<oneshot::Sender<()>>) {
        loop {
            self.look(root);
            match asked.recv_timeout(LOOK) {
                Ok(looked) => {
                    self.look(root);
                    let _ = looked.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
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
