//! The log entry: one line of a build's log, the same on disk, on the wire and in the service.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;
use utoipa::ToSchema;

/// RFC 3339 in UTC with milliseconds, the one way in which BuildGrid writes times.
const TIMESTAMP: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

time::serde::format_description!(rfc3339_millis, PrimitiveDateTime, TIMESTAMP);

/// Serde for UTC times in the form `2026-11-23T10:15:02.123Z`.
pub mod timestamp {
    use serde::{Deserializer, Serializer};
    use time::{OffsetDateTime, PrimitiveDateTime, UtcOffset};

    pub fn serialize<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
        let utc = at.to_offset(UtcOffset::UTC);
        super::rfc3339_millis::serialize(&PrimitiveDateTime::new(utc.date(), utc.time()), serializer)
    }

    /// The form in which times are written, for text outside of JSON.
    pub fn to_string(at: OffsetDateTime) -> String {
        let utc = at.to_offset(UtcOffset::UTC);
        utc.format(super::TIMESTAMP).unwrap_or_default()
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<OffsetDateTime, D::Error> {
        super::rfc3339_millis::deserialize(d).map(PrimitiveDateTime::assume_utc)
    }
}

/// Serde for a time that may be absent, in the form of [`timestamp`].
pub mod optional_timestamp {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use time::OffsetDateTime;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct At(#[serde(with = "super::timestamp")] OffsetDateTime);

    pub fn serialize<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(At).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<OffsetDateTime>, D::Error> {
        Ok(Option::<At>::deserialize(d)?.map(|At(at)| at))
    }
}

/// Where a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    Stdout,
    Stderr,
    /// BuildGrid's own words about the build: a stage begins, a step is cached, an image is published.
    Status,
}

/// One line. `seq` counts from 0 within an attempt, without a gap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    pub seq: u64,
    #[serde(with = "timestamp")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    pub stream: Stream,
    /// The step that wrote it, as BuildKit names it: `[2/4] RUN make`.
    pub step: Option<String>,
    /// The worker or node that wrote it.
    pub server: String,
    /// The service the line belongs to; `None` for a build's lines, which belong to every service of the build.
    pub service: Option<String>,
    pub pod: Option<String>,
    /// The text without its line end: valid UTF-8, bounded in length.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn is_one_json_line_of_the_documented_shape() {
        let entry = LogEntry {
            seq: 17,
            at: datetime!(2026-11-23 10:15:02.1234 UTC),
            stream: Stream::Stdout,
            step: Some("[2/4] RUN make".into()),
            server: "worker-1".into(),
            service: None,
            pod: None,
            text: "cc -o shop".into(),
        };
        let json = serde_json::to_string(&entry).unwrap();
        assert_eq!(
            json,
            r#"{"seq":17,"at":"2026-11-23T10:15:02.123Z","stream":"stdout","step":"[2/4] RUN make","server":"worker-1","service":null,"pod":null,"text":"cc -o shop"}"#
        );
        let back: LogEntry = serde_json::from_str(&json).unwrap();
        assert_eq!(back.at, datetime!(2026-11-23 10:15:02.123 UTC));
    }
}
