//! Waiting for an engine that may be silent for hours, because a step is, but must stay alive.

use std::time::Duration;

use bollard::Docker;
use futures::{Stream, StreamExt};

/// How long the engine may be silent before it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(30);
/// How many questions in a row it may leave without an answer.
const MISSES: u32 = 3;

/// Asks an engine whether it is alive, over connections of their own.
pub(super) struct Pulse {
    pub(super) docker: Docker,
    pub(super) timeout: Duration,
}

/// The engine has stopped answering.
#[derive(Debug)]
pub(super) struct Silent;

impl Pulse {
    /// The next item of a stream from this engine.
    pub(super) async fn next<S: Stream + Unpin>(&self, stream: &mut S) -> Result<Option<S::Item>, Silent> {
        let mut misses = 0;
        loop {
            match tokio::time::timeout(SILENCE, stream.next()).await {
                Ok(item) => return Ok(item),
                Err(_) if self.beats().await => misses = 0,
                Err(_) => misses += 1,
            }
            if misses == MISSES {
                return Err(Silent);
            }
        }
    }

    async fn beats(&self) -> bool {
        matches!(tokio::time::timeout(self.timeout, self.docker.ping()).await, Ok(Ok(_)))
    }
}
