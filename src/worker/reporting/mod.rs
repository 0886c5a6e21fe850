//! The worker's line to the timeline service: claims, and what is told of each attempt.
//!
//! A build never waits for the service: a claim has a time limit, and everything else is told by a task
//! of its own out of the files in the build directory, now or after the next start. Read [`claim`] for the
//! question before an attempt, [`telling`] for what the attempt says of itself, [`record`] for what is kept
//! of that, [`log_file`] for how its log is read, [`spool`] for how much may wait, [`reporter`] and [`steps`] for how it is told, and
//! [`reporting`] for who is telling now.

mod claim;
mod interrupt;
mod log_file;
mod presence;
mod record;
mod reporter;
#[expect(clippy::module_inception, reason = "the folder is called after its main type")]
mod reporting;
mod spool;
#[cfg(test)]
mod stand_in;
mod steps;
mod telling;

pub use claim::{Permission, Wish};
pub use interrupt::Cause;
pub use record::{Record, is_confirmed, is_unconfirmed};
pub use reporting::Reporting;
#[cfg(test)]
pub use spool::Spool;
pub use spool::SpoolShare;
pub use telling::Telling;
