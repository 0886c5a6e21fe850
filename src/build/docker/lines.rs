//! From a step's output, in whatever pieces it comes, to lines that may be shown: pure and bounded.

use crate::timeline::escape::Cleaner;
use crate::timeline::mask::{Mask, Shown};

/// The longest line held back, in bytes; a longer one goes on in pieces.
pub(super) const MAX_LINE: usize = crate::timeline::sink::MAX_TEXT;

/// Joins the pieces of one output stream into lines. Of a line that was overwritten with carriage
/// returns, as progress bars do, the last state remains. A line is cleaned as it comes and masked when it is
/// whole, so that neither the edges of pieces nor what is removed or overwritten can take a secret apart.
#[derive(Debug, Default)]
pub(super) struct Lines {
    mask: Mask,
    cleaner: Cleaner,
    line: String,
    /// What it has overwritten, as far as a secret can reach from there.
    overwritten: String,
    /// A carriage return came last: what follows overwrites the line, unless it is a line feed.
    returned: bool,
}

impl Lines {
    pub(super) fn new(mask: Mask) -> Self {
        Self { mask, ..Self::default() }
    }

    /// Takes the next piece, and hands each line that is complete to `emit`.
    pub(super) fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Shown)) {
        while let Some(position) = memchr::memchr2(b'\n', b'\r', bytes) {
            self.append(&bytes[..position], emit);
            self.cleaner.finish(&mut self.line);
            if bytes[position] == b'\n' {
                self.returned = false;
                self.end(emit);
            } else {
                self.returned = true;
            }
            bytes = &bytes[position + 1..];
        }
        self.append(bytes, emit);
    }

    /// Hands over a last line that has no end.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Shown)) {
        self.returned = false;
        self.cleaner.finish(&mut self.line);
        if !self.line.is_empty() {
            self.end(emit);
        }
    }

    fn end(&mut self, emit: &mut impl FnMut(Shown)) {
        let line = std::mem::take(&mut self.line);
        self.mask.masked_after(&self.overwritten, line).split(MAX_LINE).for_each(emit);
        self.overwritten.clear();
    }

    fn append(&mut self, bytes: &[u8], emit: &mut impl FnMut(Shown)) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.overwrite();
        }
        for piece in bytes.chunks(MAX_LINE) {
            self.cleaner.push(piece, &mut self.line);
            self.cut(emit);
        }
    }

    fn overwrite(&mut self) {
        self.overwritten.push_str(&self.line);
        self.line.clear();
        let most = self.mask.reach();
        // Not each time: a progress bar is overwritten often.
        if self.overwritten.len() > 2 * most {
            let begin = self.overwritten.ceil_char_boundary(self.overwritten.len() - most);
            self.overwritten.drain(..begin);
        }
    }

    /// Hands over the beginning of a line that is too long, as much as is not part of a secret.
    fn cut(&mut self, emit: &mut impl FnMut(Shown)) {
        let most = MAX_LINE + self.mask.reach();
        while self.line.len() > most {
            let edge = self.mask.edge(&self.overwritten, &self.line, MAX_LINE);
            let rest = self.line.split_off(edge);
            self.end(emit);
            self.line = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        masked(&Mask::none(), pieces)
    }

    fn masked(mask: &Mask, pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::new(mask.clone());
        for piece in pieces {
            lines.push(piece, &mut |line| out.push(line.to_string()));
        }
        lines.finish(&mut |line| out.push(line.to_string()));
        out
    }

    /// A line without the hidden characters that are written out in it, and those that join others.
    fn words_of(line: &str) -> String {
        ["\\u{0}", "\\u{7}", "\\u{8}", "\\u{200b}", "\u{200d}", "\\u{feff}", "\\u{ad}"]
            .iter()
            .fold(line.to_owned(), |line, hidden| line.replace(hidden, ""))
    }

    fn mask(secrets: &[&str]) -> Mask {
        Mask::new(secrets.iter().map(|secret| ("s", secret.as_bytes()))).unwrap().0
    }

    #[test]
    fn joins_lines_over_the_edges_of_pieces() {
        assert_eq!(lines(&[b"he", b"llo\nwor", b"ld"]), ["hello", "world"]);
        assert_eq!(lines(&[b"a\n\n", b"\nb\n"]), ["a", "", "", "b"]);
        assert_eq!(lines(&[b""]), [""; 0]);
        assert_eq!(lines(&[&"grün".as_bytes()[..3], &"grün".as_bytes()[3..]]), ["grün"]);
    }

    #[test]
    fn keeps_the_last_state_of_a_progress_bar() {
        assert_eq!(lines(&[b" 10%\r", b" 20%\r", b"100%\n", b"next\n"]), ["100%", "next"]);
        assert_eq!(lines(&[b"100%\r", b"\nnext"]), ["100%", "next"]);
        assert_eq!(lines(&[b"dos\r\nlines\r\r\n"]), ["dos", "lines"]);
        assert_eq!(lines(&[b"50%\r60%\r"]), ["60%"]);
    }

    #[test]
    fn replaces_what_is_not_utf8() {
        assert_eq!(lines(&[b"a\xffb\n"]), ["a\u{fffd}b"]);
    }

    #[test]
    fn long_lines_go_on_in_pieces_that_split_no_character() {
        let text = format!("a{}", "é".repeat(MAX_LINE * 2));
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(1000).collect();
        let out = lines(&pieces);
        assert!(out.iter().all(|piece| piece.len() <= MAX_LINE && !piece.contains('\u{fffd}')));
        assert_eq!(out.concat(), text);
        let noise = vec![0x80; MAX_LINE + 10];
        assert_eq!(lines(&[&noise]).concat().chars().count(), noise.len());
    }

    #[test]
    fn a_long_progress_bar_takes_no_memory() {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for _ in 0..10_000 {
            lines.push(&[b"#".repeat(80), b"\r".to_vec()].concat(), &mut |line| out.push(line));
        }
        assert!(lines.line.capacity() < 1024 && lines.overwritten.capacity() < MAX_LINE);
        assert_eq!(out, []);
    }

    #[test]
    fn a_line_of_100_mib_takes_little_memory_and_is_split_between_characters() {
        let (mut out, mut bytes, mut longest) = (0, 0, 0);
        let mut lines = Lines::new(mask(&["hunter2"]));
        let piece = "é€\u{1f980} hunter2 \x1b[31m".to_owned() + &"x".repeat(10_000);
        let mut count = |line: Shown| {
            assert!(!line.contains("hunter") && !line.contains('\u{fffd}') && line.len() <= MAX_LINE);
            bytes += line.len();
            out += 1;
        };
        let pieces = (100 << 20) / piece.len();
        for n in 0..pieces {
            // The edges of the pieces go through everything.
            let edge = n % piece.len();
            lines.push(&piece.as_bytes()[..edge], &mut count);
            lines.push(&piece.as_bytes()[edge..], &mut count);
            longest = longest.max(lines.line.capacity());
        }
        lines.finish(&mut count);
        assert!(longest < 4 * MAX_LINE, "{longest} bytes are held");
        assert!(
            out > 1000 && bytes > pieces * piece.replace("hunter2", "***").len(),
            "{out} lines, {bytes} bytes"
        );
    }

    #[test]
    fn a_secret_is_masked_over_the_edges_of_pieces_and_lines() {
        let secret = mask(&["hunter2-hunter2"]);
        assert_eq!(masked(&secret, &[b"a hunter2", b"-hun", b"ter2 b\n"]), ["a *** b"]);
        assert_eq!(masked(&secret, &[b"hunter2-\r", b"hunter2 b\nhunter2\n"]), ["*** b", "hunter2"]);
        assert_eq!(masked(&secret, &[b"hunter2-\r\n", b"hunter2\n"]), ["hunter2-", "hunter2"]);
        for before in MAX_LINE - 20..MAX_LINE + 5 {
            let text = format!("{}hunter2-hunter2{}", "x".repeat(before), "y".repeat(MAX_LINE * 2));
            let out = masked(&secret, &[text.as_bytes()]);
            assert!(!out.concat().contains("hunter2"), "{before}");
            assert_eq!(out.concat(), text.replace("hunter2-hunter2", "***"));
        }
        let many = "hunter2-hunter2".repeat(MAX_LINE);
        assert!(!masked(&secret, &[many.as_bytes()]).concat().contains("hunter2"));
    }

    #[test]
    fn what_nobody_sees_hides_no_secret_from_the_mask() {
        let secret = mask(&["hunter2-hunter2"]);
        for inside in
            ["\0", "\x07", "\x08", "\u{200b}", "\u{200d}", "\u{2060}", "\u{feff}", "\u{ad}", "\r", "\0\0\0"]
        {
            let spread: String =
                "hunter2-hunter2".chars().flat_map(|c| [c.to_string(), inside.to_owned()]).collect();
            let out = masked(&secret, &[format!("a {spread}b\n").as_bytes()]).concat();
            let words = words_of(&out);
            assert!(
                matches!(words.as_str(), "a ***b" | "b" | "***b" | "a ***\\u{2060}b"),
                "{inside:?}: {out}"
            );
            // However long the line is that it stands in.
            for before in [MAX_LINE - 30, MAX_LINE - 1] {
                let text = format!("{}{spread}{}", "x".repeat(before), "y".repeat(MAX_LINE * 2));
                let out = words_of(&masked(&secret, &[text.as_bytes()]).concat());
                assert!(!out.contains("hunt") && !out.contains("ter2"), "{inside:?}, {before}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_secret_is_visible_however_the_output_is_cut(
            secrets in proptest::collection::vec("[A-Zé0-9]{8,20}(\n[A-Z0-9]{8,20}){0,2}", 1..4),
            words in proptest::collection::vec(
                ("[a-z \\x1b\\[m;\r\n]{0,9}", 0_usize..4, "[\r\u{0}\u{7}\u{8}\u{200b}\u{200d}\u{feff}\u{ad}]{0,3}", 0_usize..20),
                0..12,
            ),
            sizes in proptest::collection::vec(1_usize..9, 1..20),
        ) {
            let mask = mask(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
            let mut text = String::new();
            for (word, secret, inside, at) in &words {
                text.push_str(word);
                let secret = &secrets[secret % secrets.len()];
                let (front, back) = secret.split_at(secret.floor_char_boundary(*at));
                text.extend([front, inside, back]);
            }
            let (mut pieces, mut rest, mut sizes) = (Vec::new(), text.as_bytes(), sizes.iter().cycle());
            while !rest.is_empty() {
                let (piece, later) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = later;
            }
            let cut = masked(&mask, &pieces);
            prop_assert_eq!(&cut, &masked(&mask, &[text.as_bytes()]), "cuts change nothing");
            for line in secrets.iter().flat_map(|secret| secret.lines()) {
                prop_assert!(!words_of(&cut.join("\n")).contains(line), "{} is in {:?}", line, cut);
            }
        }
    }
}
