//! The section `logging`.

use serde::{Deserialize, Serialize};

use crate::config::Faults;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoggingConfig {
    /// What is logged: `error`, `warn`, `info`, `debug` or `trace`, or directives as
    /// `info,buildgrid::source=debug`.
    pub level: String,
    /// `auto`, `journald`, `text` or `json`. `auto` is journald when systemd started the program and
    /// its output goes to the journal, and text otherwise.
    pub format: Format,
    /// Whether the output of builds is written to the log, too, each line with its build's id.
    pub build_output: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Auto,
    Journald,
    Text,
    Json,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Auto, build_output: true }
    }
}

impl LoggingConfig {
    pub fn check(&self, faults: &mut Faults) {
        if let Err(error) = super::logging::filter(&self.level) {
            faults.add("logging.level", format_args!("{:?} is not a level: {error}", self.level));
        }
    }
}
