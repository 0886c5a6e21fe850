//! The client of the timeline service: for the worker, which claims, reports and sends logs, and for the
//! commands that look at builds.
//!
//! A call is made once; what may be tried again, the caller reads from [`CallError`] and decides how long
//! it has time for that. [`api`] is how a call is made, [`worker`] the three calls of a worker, [`reading`]
//! those of people's commands; [`following`] alone comes back by itself, for as long as a build runs.

mod api;
mod error;
mod following;
mod reading;
mod worker;

pub use api::TimelineClient;
pub use error::CallError;
pub use following::{PATIENCE, Told};
pub use reading::{BuildsFilter, LogFilter, MAX_PAGE};
pub use worker::Lines;
