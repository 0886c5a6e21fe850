//! Fetching from a real git server over smart HTTP.
