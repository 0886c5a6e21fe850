//! The Docker engine, spoken to through bollard, which no other folder knows.
//!
//! [`DockerEngine::build`] is the way through: `request` says what to build (`dockerfile` and `frontend` look at the
//! Dockerfile first), `solve` runs it, with a `session` for what the engine asks back (files of the context among it), while `progress` (fed by `lines`) turns BuildKit's messages into log entries, `room` looks at the engine's
//! disk and `failure` turns its errors into ours. The image is then `built`: it is read in the engine's `storage`, or
//! `export` spools it and `archive` reads it. `transport` owns the
//! connections, so that none outlives its build. `cache` prunes what builds leave in the engine's cache.

mod advice;
mod archive;
mod built;
mod cache;
mod config;
mod dockerfile;
mod engine;
mod export;
mod failure;
mod frontend;
mod instructions;
mod lines;
mod probe;
mod progress;
mod request;
mod room;
mod session;
mod solve;
mod storage;
mod suspect;
mod tags;
mod transport;
mod watch;

pub use archive::open_archive;
pub use built::{OnEngine, Way};
pub use cache::Prune;
pub use config::{EngineConfig, Network};
pub use dockerfile::Dockerfile;
pub use engine::DockerEngine;
pub use probe::EngineInfo;
pub use request::{BuildRequest, Context};
pub use tags::EngineBuildId;
