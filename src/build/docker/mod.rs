//! The Docker engine, spoken to through bollard, which no other folder knows.
//!
//! [`DockerEngine::build`] is the way through: `request` says what to build, `session` runs
//! it while `progress` (fed by `lines`) turns BuildKit's messages into log entries and `failure` its
//! errors into ours, `export` spools the image and `archive` reads it. `transport` owns the
//! connections, so that none outlives its build.

mod archive;
mod config;
mod engine;
mod export;
mod failure;
mod lines;
mod probe;
mod progress;
mod request;
mod session;
mod tags;
mod transport;
mod watch;

pub use archive::open_archive;
pub use config::EngineConfig;
pub use engine::DockerEngine;
pub use probe::EngineInfo;
pub use request::{BuildRequest, Context};
pub use tags::EngineBuildId;
