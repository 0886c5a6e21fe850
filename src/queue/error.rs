//! What a call to the queue can end with, whichever queue it is.

use super::amqp::BrokerError;
use super::embedded::FileError;

/// A call to the queue that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    #[error(transparent)]
    Broker(BrokerError),
    #[error(transparent)]
    File(#[from] FileError),
    /// The caller's token was cancelled, or the queue was closed.
    #[error("cancelled")]
    Cancelled,
}

impl From<BrokerError> for QueueError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Cancelled => Self::Cancelled,
            error => Self::Broker(error),
        }
    }
}
