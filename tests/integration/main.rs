//! The integration suite: real RabbitMQ, Docker engine, git server and pull clients. One binary,
//! because linking is what costs. `scripts/setup` starts what it needs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

mod browser;
mod cli;
mod commit;
mod credentials;
mod docker;
mod faults;
mod fixtures;
mod fuzz;
mod program;
mod queue;
mod registry;
mod source;
mod store;
mod support;
mod web;
mod worker;
