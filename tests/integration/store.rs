//! The store, also through the stock registry.
