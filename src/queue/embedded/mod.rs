//! A durable queue in one process, for `buildgrid up`: one SQLite file, and nothing else to install.
//!
//! ```text
//! <directory>/     0700
//!   queue.lock     held by the one process that takes events
//!   queue.db       the events: ready, waiting to be tried again, dead; with queue.db-wal and -shm
//! ```
//!
//! That an event is being worked on stands in memory only: after a crash whatever was not acknowledged
//! is ready again. What must outlive a crash is one statement each, which SQLite makes whole or not at
//! all, and has it on disk when the statement returns (`synchronous = FULL`). There is no transaction
//! of several statements, and so none that a dropped future could leave half done.
//!
//! Other processes, such as `buildgrid dead-letters`, may [attach](EmbeddedQueue::attach) to the file
//! beside the one that takes events, which looks every second whether they have.
//!
//! [`queue`] is the handle, [`file`] what is on disk, [`take`] and [`lease`] hand events out, [`settle`]
//! keeps copies, [`keeper`] is the task that looks after the time and the file, [`letters`] the dead ones.

mod error;
mod file;
mod keeper;
mod lease;
mod letters;
mod queue;
mod results;
mod settle;
mod take;

pub use error::FileError;
pub use lease::Lease;
pub use queue::{EmbeddedQueue, FileWatch};
pub use results::Results;
pub use take::Subscription;
