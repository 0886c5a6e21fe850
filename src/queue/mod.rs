//! The deploy queue: what it is told by the configuration, and RabbitMQ through lapin.

pub mod amqp;
mod config;
mod url;

pub use config::{Declare, QueueConfig};
pub use url::{BrokerUrl, InvalidBrokerUrl};
