//! From a built image to a pullable one: names, compression, manifest, tag.

pub mod compress;
pub mod config;
pub mod manifest;
pub mod name;
mod one_at_a_time;
pub mod publisher;
