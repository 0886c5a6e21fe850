//! From a built image to a pullable one: names, compression, manifest, tag.

pub mod compress;
pub mod config;
pub mod manifest;
pub mod name;
pub mod publisher;
