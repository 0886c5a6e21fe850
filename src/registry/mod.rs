//! The read-only registry: the pull side of the OCI distribution specification over a store.
