//! Where the store's objects are: a directory. The operations are those that an object store has
//! too (get, size, list, put, put if absent, compare and set, delete, stream in); what the objects
//! mean is the facade's business.

mod batch;
mod directory;
mod removal;
mod writer;

pub(super) use directory::{Directory, Swap, sync_directory};
pub(super) use removal::Lease;
pub use writer::BlobWriter;
pub(super) use writer::take;
