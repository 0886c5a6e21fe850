//! What can go wrong between us and the broker, in words an operator can act on.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

/// A call to the broker that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    #[error("the broker at {address} cannot be reached: {reason}")]
    Unreachable { address: String, reason: String },
    #[error("the broker at {address} refuses the login: {reason}; check user and password of queue.url")]
    Login { address: String, reason: String },
    /// The login is right. The name is percent-encoded, as it stands in the URL.
    #[error(
        "the broker at {address} does not open the virtual host {vhost}: {reason}; check the end of queue.url, whether \
         there is such a virtual host (rabbitmqctl list_vhosts) and whether its user may use it"
    )]
    Vhost { address: String, vhost: String, reason: String },
    #[error("the connection settings cannot be used: {0}")]
    Settings(String),
    /// The channel or connection ended in the middle of the call: whether it was done is not known.
    #[error("the broker's answer was lost: {0}")]
    Lost(String),
    #[error("the broker does not have what was asked for: {0}")]
    Missing(String),
    #[error(
        "the broker refuses access: {0}; grant its user the right or ask for queue.declare = \"passive\""
    )]
    Access(String),
    #[error("no queue takes a message with key {key:?} on {exchange}")]
    Unroutable { exchange: String, key: String },
    #[error("the broker did not take the message: a queue it goes to is full or unavailable")]
    Nacked,
    #[error("the broker refuses the call: {0}")]
    Refused(String),
    #[error(transparent)]
    Topology(Box<DeclareError>),
    /// The caller's token was cancelled, or the broker's handle was closed.
    #[error("cancelled")]
    Cancelled,
}

/// Why exchanges and queues are not as they must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// It exists with other arguments, which cannot be changed: the start is refused.
    #[error(
        "{object} exists with another {argument}: {detail}; delete it once it is empty, or set the queue section of the configuration to what it has"
    )]
    Arguments { object: String, argument: String, detail: String },
    /// The broker does not let it be made, for a reason of its own: a limit, a lock, a version.
    #[error("{object} cannot be declared: {detail}")]
    Refused { object: String, detail: String },
    #[error("{object} does not exist; create it, or set queue.declare = \"auto\"")]
    Missing { object: String },
    #[error("{object}: access refused: {detail}")]
    Access { object: String, detail: String },
    /// Not a matter of the topology: try again.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl DeclareError {
    /// Whether trying again cannot help, so that a start is refused.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Broker(_))
    }
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        let lapin::ErrorKind::ProtocolError(amqp) = error.kind() else {
            return Self::Lost(error.to_string());
        };
        let text = amqp.get_message().to_string();
        match amqp.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Self::Missing(text),
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Access(text),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED)
            | AMQPErrorKind::Hard(AMQPHardError::NOTIMPLEMENTED | AMQPHardError::COMMANDINVALID) => {
                Self::Refused(text)
            }
            _ => Self::Lost(text),
        }
    }
}

impl DeclareError {
    /// The error of declaring `object`, such as `queue buildgrid.builds`.
    pub(super) fn of(object: &str, error: lapin::Error) -> Self {
        let object = object.to_owned();
        match BrokerError::from(error) {
            BrokerError::Missing(_) => Self::Missing { object },
            BrokerError::Access(detail) => Self::Access { object, detail },
            BrokerError::Refused(text) => match inequivalent(&text) {
                Some((argument, detail)) => Self::Arguments {
                    object,
                    argument: format!("argument {argument:?}"),
                    detail: detail.to_owned(),
                },
                None => Self::Refused { object, detail: text },
            },
            other => Self::Broker(other),
        }
    }
}

/// Takes RabbitMQ's sentence apart: `PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue
/// 'q' in vhost '/': received the value '1' of type 'long' but current is none`.
fn inequivalent(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (argument, rest) = rest.split_once('\'')?;
    let (_, detail) = rest.split_once("': ")?;
    Some((argument, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_argument() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'a.b' in vhost '/': received the value '1' of type 'long' but current is none";
        let (argument, detail) = inequivalent(text).unwrap();
        assert_eq!(argument, "x-message-ttl");
        assert_eq!(detail, "received the value '1' of type 'long' but current is none");
        assert_eq!(inequivalent("PRECONDITION_FAILED - something else"), None);
    }
}
