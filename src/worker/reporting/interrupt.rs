//! The end of a running attempt that comes from the timeline service.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// Why an attempt was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Somebody wants the build to end: its outcome is `cancelled`.
    Cancelled,
    /// Another attempt has taken its place: the delivery is given back.
    Fenced,
}

/// Stops one attempt; the first cause stands.
#[derive(Clone)]
pub struct Interrupt {
    pub token: CancellationToken,
    cause: Arc<OnceLock<Cause>>,
}

impl Interrupt {
    pub fn new(token: CancellationToken) -> Self {
        Self { token, cause: Arc::default() }
    }

    /// Says whether it is the first cause.
    pub fn stop(&self, cause: Cause) -> bool {
        let is_first = self.cause.set(cause).is_ok();
        self.token.cancel();
        is_first
    }

    pub fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }
}
