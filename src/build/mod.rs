//! From a context to an image: the Docker engine, and the fake that stands in for it in smoke tests.

pub mod credentials;
pub mod docker;
pub mod engine;
pub mod fake;
pub mod ssh_key;
