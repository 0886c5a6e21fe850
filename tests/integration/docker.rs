//! Builds on a real Docker engine.
