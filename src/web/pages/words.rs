//! Ages, durations and sizes in the words of the pages. Pure: what is now is handed in.
//!
//! Ages are relative, with the absolute time (UTC, which is said) beside or behind them; sizes count in
//! thousands.

use time::format_description::FormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, UtcOffset};

use crate::timeline::entry::timestamp;

const ABSOLUTE: &[FormatItem<'static>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
const CLOCK: &[FormatItem<'static>] = format_description!("[hour]:[minute]:[second] UTC");
const MINUTE: &[FormatItem<'static>] = format_description!("[hour]:[minute]");
const DAY_OF_YEAR: &[FormatItem<'static>] = format_description!("[day padding:none] [month repr:long]");
const DAY: &[FormatItem<'static>] = format_description!("[day padding:none] [month repr:short] [year]");

/// A point in time, as a `<time>` element shows it.
pub(super) struct Moment {
    /// For programs: RFC 3339.
    pub(super) iso: String,
    /// For the title: `2026-11-23 10:15:02 UTC`.
    pub(super) absolute: String,
    /// `27 min ago`
    pub(super) age: String,
    /// `10:02:14 UTC`, with the day before it unless that is today.
    pub(super) clock: String,
    /// `10:02`
    pub(super) minute: String,
}

impl Moment {
    pub(super) fn new(at: OffsetDateTime, now: OffsetDateTime) -> Self {
        let (at, now) = (at.to_offset(UtcOffset::UTC), now.to_offset(UtcOffset::UTC));
        let clock = match at.date() == now.date() {
            true => written(at, CLOCK),
            false => format!("{}, {}", written(at, DAY), written(at, CLOCK)),
        };
        Self {
            iso: timestamp::to_string(at),
            absolute: written(at, ABSOLUTE),
            age: age(at, now),
            clock,
            minute: written(at, MINUTE),
        }
    }
}

/// `3 Sep 2026`
pub(super) fn day(at: OffsetDateTime) -> String {
    written(at.to_offset(UtcOffset::UTC), DAY)
}

fn written(at: OffsetDateTime, format: &[FormatItem<'static>]) -> String {
    at.format(format).unwrap_or_default()
}

/// `just now`, `40 s ago`, `14 min ago`, `2 h ago`, `yesterday`, `3 days ago`, `3 Sep 2026`.
fn age(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let past = now - at;
    let days = (now.date() - at.date()).whole_days();
    match past.whole_seconds() {
        // The clocks of machines differ a little; a negative age is none.
        ..10 => "just now".to_owned(),
        seconds @ 10..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", past.whole_minutes()),
        3600..86_400 => format!("{} h ago", past.whole_hours()),
        _ if days == 1 => "yesterday".to_owned(),
        _ if days < 30 => format!("{days} days ago"),
        _ => written(at, DAY),
    }
}

/// `Today, 23 November`, `Yesterday, 22 November`, `21 November`, `3 Sep 2025`; of UTC.
pub(super) fn day_heading(at: OffsetDateTime, now: OffsetDateTime) -> String {
    let (at, now) = (at.to_offset(UtcOffset::UTC), now.to_offset(UtcOffset::UTC));
    match (now.date() - at.date()).whole_days() {
        0 => format!("Today, {}", written(at, DAY_OF_YEAR)),
        1 => format!("Yesterday, {}", written(at, DAY_OF_YEAR)),
        _ if at.year() == now.year() => written(at, DAY_OF_YEAR),
        _ => written(at, DAY),
    }
}

/// `48 s`, `1 m 05 s`, `2 h 07 m`.
pub(super) fn duration(duration: Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds / 60 % 60),
    }
}

/// As [`duration`], of a number of seconds as the API gives it.
pub(super) fn seconds(seconds: f64) -> String {
    duration(Duration::checked_seconds_f64(seconds).unwrap_or_default())
}

/// As [`duration`], in tenths below a minute: for the lines of a log.
pub(super) fn offset(since: Duration) -> String {
    match since.whole_milliseconds().max(0) {
        millis @ 0..59_950 => format!("{:.1} s", millis as f64 / 1000.0),
        _ => duration(since + Duration::milliseconds(50)),
    }
}

/// `93 B`, `2.1 kB`, `131 kB`, `98.7 MB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "kB", "MB", "GB", "TB"].into_iter().peekable();
    while let Some(unit) = units.next() {
        // Beyond, the rounded figure would have four digits.
        if value < 999.5 || units.peek().is_none() {
            return match unit {
                "B" => format!("{value:.0} B"),
                "kB" if value >= 99.95 => format!("{value:.0} kB"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit takes every size")
}

/// `1,204`
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut written = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            written.push(',');
        }
        written.push(digit);
    }
    written
}

/// `1 line`, `1,204 lines`
pub(super) fn lines(count: u64) -> String {
    match count {
        1 => "1 line".to_owned(),
        _ => format!("{} lines", thousands(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn ages_are_relative() {
        let now = datetime!(2026-11-23 10:30:00 UTC);
        for (at, words) in [
            (datetime!(2026-11-23 10:30:04 UTC), "just now"),
            (datetime!(2026-11-23 10:29:51 UTC), "just now"),
            (datetime!(2026-11-23 10:29:20 UTC), "40 s ago"),
            (datetime!(2026-11-23 10:16:00 UTC), "14 min ago"),
            (datetime!(2026-11-23 09:30:01 UTC), "59 min ago"),
            (datetime!(2026-11-23 08:00:00 UTC), "2 h ago"),
            (datetime!(2026-11-22 10:31:00 UTC), "23 h ago"),
            (datetime!(2026-11-22 01:00:00 UTC), "yesterday"),
            (datetime!(2026-11-21 23:00:00 UTC), "2 days ago"),
            (datetime!(2026-09-03 10:00:00 UTC), "3 Sep 2026"),
        ] {
            assert_eq!(age(at, now), words, "{at}");
        }
    }

    #[test]
    fn moments_say_their_zone_and_their_day() {
        let now = datetime!(2026-11-23 10:30:00 UTC);
        let moment = Moment::new(datetime!(2026-11-23 11:02:14.5 +1), now);
        assert_eq!(moment.iso, "2026-11-23T10:02:14.500Z");
        assert_eq!(moment.absolute, "2026-11-23 10:02:14 UTC");
        assert_eq!(moment.clock, "10:02:14 UTC");
        assert_eq!(Moment::new(datetime!(2026-11-22 23:59 UTC), now).clock, "22 Nov 2026, 23:59:00 UTC");
    }

    #[test]
    fn durations_have_two_parts_at_most() {
        for (seconds, words) in [
            (-3.0, "0 s"),
            (0.9, "0 s"),
            (48.0, "48 s"),
            (60.0, "1 m 00 s"),
            (108.9, "1 m 48 s"),
            (1266.0, "21 m 06 s"),
            (7620.0, "2 h 07 m"),
        ] {
            assert_eq!(duration(Duration::seconds_f64(seconds)), words);
        }
        for (millis, words) in [(0, "0.0 s"), (14_149, "14.1 s"), (59_949, "59.9 s"), (59_960, "1 m 00 s")] {
            assert_eq!(offset(Duration::milliseconds(millis)), words);
        }
    }

    #[test]
    fn sizes_count_in_thousands() {
        for (bytes, words) in [
            (93, "93 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (2_100, "2.1 kB"),
            (131_072, "131 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (98_700_000, "98.7 MB"),
            (310_500_000, "310.5 MB"),
            (5_300_000_000, "5.3 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), words);
        }
    }

    #[test]
    fn counts_are_grouped() {
        for (count, words) in [
            (0, "0 lines"),
            (1, "1 line"),
            (999, "999 lines"),
            (1204, "1,204 lines"),
            (1234567, "1,234,567 lines"),
        ] {
            assert_eq!(lines(count), words);
        }
    }
}
