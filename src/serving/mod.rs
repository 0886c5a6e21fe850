//! Serving connections: bounded in number (`places`), each with deadlines, finished when told to stop (`server`); files go
//! out on them without a copy (`sendfile`), or by TLS where there is a certificate ([`tls`]). And where requests come from
//! (`source`), and how long who guesses passwords has to wait (`guesses`).

mod config;
mod connection;
mod descriptors;
mod guesses;
mod places;
mod rate_limited;
mod sendfile;
mod server;
mod source;
pub mod tls;
mod visit;
mod visits;

pub use self::config::ServerConfig;
pub use self::connection::Peer;
pub use self::guesses::Guesses;
pub use self::sendfile::{FileBody, FilePart, FileSender};
pub use self::server::{Limits, serve};
pub use self::source::Proxies;
