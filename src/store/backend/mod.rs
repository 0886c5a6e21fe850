//! Where the store's objects are: a directory, or an object store such as S3. The operations are those that both have
//! (get, size, list, put, put if absent, compare and set, delete, stream in); what the objects mean is the facade's
//! business. One suite of tests is for both.

mod batch;
mod content;
#[cfg(test)]
mod contract;
mod directory;
mod dispatch;
mod objects;
mod removal;
#[cfg(test)]
#[expect(dead_code, reason = "the suites of tests/ use all of it")]
#[path = "../../../tests/integration/support/s3.rs"]
mod s3;
mod writer;

#[cfg(test)]
pub(super) use content::SETTLED;
pub(super) use content::{Content, Stamp};
pub(super) use directory::{Directory, Swap, sync_directory};
pub(super) use dispatch::{Backend, Seen};
pub(super) use objects::Objects;
pub use objects::StoredObject;
pub(super) use removal::{Held, Lease};
pub use writer::BlobWriter;
pub(super) use writer::take;
