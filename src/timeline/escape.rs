//! Text from outside made harmless, before it is kept or shown: of escape sequences only colours stay,
//! what else moves a cursor or hides text is written out. Readers of old logs, and of those that others
//! have written, do the same again (`telemetry::printable`, the pages).

use std::borrow::Cow;

use crate::telemetry::printable::{is_hidden, is_invisible, write_out};

/// The longest escape sequence that is waited for and removed; hyperlinks are the longest that are meant well.
const MAX_SEQUENCE: usize = 4096;
/// The longest parameters of a colour.
const MAX_COLOUR: usize = 64;
/// Ends every colour.
const RESET: &str = "\x1b[0m";

/// What an escape sequence is (ECMA-48 5.4 and 8.3.117).
#[derive(Debug, PartialEq, Eq)]
pub enum Sequence<'a> {
    /// `ESC [ … m`: colours and other looks, by these parameters.
    Looks(&'a str),
    /// Moves the cursor, erases, sets a title, links: nothing that a log has a use for.
    Other,
}

/// What a text that begins with ESC begins with.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole sequence of so many bytes.
    Whole(Sequence<'a>, usize),
    /// The beginning of one.
    Unfinished,
    /// ESC, and what does not belong to it.
    Nothing,
}

/// Reads the sequence that `text` begins with, whose first character is ESC.
pub fn sequence(text: &str) -> Found<'_> {
    let body = text.as_bytes().get(1..).unwrap_or_default();
    match body.first() {
        None => Found::Unfinished,
        Some(b'[') => control(text),
        Some(b']' | b'P' | b'X' | b'^' | b'_') => string(text),
        // A character set, `ESC ( B`: intermediate bytes, then a final one.
        Some(b' '..=b'/') => {
            let intermediate = body.iter().take_while(|byte| matches!(byte, b' '..=b'/')).count();
            match body.get(intermediate) {
                None => Found::Unfinished,
                Some(b'0'..=b'~') => Found::Whole(Sequence::Other, intermediate + 2),
                Some(_) => Found::Nothing,
            }
        }
        Some(b'0'..=b'~') => Found::Whole(Sequence::Other, 2),
        Some(_) => Found::Nothing,
    }
}

/// `ESC [`, parameter and intermediate bytes, one final byte.
fn control(text: &str) -> Found<'_> {
    let body = &text.as_bytes()[2..];
    let parameters = body.iter().take_while(|byte| matches!(byte, b' '..=b'?')).count();
    match body.get(parameters) {
        None => Found::Unfinished,
        Some(b'm') if is_colour(&body[..parameters]) => {
            Found::Whole(Sequence::Looks(&text[2..2 + parameters]), parameters + 3)
        }
        Some(b'@'..=b'~') => Found::Whole(Sequence::Other, parameters + 3),
        Some(_) => Found::Nothing,
    }
}

fn is_colour(parameters: &[u8]) -> bool {
    parameters.len() <= MAX_COLOUR
        && parameters.iter().all(|byte| byte.is_ascii_digit() || matches!(byte, b';' | b':'))
}

/// A title, a hyperlink, a picture: up to `ESC \`, or BEL. One with other control characters in it is none.
fn string(text: &str) -> Found<'_> {
    let body = &text[2..];
    let Some(end) = body.find(|c: char| c.is_control()) else { return Found::Unfinished };
    match &body.as_bytes()[end..] {
        [b'\x07', ..] => Found::Whole(Sequence::Other, 2 + end + 1),
        [b'\x1b'] => Found::Unfinished,
        [b'\x1b', b'\\', ..] => Found::Whole(Sequence::Other, 2 + end + 2),
        _ => Found::Nothing,
    }
}

/// What is kept of a colour's parameters: all but what blinks or hides. `None` where nothing is left.
fn visible(parameters: &str) -> Option<Cow<'_, str>> {
    let mut kept = Vec::new();
    let mut whole = true;
    let mut codes = parameters.split(';');
    while let Some(code) = codes.next() {
        match code.trim_start_matches('0') {
            "5" | "6" | "8" => whole = false,
            // A colour out of many, whose number follows.
            "38" | "48" | "58" => {
                let kind = codes.next();
                let numbers = match kind {
                    Some("5") => 1,
                    Some("2") => 3,
                    _ => 0,
                };
                kept.extend([code].into_iter().chain(kind).chain(codes.by_ref().take(numbers)));
            }
            _ => kept.push(code),
        }
    }
    match (whole, kept.is_empty()) {
        (true, _) => Some(Cow::Borrowed(parameters)),
        (false, true) => None,
        (false, false) => Some(Cow::Owned(kept.join(";"))),
    }
}

/// Cleans text that comes in pieces.
#[derive(Debug, Default)]
pub struct Cleaner {
    /// The beginning of a character whose rest is still to come.
    partial: Vec<u8>,
    /// The beginning of an escape sequence whose rest is still to come.
    escape: String,
}

impl Cleaner {
    /// Takes the next piece, without line ends, and adds to `clean` what is harmless.
    pub fn push(&mut self, piece: &[u8], clean: &mut String) {
        let joined;
        let bytes = match self.partial.is_empty() {
            true => piece,
            false => {
                joined = [&std::mem::take(&mut self.partial), piece].concat();
                &joined
            }
        };
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            self.text(chunk.valid(), clean);
            let invalid = chunk.invalid();
            match std::str::from_utf8(invalid) {
                Ok(_) => {}
                Err(error) if error.error_len().is_none() && chunks.peek().is_none() => {
                    self.partial = invalid.to_vec();
                }
                Err(_) => self.text("\u{fffd}", clean),
            }
        }
    }

    /// Adds what has begun and will not be ended any more: the line ends.
    pub fn finish(&mut self, clean: &mut String) {
        if !std::mem::take(&mut self.partial).is_empty() {
            self.text("\u{fffd}", clean);
        }
        write_out(clean, &std::mem::take(&mut self.escape));
    }

    fn text(&mut self, text: &str, clean: &mut String) {
        let joined;
        let mut rest = match self.escape.is_empty() {
            true => text,
            false => {
                joined = std::mem::take(&mut self.escape) + text;
                &joined
            }
        };
        while let Some(at) = memchr::memchr(b'\x1b', rest.as_bytes()) {
            let (before, escape) = rest.split_at(at);
            show(before, clean);
            match sequence(escape) {
                Found::Whole(sequence, length) => {
                    if let Sequence::Looks(parameters) = sequence
                        && let Some(parameters) = visible(parameters)
                    {
                        clean.push_str("\x1b[");
                        clean.push_str(&parameters);
                        clean.push('m');
                    }
                    rest = &escape[length..];
                }
                // A sequence without an end must not take the rest of the log with it.
                Found::Unfinished if escape.len() <= MAX_SEQUENCE => {
                    self.escape = escape.to_owned();
                    return;
                }
                Found::Unfinished | Found::Nothing => {
                    write_out(clean, "\x1b");
                    rest = &escape[1..];
                }
            }
        }
        show(rest, clean);
    }
}

/// Adds text without ESC.
fn show(text: &str, clean: &mut String) {
    match is_plain(text) {
        true => clean.push_str(text),
        false => write_out(clean, text),
    }
}

/// `text` made harmless, all at once. Line ends in it are written out.
pub fn clean(text: &str) -> Cow<'_, str> {
    if is_plain(text) {
        return Cow::Borrowed(text);
    }
    let (mut cleaner, mut clean) = (Cleaner::default(), String::with_capacity(text.len()));
    cleaner.text(text, &mut clean);
    cleaner.finish(&mut clean);
    Cow::Owned(clean)
}

/// Clean text without its colours.
pub fn without_colours(clean: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\x1b', clean.as_bytes()).is_none() {
        return Cow::Borrowed(clean);
    }
    let (mut plain, mut rest) = (String::with_capacity(clean.len()), clean);
    while let Some(at) = memchr::memchr(b'\x1b', rest.as_bytes()) {
        plain.push_str(&rest[..at]);
        rest = &rest[at + colour(&rest[at..])..];
    }
    plain.push_str(rest);
    Cow::Owned(plain)
}

/// The length of the colour that clean text begins with.
pub fn colour(clean: &str) -> usize {
    match sequence(clean) {
        Found::Whole(_, length) => length,
        Found::Unfinished | Found::Nothing => 1,
    }
}

/// The length of what clean text begins with and is no part of its words: a colour, a hidden character as it is
/// written out, or one that takes no room. 0 where a word begins.
pub fn beside_words(clean: &str) -> usize {
    match clean.as_bytes().first() {
        Some(b'\x1b') => colour(clean),
        Some(b'\\') => written_out(clean),
        Some(0x80..) => clean.chars().next().filter(|c| is_invisible(*c)).map_or(0, char::len_utf8),
        _ => 0,
    }
}

/// The length of the hidden character, written out as `\u{…}`, that `text` begins with.
fn written_out(text: &str) -> usize {
    const PREFIX: &str = "\\u{";
    let number = text.strip_prefix(PREFIX).and_then(|rest| {
        let end = rest.bytes().take(7).position(|byte| byte == b'}')?;
        Some(&rest[..end])
    });
    let is_written_out = |number: &&str| {
        let c = u32::from_str_radix(number, 16).ok().and_then(char::from_u32);
        c.is_some_and(is_hidden)
    };
    number.filter(is_written_out).map_or(0, |number| PREFIX.len() + number.len() + 1)
}

/// Ends the colours of clean text with it: those who read it line by line show other text after it.
pub fn end_colours(clean: &mut String) {
    let Some(last) = memchr::memrchr(b'\x1b', clean.as_bytes()) else { return };
    let ends = matches!(sequence(&clean[last..]), Found::Whole(Sequence::Looks("" | "0"), _));
    if !ends {
        clean.push_str(RESET);
    }
}

/// The last place up to `most` where clean text can be cut: between characters, and in no colour.
pub fn edge(clean: &str, most: usize) -> usize {
    let edge = clean.floor_char_boundary(most);
    match memchr::memrchr(b'\x1b', &clean.as_bytes()[..edge]) {
        Some(last) if last > 0 && last + colour(&clean[last..]) > edge => last,
        _ => edge,
    }
}

/// Whether nothing is in `text` that could be harmful. Quick for what is ASCII.
fn is_plain(text: &str) -> bool {
    let suspicious = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f || byte >= 0x80;
    match text.bytes().position(suspicious) {
        None => true,
        Some(at) if text.as_bytes()[at] < 0x80 => false,
        Some(at) => !text[at..].contains(is_hidden),
    }
}

#[cfg(test)]
#[path = "escape_tests.rs"]
mod tests;
