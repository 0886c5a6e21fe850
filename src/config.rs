//! The configuration: one file for every command, composed of the stages' own `Config` structs.

use std::fmt::Display;

/// Collects faults, so that all of them are reported at once.
#[derive(Debug, Default)]
pub struct Faults(Vec<(String, String)>);

impl Faults {
    /// Notes that `key` (`section.key`) has a value that cannot be used.
    pub fn add(&mut self, key: &str, reason: impl Display) {
        self.0.push((key.to_owned(), reason.to_string()));
    }
}
