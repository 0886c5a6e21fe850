//! Logs: from appended lines to compressed blocks, and from blocks back to the lines that a reader wants.
//!
//! A log is kept as the lines of [`line`] in one form, so that a condition on a field is a search for
//! bytes; [`batch`] reads what was appended, [`block`] packs and summarises, [`filter`] tells which
//! blocks and which lines match, [`read`] walks over a stored log; [`outline`] is what a page is laid out by.

pub(super) mod batch;
pub(super) mod block;
pub(super) mod filter;
mod line;
pub(super) mod outline;
pub(super) mod read;
