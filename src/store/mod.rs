//! The store: blobs, manifests and tags in the layout of the CNCF Distribution registry.

pub mod digest;
