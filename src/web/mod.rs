//! The timeline service: the memory and the arbiter of builds, and the pages that show them.
//!
//! A request is judged by [`access`] (who asks, and for which namespaces) and answered by [`api`] or by
//! the pages. [`claims`] decides which worker builds what, and [`turn`] when, by the [`policy`]; [`log`] turns appended lines into compressed
//! blocks and finds lines in them again; [`follow`] is a live log, a cursor on the stored one; [`history`] removes
//! logs that are no longer kept; [`timeline`] is the Build & Deploy timeline of an app; [`images`] are what builds
//! have made; [`search`] finds any of it; [`build_form`] makes events of what people type; [`credentials`] are the registry's; [`db`] keeps everything, with one
//! writer that commits for many callers at once.

pub mod access;
mod api;
pub mod build_form;
mod claims;
mod clock;
pub mod credentials;
pub mod db;
mod follow;
pub mod history;
pub mod images;
mod live;
mod log;
pub mod pages;
pub mod policy;
mod queue;
mod refusal;
mod router;
pub mod search;
mod service;
mod site;
pub mod timeline;
mod turn;

pub use queue::Enqueuer;
pub use service::{DRAIN, Timeline, serve};
