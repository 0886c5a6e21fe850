//! Clean text as secrets are looked for in it, and where in it they are when they are found.

use std::borrow::Cow;
use std::ops::Range;

use crate::timeline::escape;

/// Clean text without what is no part of its words: colours, hidden characters that are written out, characters
/// that take no room.
pub(super) struct Seen<'a> {
    text: Cow<'a, str>,
    taken: Taken,
}

/// A text's percent-encoding decoded, whichever characters are encoded.
pub(super) struct Decoded {
    bytes: Vec<u8>,
    taken: Taken,
}

/// What was taken out: before which place of what is left, and how many bytes up to there.
#[derive(Default)]
struct Taken(Vec<(usize, usize)>);

impl Taken {
    fn add(&mut self, place: usize, bytes: usize) {
        let before = self.0.last().map_or(0, |last| last.1);
        self.0.push((place, before + bytes));
    }

    /// Where what stands at `place` stood, with all that was taken out.
    fn before(&self, place: usize) -> usize {
        let before = self.0.partition_point(|&(taken, _)| taken <= place);
        place + before.checked_sub(1).map_or(0, |last| self.0[last].1)
    }
}

impl<'a> Seen<'a> {
    pub fn of(clean: &'a str) -> Self {
        let mut seen = Self { text: Cow::Borrowed(clean), taken: Taken::default() };
        let (mut text, mut done, mut at) = (String::new(), 0, 0);
        while let Some(next) = clean.as_bytes()[at..].iter().position(may_be_beside_words) {
            at += next;
            let length = escape::beside_words(&clean[at..]);
            if length > 0 {
                text.push_str(&clean[done..at]);
                seen.taken.add(text.len(), length);
                done = at + length;
            }
            at = clean.ceil_char_boundary(at + length.max(1));
        }
        if done > 0 {
            text.push_str(&clean[done..]);
            seen.text = Cow::Owned(text);
        }
        seen
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a piece of it, which is not empty, stands in the clean text.
    pub fn place(&self, seen: &Range<usize>) -> Range<usize> {
        // What was taken out behind it is no part of it.
        self.taken.before(seen.start)..self.taken.before(seen.end - 1) + 1
    }
}

fn may_be_beside_words(byte: &u8) -> bool {
    matches!(byte, b'\x1b' | b'\\' | 0x80..)
}

impl Decoded {
    /// `None` where nothing is encoded.
    pub fn of(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let encoded = |at: usize| match text.get(at + 1..at + 3) {
            Some(&[high, low]) => Some(hex(high)? << 4 | hex(low)?),
            _ => None,
        };
        let mut decoded = Self { bytes: Vec::new(), taken: Taken::default() };
        let mut done = 0;
        for at in memchr::memchr_iter(b'%', text) {
            // Not one that is part of what was decoded.
            let Some(byte) = encoded(at).filter(|_| at >= done) else { continue };
            decoded.bytes.extend_from_slice(&text[done..at]);
            decoded.bytes.push(byte);
            done = at + "%00".len();
            decoded.taken.add(decoded.bytes.len(), "00".len());
        }
        decoded.bytes.extend_from_slice(&text[done..]);
        (done > 0).then_some(decoded)
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where a piece of it stands in the text.
    pub fn place(&self, decoded: &Range<usize>) -> Range<usize> {
        self.taken.before(decoded.start)..self.taken.before(decoded.end)
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_seen_without_what_stands_beside_them() {
        for (clean, seen) in [
            ("plain", "plain"),
            ("a\\b \\u{41} \\u{} \\u{0", "a\\b \\u{41} \\u{} \\u{0"),
            ("h\x1b[31mu\\u{0}n\\u{200b}t\u{200d}e\u{fe0f}r2", "hunter2"),
            ("gr\u{fc}n \u{e0041}x", "gr\u{fc}n x"),
        ] {
            assert_eq!(Seen::of(clean).text(), seen, "{clean:?}");
        }
        let clean = "\\u{0}a\\u{0}b\\u{0}";
        assert_eq!(&clean[Seen::of(clean).place(&(0..2))], "a\\u{0}b");
        assert_eq!(&clean[Seen::of(clean).place(&(1..2))], "b");
    }

    #[test]
    fn whatever_is_encoded_is_decoded() {
        assert!(Decoded::of("100 % of it, %zz and %4").is_none());
        let text = "x%41%2db%C3%A9%%20y%2";
        let decoded = Decoded::of(text).unwrap();
        assert_eq!(decoded.bytes(), "xA-b\u{e9}% y%2".as_bytes());
        assert_eq!(&text[decoded.place(&(1..4))], "%41%2db");
        assert_eq!(&text[decoded.place(&(0..3))], "x%41%2d");
        assert_eq!(&text[decoded.place(&(4..6))], "%C3%A9");
    }
}
