//! BuildGrid turns the commit of a deploy event into a pullable Docker image.

pub mod build;
pub mod cli;
pub mod config;
pub mod event;
pub mod publish;
pub mod queue;
pub mod registry;
pub mod source;
pub mod store;
pub mod timeline;
pub mod worker;
