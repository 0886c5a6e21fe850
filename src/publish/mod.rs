//! From a built image to a pullable one: names, compression, manifest, tag.

pub mod name;
