//! How full file systems are, how full they may become, and how one that hangs is worked on.
//!
//! - `aside`: a thread for what may hang
//! - `fill`: what the kernel says of one, and what a folder takes on it
//! - `marks`: the section `disk`, and when a file system is too full
//!
//! A worker's watch over its disks is [`worker::disks`](crate::worker), what it does about them its janitor.

mod aside;
mod fill;
mod marks;

pub use aside::aside;
pub use fill::{Fill, on_disk};
pub use marks::{DiskConfig, Mark, Short};
