//! The store: blobs, manifests and tags in the layout of the CNCF Distribution registry, so that a
//! stock registry process can serve the same tree ([`layout`]).
//!
//! Publishing goes bottom up: blobs, their links, the manifest, and last the tag, which
//! [`Store::put_tag`] writes only when all that it leads to is there. Every write is durable when
//! its call returns.

mod backend;
mod blobs;
mod condemned;
mod config;
mod credentials;
pub mod digest;
mod ends;
mod error;
mod gc;
mod handle;
mod inventory;
mod keeping;
mod layers;
pub mod layout;
mod listing;
mod manifests;
mod scrub;
mod tags;
mod unread;
mod upkeep;
mod usage;
mod user;

pub use backend::{BlobWriter, StoredObject};
pub use blobs::{Blob, BlobSource};
pub use config::StoreConfig;
pub use credentials::{Credential, Credentials, NewCredential, UnreadLogin};
pub use error::{BrokenOff, DamagedLogin, StoreError};
pub use gc::{
    AskAgain, Collected, Collection, Going, ImageGone, InUse, Keep, Retention, RetentionConfig, Sum,
    Unreadable,
};
pub use handle::Store;
pub use keeping::KeepingConfig;
pub use layers::Layer;
pub use listing::{DiskUsage, ImageEntry, Level, Listing, RepositoryEntry};
pub use scrub::{DamagedBlob, DamagedImage, InvalidPart, Part, Scrubbed};
pub use tags::{TagOutcome, TagPut};
pub use unread::{MENDS, Unread};
pub use user::{InvalidUserName, UserName};
