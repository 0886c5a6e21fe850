//! Why there is no image, as it is shown at the end.

use crate::telemetry::printable::printable;

/// The end of a build that has none of an image. What it says may come from anywhere.
pub struct FailedBuild<'a> {
    pub step: Option<&'a str>,
    /// Where the step stands in the repository.
    pub location: Option<&'a str>,
    /// The step's last lines.
    pub excerpt: &'a [String],
    pub reason: &'a str,
    /// What may be tried.
    pub advice: Option<&'a str>,
}

impl<'a> FailedBuild<'a> {
    /// One of which only the reason is known.
    pub fn of(reason: &'a str) -> Self {
        Self { step: None, location: None, excerpt: &[], reason, advice: None }
    }
}

/// The location of a step, to stand behind its name.
pub fn at(location: Option<&str>) -> String {
    location.map(|location| format!(" ({})", printable(location))).unwrap_or_default()
}
