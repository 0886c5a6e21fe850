//! The read-only registry: the pull side of the OCI distribution specification 1.1 over a store.
//!
//! A request goes through [`observe`] (log line, metric), is refused here if it would write, is
//! logged in by [`login`], scoped to a repository that the login may read by [`scope`], and answered
//! by [`manifests`], [`blobs`], [`listings`] or [`referrers`]; every refusal is a row of the table in [`error`].

mod blobs;
mod config;
mod content;
mod error;
mod identity;
mod listings;
mod login;
mod logins;
mod manifests;
mod observe;
mod range;
mod referrers;
mod router;
mod scope;
mod server;

pub use config::RegistryConfig;
pub use error::RegistryError;
pub use router::{Registry, router, routes};
pub use server::serve;
