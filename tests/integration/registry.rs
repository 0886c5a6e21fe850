//! The registry against raw HTTP, docker and skopeo.
