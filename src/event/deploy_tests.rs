//! Tests of the deploy event.
