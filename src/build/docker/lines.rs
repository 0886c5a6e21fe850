//! From a step's output, in whatever pieces it comes, to lines: pure and bounded.

/// The longest line held back, in bytes; a longer one goes on in pieces.
pub(super) const MAX_LINE: usize = crate::timeline::sink::MAX_TEXT;

/// Joins the pieces of one output stream into lines. Of a line that was overwritten with carriage
/// returns, as progress bars do, the last state remains.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// A carriage return came last: what follows overwrites the line, unless it is a line feed.
    returned: bool,
}

impl Lines {
    /// Takes the next piece, and hands each line that is complete to `emit`.
    pub(super) fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(String)) {
        while let Some(position) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.append(&bytes[..position], emit);
            if bytes[position] == b'\n' {
                self.returned = false;
                emit(self.take(self.line.len()));
            } else {
                self.returned = true;
            }
            bytes = &bytes[position + 1..];
        }
        self.append(bytes, emit);
    }

    /// Hands over a last line that has no end.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(String)) {
        self.returned = false;
        if !self.line.is_empty() {
            emit(self.take(self.line.len()));
        }
    }

    fn append(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(String)) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.returned) {
            self.line.clear();
        }
        while self.line.len() + bytes.len() > MAX_LINE {
            let (now, later) = bytes.split_at(MAX_LINE - self.line.len());
            self.line.extend_from_slice(now);
            emit(self.take(character_edge(&self.line)));
            bytes = later;
        }
        self.line.extend_from_slice(bytes);
    }

    fn take(&mut self, length: usize) -> String {
        let text = String::from_utf8_lossy(&self.line[..length]).into_owned();
        self.line.drain(..length);
        text
    }
}

/// The end of `bytes`, or the start of the character at their end if that one is not whole.
fn character_edge(bytes: &[u8]) -> usize {
    for back in 1..=3.min(bytes.len()) {
        let start = bytes.len() - back;
        let width = match bytes[start] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if width > back { start } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut out = Vec::new();
        let mut lines = Lines::default();
        for piece in pieces {
            lines.push(piece, &mut |line| out.push(line));
        }
        lines.finish(&mut |line| out.push(line));
        out
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
        assert!(lines.line.capacity() < 1024);
        assert_eq!(out, [""; 0]);
    }
}
