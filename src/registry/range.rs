//! The part of a blob that a client asks for (RFC 9110, 14.2).

use std::ops::Range;

use http::{HeaderMap, header};
use http_range_header::{EndPosition, RangeUnsatisfiableError, StartPosition, parse_range_header};

/// What a request asks for of so many bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// Also where it asks for several parts, or in a way that nobody knows: a server may always answer so.
    Whole,
    Part(Range<u64>),
    /// It begins after the last byte.
    Beyond,
}

pub(super) fn asked(request: &HeaderMap, length: u64) -> Asked {
    let mut lines = request.get_all(header::RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return Asked::Whole };
    let Ok(line) = line.to_str() else { return Asked::Whole };
    let ranges = match parse_range_header(line) {
        Ok(parsed) => parsed.ranges,
        Err(RangeUnsatisfiableError::ZeroSuffix) => return Asked::Beyond,
        Err(_) => return Asked::Whole,
    };
    let [range] = ranges[..] else { return Asked::Whole };
    let (start, end) = match (range.start, range.end) {
        (StartPosition::FromLast(last), _) => (length.saturating_sub(last), length),
        (StartPosition::Index(first), EndPosition::Index(last)) if last < first => return Asked::Whole,
        (StartPosition::Index(first), EndPosition::Index(last)) => {
            (first, last.saturating_add(1).min(length))
        }
        (StartPosition::Index(first), EndPosition::LastByte) => (first, length),
    };
    if start < length { Asked::Part(start..end) } else { Asked::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_part_is_answered_and_what_cannot_be_is_said() {
        for (range, length, expected) in [
            ("bytes=0-0", 10, Asked::Part(0..1)),
            ("bytes=2-5", 10, Asked::Part(2..6)),
            ("bytes=2-", 10, Asked::Part(2..10)),
            ("bytes=2-99", 10, Asked::Part(2..10)),
            ("bytes=9-18446744073709551615", 10, Asked::Part(9..10)),
            ("bytes=-3", 10, Asked::Part(7..10)),
            ("bytes=-99", 10, Asked::Part(0..10)),
            ("bytes=10-", 10, Asked::Beyond),
            ("bytes=10-12", 10, Asked::Beyond),
            ("bytes=-0", 10, Asked::Beyond),
            ("bytes=0-", 0, Asked::Beyond),
            ("bytes=-1", 0, Asked::Beyond),
            ("bytes=5-2", 10, Asked::Whole),
            ("bytes=0-1,4-5", 10, Asked::Whole),
            ("bytes=0-1,-1", 10, Asked::Whole),
            ("bytes=", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=0-99999999999999999999999", 10, Asked::Whole),
            ("lines=0-1", 10, Asked::Whole),
            ("0-1", 10, Asked::Whole),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, range.parse().unwrap())]);
            assert_eq!(asked(&headers, length), expected, "{range} of {length}");
        }
        assert_eq!(asked(&HeaderMap::new(), 10), Asked::Whole);
        let mut twice = HeaderMap::new();
        for range in ["bytes=0-1", "bytes=2-3"] {
            twice.append(header::RANGE, range.parse().unwrap());
        }
        assert_eq!(asked(&twice, 10), Asked::Whole);
    }
}
