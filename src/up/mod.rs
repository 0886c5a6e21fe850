//! `buildgrid up`: worker, registry, timeline and queue in one process, with everything they keep under one
//! directory.
//!
//! ```text
//! <up.data_dir>/              0700
//!   up.json                   where it listens while it runs, by which commands find it
//!   tokens/worker.token       what its worker calls its timeline with
//!   tokens/local.token        what commands on this machine call it with
//!   queue/                    the queue
//!   store/                    the images
//!   timeline/                 the database of builds and logs
//!   worker/                   build directories and mirrors
//! ```

mod announcement;
mod config;
mod first_start;
mod run;

pub use announcement::Announcement;
pub use config::UpConfig;
pub use first_start::ADMIN;
pub use run::{Greeting, Listeners, adopt, adopted, queue_directory, run};
