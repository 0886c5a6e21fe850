//! Events through the whole worker.
