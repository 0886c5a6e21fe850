//! The client of the timeline service: for the worker, which claims, reports and sends logs, and for the
//! commands that look at builds.
//!
//! A call is made once; what may be tried again, the caller reads from [`CallError`] and decides how long
//! it has time for that. [`api`] is how a call is made, [`worker`] the three calls of a worker.

mod api;
mod error;
mod worker;

pub use api::TimelineClient;
pub use error::CallError;
pub use worker::Lines;
