//! An object store as the place of the store's objects: S3, and by the same library Google Cloud Storage and Azure.
//!
//! What is answered is durable and seen by all, so nothing needs a sync. There are no locks: what a directory does under
//! one is a put on condition here (`If-None-Match`, `If-Match`; [`put`]), which a service must keep ([`probe`]), and what is
//! taken away goes in two steps that others wait for ([`conditional`]).

mod bucket;
mod client;
mod conditional;
mod lease;
mod object;
mod probe;
mod put;
#[cfg(test)]
mod takeover_tests;
mod upload;

pub(in crate::store) use bucket::Objects;
pub(super) use conditional::Hold;
pub(super) use lease::ObjectLease;
pub(super) use object::ObjectReader;
pub use object::StoredObject;
