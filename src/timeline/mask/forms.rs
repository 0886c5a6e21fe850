//! The forms in which a secret may stand in a log, as they are looked for: line by line, since a log's line
//! never holds more than one of a secret's.
//!
//! - the line itself, and with `+` for a blank, as forms are encoded;
//! - as in a JSON string, and as Go's encoder escapes it for HTML;
//! - in hex, with either case of the digits;
//! - in base64, with either alphabet, wherever the line stands in what was encoded: of its three places in a
//!   group of three bytes, each time the digits that do not depend on what stands beside it;
//! - the whole secret in base64, alone, in lines of 64 and 76 digits, as `base64` and `openssl` write it.
//!
//! Each is found percent-encoded, too ([`Decoded`](super::seen::Decoded)). Characters that nobody sees are in none of
//! them, since they are passed over in the text ([`Seen`]).

use std::collections::BTreeSet;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD, Encoding, HEXLOWER, HEXUPPER};

use super::seen::Seen;
use super::{MIN_LINE, MIN_SECRET};
use crate::timeline::escape;

/// What some editors put before a text, and those who read it do not.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The lengths of lines in which base64 is written (RFC 2045 6.8, RFC 7468 3).
const WRAPPED: [usize; 2] = [76, 64];

/// A secret's forms, each as it reads in clean text.
#[derive(Debug, Default)]
pub(super) struct Forms {
    pub forms: BTreeSet<String>,
    pub is_too_short: bool,
    /// Of a secret of several lines: those that are too short.
    pub short_lines: usize,
}

pub(super) fn forms(secret: &[u8]) -> Forms {
    let mut found = Forms::default();
    let secret = secret.strip_prefix(BYTE_ORDER_MARK).unwrap_or(secret).trim_ascii_end();
    let lines = secret.split(|byte| matches!(byte, b'\n' | b'\r'));
    let lines: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect();
    let least = if lines.len() > 1 { MIN_LINE } else { MIN_SECRET };
    for line in &lines {
        let clean = escape::clean(&String::from_utf8_lossy(line)).into_owned();
        match line.len().min(Seen::of(&clean).text().len()) < least {
            true => found.short_lines += 1,
            false => add_line(line, &mut found.forms),
        }
    }
    if found.forms.is_empty() {
        return Forms { is_too_short: true, ..Forms::default() };
    }
    for width in WRAPPED {
        let encoded = [&BASE64, &BASE64URL].map(|alphabet| alphabet.encode(secret));
        // A single line that is not wrapped is one of a line's own forms.
        for encoded in encoded.iter().filter(|encoded| encoded.len() > width || lines.len() > 1) {
            let digits = &encoded[..inner(0, secret.len()).1];
            let pieces = digits.as_bytes().chunks(width).filter(|piece| piece.len() >= MIN_LINE);
            found.forms.extend(pieces.map(|piece| String::from_utf8_lossy(piece).into_owned()));
        }
    }
    found
}

fn add_line(line: &[u8], forms: &mut BTreeSet<String>) {
    let text = String::from_utf8_lossy(line);
    let mut add = |form: &str| {
        // In the log it will have been cleaned. What then reads like a hidden character that is written out need
        // not have been one.
        let clean = escape::clean(form);
        let read = [escape::without_colours(&clean).into_owned(), Seen::of(&clean).text().to_owned()];
        forms.extend(read.into_iter().filter(|form| form.len() >= MIN_SECRET));
    };
    add(&text);
    add(&text.replace(' ', "+"));
    if let Ok(json) = serde_json::to_string(&text) {
        let inside = &json[1..json.len() - 1];
        add(inside);
        add(&inside.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"));
    }
    for alphabet in [HEXLOWER, HEXUPPER, BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD] {
        add(&alphabet.encode(line));
    }
    for alphabet in [BASE64_NOPAD, BASE64URL_NOPAD] {
        for before in 0..3 {
            add(&encoded(&alphabet, line, before));
        }
    }
}

/// The digits that do not depend on what stands beside `line`, with `before` bytes of a group before it.
fn encoded(alphabet: &Encoding, line: &[u8], before: usize) -> String {
    let digits = alphabet.encode(&[&[0; 2][..before], line].concat());
    let (first, end) = inner(before, line.len());
    digits[first..end].to_owned()
}

/// Which digits encode bits of `length` bytes alone, after `before` other bytes.
fn inner(before: usize, length: usize) -> (usize, usize) {
    let first = (before * 8).div_ceil(6);
    (first, ((before + length) * 8 / 6).max(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(secret: &str) -> Vec<String> {
        forms(secret.as_bytes()).forms.into_iter().collect()
    }

    #[test]
    fn a_word_has_itself_and_base64() {
        // Of what base64 makes of "hunter2", "?hunter2" and "??hunter2", the edges depend on what stands there.
        let expected = [
            "68756E74657232",
            "68756e74657232",
            "aHVudGVyM",
            "aHVudGVyMg",
            "aHVudGVyMg==",
            "h1bnRlcj",
            "hunter2",
            "odW50ZXIy",
        ];
        assert_eq!(all("hunter2\n"), expected);
    }

    #[test]
    fn whatever_is_encoded_beside_it_the_inner_digits_stay() {
        let secret = "correct horse+battery/staple?";
        for before in ["", "a", "bc", "def", "ghij"] {
            for after in ["", "x", "yz", "\n"] {
                for alphabet in [BASE64, BASE64URL_NOPAD] {
                    let encoded = alphabet.encode(format!("{before}{secret}{after}").as_bytes());
                    let found =
                        all(secret).into_iter().filter(|form| encoded.contains(form)).map(|f| f.len());
                    assert!(found.max() >= Some(secret.len() * 4 / 3 - 2), "{encoded}");
                }
            }
        }
    }

    #[test]
    fn forms_json_and_hex_have_their_own() {
        let found = all("a b/\u{e9}\"<k>(1)");
        for form in [
            "a+b/\u{e9}\"<k>(1)",
            "6120622fc3a9223c6b3e283129",
            "6120622FC3A9223C6B3E283129",
            "a b/\u{e9}\\\"<k>(1)",
            "a b/\u{e9}\\\"\\u003ck\\u003e(1)",
        ] {
            assert!(found.contains(&form.to_owned()), "{form} is not in {found:?}");
        }
    }

    #[test]
    fn what_is_short_is_told() {
        let short = forms(b"abc\n");
        assert!(short.is_too_short && short.forms.is_empty());
        assert!(forms(b"").is_too_short);
        let lines = forms(b"{\n  \"key\": \"0123456789\"\n}\n");
        assert_eq!((lines.is_too_short, lines.short_lines), (false, 2));
        assert!(lines.forms.contains("\"key\": \"0123456789\""));
        assert!(forms(b"a\nb\nc").is_too_short);
        assert!(forms(b"\0a\x07b\0c").is_too_short, "of which three characters are seen");
    }

    #[test]
    fn what_nobody_sees_is_in_no_form() {
        let found = all("\u{feff}hun\u{200b}ter2\0");
        assert!(found.contains(&"hunter2".to_owned()), "{found:?}");
        // But it may have been written like that.
        let found = all("hun\\u{0}ter2");
        assert!(
            ["hunter2", "hun\\u{0}ter2"].iter().all(|form| found.contains(&(*form).to_owned())),
            "{found:?}"
        );
    }

    #[test]
    fn a_key_is_found_in_what_base64_writes_of_its_file() {
        let line = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQDJ0123456789ab";
        let key = format!("-----BEGIN PRIVATE KEY-----\n{line}\n{line}\nAQ==\n-----END PRIVATE KEY-----\n");
        let found = all(&key);
        for width in WRAPPED {
            let encoded = BASE64.encode(key.as_bytes());
            for piece in encoded.as_bytes().chunks(width).rev().skip(1) {
                let piece = String::from_utf8_lossy(piece).into_owned();
                assert!(found.contains(&piece), "{piece} is not in {found:?}");
            }
        }
    }
}
