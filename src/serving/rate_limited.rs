//! Words on what happens many times a second while it lasts.

use std::time::Duration;

use tokio::time::Instant;

const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Says a thing once a minute at most.
#[derive(Debug, Default)]
pub(super) struct RateLimited(Option<Instant>);

impl RateLimited {
    pub(super) fn say(&mut self, words: impl FnOnce()) {
        if self.0.is_none_or(|said| said.elapsed() >= SAY_AGAIN) {
            self.0 = Some(Instant::now());
            words();
        }
    }
}
