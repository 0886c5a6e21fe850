//! The integration suite: real RabbitMQ, Docker engine, git server and pull clients. One binary,
//! because linking is what costs. `scripts/setup` starts what it needs.

mod docker;
mod queue;
mod registry;
mod source;
mod store;
mod support;
mod worker;
