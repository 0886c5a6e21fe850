//! Listening to result events, for a command that waits for the outcome of what it enqueued.

use super::{amqp, embedded};
use crate::event::result::ResultEvent;

/// Result events of some apps, from the moment it was made.
pub struct Results(pub(super) Heard);

pub(super) enum Heard {
    Amqp(Box<amqp::Results>),
    Embedded(embedded::Results),
}

impl Results {
    /// The next result event; `None` when some may have been missed, because the connection was lost or
    /// this was not read for too long: listen again. Safe to drop.
    pub async fn next(&mut self) -> Option<ResultEvent> {
        match &mut self.0 {
            Heard::Amqp(results) => results.next().await,
            Heard::Embedded(results) => results.next().await,
        }
    }
}
