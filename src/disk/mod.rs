//! How full file systems are, and how full they may become.
//!
//! - `fill`: what the kernel says of one, and what a folder takes on it
//! - `marks`: the section `disk`, and when a file system is too full
//!
//! A worker's watch over its disks is [`worker::disks`](crate::worker), what it does about them its janitor.

mod fill;
mod marks;

pub use fill::{Fill, on_disk};
pub use marks::{DiskConfig, Mark, Short};
