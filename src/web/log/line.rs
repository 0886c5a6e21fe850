//! One entry as it is stored: the JSON of a [`LogEntry`](crate::timeline::entry::LogEntry), its keys in
//! that order and without spaces.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::timeline::entry::{Stream, timestamp};
use crate::timeline::sink::MAX_TEXT;

/// The longest step, in bytes.
const MAX_STEP: usize = 16 << 10;
/// The longest name of a server, service or pod, in bytes.
const MAX_NAME: usize = 256;

/// A [`LogEntry`](crate::timeline::entry::LogEntry) that borrows what it can.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<'a> {
    pub seq: u64,
    #[serde(with = "timestamp")]
    pub at: OffsetDateTime,
    pub stream: Stream,
    pub step: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub server: Cow<'a, str>,
    pub service: Option<Cow<'a, str>>,
    pub pod: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub text: Cow<'a, str>,
}

impl Line<'_> {
    /// What is too long, or missing.
    pub(super) fn fault(&self) -> Option<String> {
        let long = |field: &str, text: Option<&str>, most: usize| {
            let length = text.map_or(0, str::len);
            (length > most).then(|| format!("{field} is {length} bytes long; at most {most} are taken"))
        };
        if self.server.is_empty() {
            return Some("server is empty".to_owned());
        }
        long("text", Some(&self.text), MAX_TEXT)
            .or_else(|| long("step", self.step.as_deref(), MAX_STEP))
            .or_else(|| long("server", Some(&self.server), MAX_NAME))
            .or_else(|| long("service", self.service.as_deref(), MAX_NAME))
            .or_else(|| long("pod", self.pod.as_deref(), MAX_NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::entry::LogEntry;

    #[test]
    fn is_written_as_a_log_entry_is() {
        let json = r#"{"seq":17,"at":"2026-11-23T10:15:02.123Z","stream":"stdout","step":"[2/4] RUN \"x\"","server":"w","service":null,"pod":null,"text":"a\u001b[1mé\\"}"#;
        let entry: LogEntry = serde_json::from_str(json).unwrap();
        let line: Line<'_> = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), serde_json::to_string(&line).unwrap());
        assert_eq!(serde_json::to_string(&line).unwrap(), json);
        assert!(line.fault().is_none());
    }
}
