//! From a commit id to a build context: one commit, fetched with libgit2 into a mirror, streamed as a
//! tar, or file by file, out of the git objects. Nothing is ever checked out. The only folder that imports git2.
//!
//! - `sources`: `Sources::fetch`, the way in
//! - `mirror`: the bare repositories kept on disk, and how a broken one is replaced
//! - `packing`: how a mirror of many fetches becomes one of few packs and refs
//! - `kept`: which mirrors there are, and how those go that nobody needs
//! - `session`, `transport`, `http`, `ssh`, `advertisement`, `deepen`: git's protocol for libgit2, over reqwest and russh
//! - `credentials`: what private repositories are fetched with
//! - `address`: which addresses may be connected to
//! - `fetch`: one fetch: which mirror, which request, which fallback
//! - `fetched`: the commit that was fetched, and its context
//! - `submodules`, `gitmodules`: the commits of other repositories that are part of it
//! - `tree`: finding the folder and the Dockerfile in a git tree
//! - `walk`, `content`: the way through the trees of a context, and what stands in its files
//! - `context`, `archive`: the tar stream; `files`: file by file
//! - `ignore`, `pattern`: `.dockerignore`
//! - `config`, `error`, `url`, `commit`: the section `source`, its errors, its names

mod address;
mod advertisement;
mod archive;
pub mod commit;
pub mod config;
mod content;
pub mod context;
pub mod credentials;
mod deepen;
pub mod error;
mod fetch;
pub mod fetched;
pub mod files;
mod gitmodules;
mod http;
mod ignore;
mod kept;
mod libgit2;
mod mirror;
mod packing;
mod pattern;
mod prefix;
mod session;
pub mod sources;
mod ssh;
pub mod submodules;
mod transport;
mod tree;
pub mod url;
mod walk;

pub use config::SourceConfig;
pub use context::{Context, ContextOutcome, ContextStream, ContextSummary};
pub use credentials::Credentials;
pub use error::{Fault, SourceError};
pub use fetched::FetchedCommit;
pub use kept::KeptMirrors;
pub use prefix::UrlPrefix;
pub use sources::{Errand, Permit, Sources};
pub use submodules::Scope;
