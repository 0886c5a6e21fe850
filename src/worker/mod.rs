//! The worker daemon: deliveries into slots, each claimed, built, settled, and acked last.
//!
//! Read [`daemon`] for start and drain, [`intake`] for the slots, [`delivery`] for what happens to a
//! delivery, [`settling`] for what is kept and told of an outcome, [`attempt`] for one run of the pipeline, [`build_directory`] for what survives a crash,
//! [`ends`] for what all workers know of an event's end, [`log_writer`] for what is kept of a log, [`secrets`] for what must not stand in it, [`reporting`] for what the
//! timeline service is asked and told, [`board`] for how it is known that slots move, [`disks`] for the watch
//! over the disks and [`janitor`] for what is removed.

mod arbitration;
pub mod attempt;
mod board;
pub mod build_directory;
mod build_log;
pub mod claims;
pub mod config;
mod credentials;
mod credentials_dir;
pub mod daemon;
mod delivery;
mod disks;
mod ends;
mod gate;
mod intake;
pub mod janitor;
pub mod keeper;
mod log_writer;
pub mod pause;
mod pull_login;
mod report;
mod reporting;
pub mod secrets;
mod settling;
mod upkeep;
