//! The deploy queue: [`Queue`], one handle over RabbitMQ through lapin ([`amqp`]) or a file of this
//! process ([`embedded`]), what passes through it, and what it is told by the configuration.

pub mod amqp;
mod config;
mod delivery;
pub mod embedded;
mod error;
mod handle;
mod letter;
mod results;
mod retry;
mod status;
mod url;

pub use amqp::{BrokerError, DeclareError};
pub use config::{Declare, QueueConfig};
pub use delivery::{Ack, Delivery, Subscription};
pub use embedded::FileError;
pub use error::QueueError;
pub use handle::Queue;
pub use letter::{Letter, LetterError, Letters, Selection};
pub use results::Results;
pub use retry::retry_after;
pub use status::{QueueStatus, StatusWatch};
pub use url::{BrokerUrl, InvalidBrokerUrl};
