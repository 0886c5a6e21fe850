//! RabbitMQ through lapin; no other folder imports it.
//!
//! Two supervised connections, one for consuming and one for publishing, so that a broker alarm,
//! which blocks a publisher, stops neither acknowledgements nor heartbeats. lapin's own recovery
//! stays off: after it, a delivery arrives again while the first build still runs and no error is
//! seen. Here a lost connection ends every subscription, and the slots subscribe again.

mod broker;
mod consume;
mod dial;
mod error;
mod letter;
mod letters;
mod link;
mod message;
mod publish;
mod results;
mod settle;
mod topology;

pub use broker::{Broker, BrokerWatch};
pub use consume::{Receipt, Subscription};
pub use error::{BrokerError, DeclareError};
pub use results::Results;
