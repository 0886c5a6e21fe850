//! Listening to result events, in the process that takes the events.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::error::FileError;
use super::queue::EmbeddedQueue;
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, Namespace};
use crate::queue::QueueError;

/// Result events of some apps, from the moment it was made.
pub struct Results {
    receiver: Receiver<Arc<ResultEvent>>,
    apps: HashSet<(Namespace, AppName)>,
    stop: CancellationToken,
}

impl EmbeddedQueue {
    /// Listens to every result of the apps. Only in the process that opened the queue.
    pub fn results<'a>(
        &self,
        apps: impl IntoIterator<Item = (&'a Namespace, &'a AppName)>,
    ) -> Result<Results, QueueError> {
        if !self.core.takes {
            return Err(FileError::Attached(self.core.file.path().to_owned()).into());
        }
        if self.core.stop.is_cancelled() {
            return Err(QueueError::Cancelled);
        }
        let receiver = self.core.results.subscribe();
        let apps = apps.into_iter().map(|(namespace, app)| (namespace.clone(), app.clone())).collect();
        Ok(Results { receiver, apps, stop: self.core.stop.clone() })
    }
}

impl Results {
    /// The next result event; `None` when the queue was closed, or this was read so slowly that some were
    /// missed. Safe to drop.
    pub async fn next(&mut self) -> Option<ResultEvent> {
        loop {
            match self.stop.run_until_cancelled(self.receiver.recv()).await? {
                Ok(event) if self.apps.contains(&(event.namespace.clone(), event.app.clone())) => {
                    return Some(Arc::unwrap_or_clone(event));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "result events were not read in time");
                    return None;
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
