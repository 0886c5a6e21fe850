//! The session of a build: what the engine may ask of BuildGrid while it builds.
//!
//! The engine is the client here. A connection to it is turned around (`POST /session`, moby,
//! api/server/router/session), and BuildGrid serves gRPC on it: files of the context, and secrets, registry logins and SSH agents, which by
//! that lie neither on the engine's disk nor in the request. Each build has a session of its own, with what is its own to have,
//! and answers nothing else. BuildKit's side of each service is in moby/buildkit, session/.

mod agent;
mod auth;
mod files;
mod health;
mod secrets;
mod server;
mod ssh;

pub(super) use files::NOT_WHOLE;
pub(super) use server::{Offer, Session};
