//! Tests of cleaning: nothing harmful comes through, and nothing else is touched.

use super::*;
use proptest::prelude::*;

/// What the pieces become, as one line.
fn pieces(pieces: &[&[u8]]) -> String {
    let (mut cleaner, mut clean) = (Cleaner::default(), String::new());
    for piece in pieces {
        cleaner.push(piece, &mut clean);
    }
    cleaner.finish(&mut clean);
    clean
}

#[test]
fn only_colours_stay() {
    for (text, cleaned) in [
        ("plain\ttext", "plain\ttext"),
        ("größer 日本", "größer 日本"),
        ("\x1b[1;32mok\x1b[m", "\x1b[1;32mok\x1b[m"),
        (
            "\x1b[38;5;8ma\x1b[48;2;5;6;8mb\x1b[38:2::1:2:3mc",
            "\x1b[38;5;8ma\x1b[48;2;5;6;8mb\x1b[38:2::1:2:3mc",
        ),
        ("\x1b[8mhidden\x1b[31;5mblinks\x1b[08m", "hidden\x1b[31mblinks"),
        ("\x1b[2K\x1b[1Gnpm\x1b[?25l", "npm"),
        ("\x1b[31 mx\x1b[>4;1m", "x"),
        ("\x1b(B\x1b[mtput", "\x1b[mtput"),
        ("\x1b7\x1bcreset\x1b=", "reset"),
        ("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1bPq#0;2;0;0;0\x1b\\sixel\x1b_x\x1b\\\x1b^y\x07", "sixel"),
        ("\x1b]0;no end", "\\u{1b}]0;no end"),
        ("\x1b]0;a\x1b[31mb", "\\u{1b}]0;a\x1b[31mb"),
        ("\x1b]0;a\u{8}b\x07", "\\u{1b}]0;a\\u{8}b\\u{7}"),
        ("\x1b[31", "\\u{1b}[31"),
        ("\x1b", "\\u{1b}"),
        ("\x1b\u{e9}", "\\u{1b}\u{e9}"),
        ("a\u{202e}b\u{61c}c\u{2066}", "a\\u{202e}b\\u{61c}c\\u{2066}"),
        ("\0a\u{7f}\u{9b}31m\u{85}", "\\u{0}a\\u{7f}\\u{9b}31m\\u{85}"),
        ("a\u{2028}b\u{2029}c\rd\ne", "a\\u{2028}b\\u{2029}c\\u{d}d\\u{a}e"),
    ] {
        assert_eq!(clean(text), cleaned, "{text:?}");
        assert_eq!(pieces(&[text.as_bytes()]), cleaned, "{text:?}");
    }
}

#[test]
fn what_is_not_utf8_is_replaced() {
    assert_eq!(pieces(&[b"a\xffb\xc3"]), "a\u{fffd}b\u{fffd}");
    assert_eq!(pieces(&[b"\xc3", b"\xa9\xe2\x82", b"\xac", b"\xf0\x9f", b"x"]), "é€\u{fffd}x");
    assert_eq!(pieces(&[b"\x9b31m"]), "\u{fffd}31m");
}

#[test]
fn a_sequence_without_an_end_does_not_swallow_the_log() {
    let title = format!("\x1b]0;{}", "x".repeat(MAX_SEQUENCE));
    assert_eq!(pieces(&[title.as_bytes(), b"more"]), format!("\\u{{1b}}{}more", &title[1..]));
    let digits = format!("\x1b[{}", "1".repeat(MAX_SEQUENCE));
    assert_eq!(pieces(&[digits.as_bytes(), b"mmore"]), format!("\\u{{1b}}{}mmore", &digits[1..]));
}

#[test]
fn text_is_cut_beside_its_colours() {
    assert_eq!(edge("ab\x1b[31mcd", 4), 2);
    assert_eq!(edge("ab\x1b[31mcd", 7), 7);
    assert_eq!(edge("\x1b[31mcd", 2), 2, "a piece must not be empty");
    assert_eq!(edge("aé", 2), 1);
}

#[test]
fn colours_end_with_the_text() {
    for (text, ended) in [
        ("a", "a"),
        ("\x1b[31ma", "\x1b[31ma\x1b[0m"),
        ("\x1b[31ma\x1b[0m b", "\x1b[31ma\x1b[0m b"),
        ("\x1b[31ma\x1b[m", "\x1b[31ma\x1b[m"),
    ] {
        let mut text = text.to_owned();
        end_colours(&mut text);
        assert_eq!(text, ended);
    }
    assert_eq!(without_colours("\x1b[31ma\x1b[0m b"), "a b");
}

proptest! {
    #[test]
    fn nothing_harmful_comes_through_however_it_is_cut(
        text in "[\\x1b\\[\\]P\\\\0-9;:m\u{7}\u{8}\u{0}\u{202e}\u{2028}\u{9b}a-cé\\(]{0,60}",
        noise in proptest::collection::vec(any::<u8>(), 0..8),
        cuts in proptest::collection::vec(0_usize..80, 0..6),
    ) {
        let mut bytes = text.into_bytes();
        bytes.extend(noise.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.sort_unstable();
        cuts.insert(0, 0);
        cuts.push(bytes.len());
        let parts: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
        let cleaned = pieces(&parts);
        prop_assert_eq!(&cleaned, &pieces(&[&bytes]), "cuts change nothing");
        let plain = without_colours(&cleaned);
        prop_assert!(!plain.contains(is_hidden), "{:?}", cleaned);
        prop_assert_eq!(clean(&cleaned), cleaned.as_str(), "clean text stays as it is");
    }
}
