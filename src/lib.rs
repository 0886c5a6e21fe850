//! BuildGrid turns the commit of a deploy event into a pullable Docker image.
//!
//! ```text
//! deploy event ─► queue ─► slot ─► claim ─► pipeline ───────────────────────────────────┐
//!                                           │ source:  fetch commit → context           │
//!                                           │ build:   context → image on the engine    │
//!                                           │ publish: image → blobs, manifest, tag last│─► result event ─► ack
//!                                           └────────── log lines ─► build directory ◄──┘
//! store ◄─ publish       store ─► registry ─► docker pull
//! ```
//!
//! Follow one event: [`event`] reads it, [`queue`] brings it, [`worker`] takes it into a slot and
//! claims it, [`pipeline`] is the whole way in one function, with the stages [`source`], [`build`] and
//! [`publish`]; [`store`] keeps what was published, and [`registry`] serves it. [`timeline`] is the
//! log of a build and how the service that keeps it is called, [`web`] is that service with its pages, [`up`]
//! all of it in one process. [`disk`] knows how full the disks are, [`telemetry`] is what operators see, [`cli`] the commands, [`config`] the file
//! they read.

// So that unit tests may share files with the suites of `tests`.
#[cfg(test)]
extern crate self as buildgrid;

pub mod build;
pub mod cli;
pub mod config;
pub mod disk;
pub mod event;
pub mod lock;
pub mod network;
pub mod permit;
pub mod pipeline;
pub mod publish;
pub mod queue;
pub mod registry;
pub mod serving;
pub mod source;
pub mod store;
pub mod telemetry;
pub mod timeline;
pub mod up;
pub mod web;
pub mod worker;
