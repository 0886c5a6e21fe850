//! A line of a build as pieces of text, each with its looks: colours become classes, never markup.
//!
//! Of the escape sequences only SGR (`ESC [ … m`, ECMA-48 8.3.117) has a meaning here. Other control
//! sequences and strings, which move a cursor that is not there, are dropped; what remains of control
//! characters and of bidirectional marks is written out, as on a terminal.

use crate::telemetry::printable::printable;
use crate::timeline::escape::{Found, Sequence, sequence};

/// A piece of a line, all in one look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The classes, separated by blanks; empty for plain text.
    pub(super) class: String,
    pub(super) text: String,
}

/// The looks that are in force.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Look {
    colour: Option<&'static str>,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
}

/// Takes `text` apart. The pieces together hold all its words, in their order.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut look = Look::default();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        let (before, escape) = rest.split_at(at);
        plain.push_str(before);
        match sequence(escape) {
            Found::Whole(Sequence::Looks(parameters), length) => {
                let selected = select(look, parameters);
                if selected != look {
                    push(&mut pieces, look, &mut plain);
                }
                (look, rest) = (selected, &escape[length..]);
            }
            Found::Whole(Sequence::Other, length) => rest = &escape[length..],
            Found::Unfinished | Found::Nothing => {
                plain.push('\x1b');
                rest = &escape[1..];
            }
        }
    }
    plain.push_str(rest);
    push(&mut pieces, look, &mut plain);
    pieces
}

fn push(pieces: &mut Vec<Piece>, look: Look, plain: &mut String) {
    if !plain.is_empty() {
        pieces.push(Piece { class: look.class(), text: printable(plain) });
        plain.clear();
    }
}

/// `look` after a selection. Backgrounds and what is unknown change nothing.
fn select(mut look: Look, parameters: &str) -> Look {
    let mut codes = parameters.split([';', ':']).map(|code| code.parse().unwrap_or(0_u16));
    while let Some(code) = codes.next() {
        match code {
            0 => look = Look::default(),
            1 => look.bold = true,
            2 => look.dim = true,
            3 => look.italic = true,
            4 => look.underline = true,
            22 => (look.bold, look.dim) = (false, false),
            23 => look.italic = false,
            24 => look.underline = false,
            30..=37 => look.colour = colour(code - 30),
            90..=97 => look.colour = colour(code - 90 + 8),
            39 => look.colour = None,
            38 | 48 => {
                let chosen = match codes.next() {
                    Some(5) => codes.next().and_then(colour),
                    Some(2) => codes.by_ref().nth(2).and(None),
                    _ => None,
                };
                if code == 38 {
                    look.colour = chosen;
                }
            }
            _ => {}
        }
    }
    look
}

/// The class of one of the sixteen colours. White is what text is anyway; of the 240 others none is
/// sure to be read on both grounds.
fn colour(number: u16) -> Option<&'static str> {
    match number {
        1 | 9 => Some("red"),
        2 | 10 => Some("green"),
        3 | 11 => Some("yellow"),
        4 | 12 => Some("blue"),
        5 | 13 => Some("magenta"),
        6 | 14 => Some("cyan"),
        0 | 8 => Some("dim"),
        _ => None,
    }
}

impl Look {
    fn class(self) -> String {
        let dim = (self.dim && self.colour.is_none()).then_some("dim");
        let classes = [
            self.colour.or(dim),
            self.bold.then_some("bold"),
            self.italic.then_some("italic"),
            self.underline.then_some("underline"),
        ];
        classes.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        let piece = |piece: Piece| match piece.class.as_str() {
            "" => piece.text,
            class => format!("<{class}>{}</>", piece.text),
        };
        pieces(text).into_iter().map(piece).collect()
    }

    #[test]
    fn colours_become_classes() {
        for (text, pieces) in [
            ("plain", "plain"),
            ("", ""),
            ("\x1b[31merror\x1b[0m: x", "<red>error</>: x"),
            ("\x1b[1;32mok\x1b[22m done\x1b[m.", "<green bold>ok</><green> done</>."),
            ("\x1b[2mquiet\x1b[36mcyan", "<dim>quiet</><cyan>cyan</>"),
            ("\x1b[38;5;9ma\x1b[38;5;200mb\x1b[38;2;1;2;3mc", "<red>a</>bc"),
            ("\x1b[38:2:1:2:3;4mc\x1b[24md", "<underline>c</>d"),
            ("\x1b[48;5;1;3mx", "<italic>x</>"),
            ("\x1b[91m\x1b[97mwhite", "white"),
        ] {
            assert_eq!(shown(text), pieces, "{text:?}");
        }
    }

    #[test]
    fn other_sequences_are_dropped_and_the_rest_is_written_out() {
        for (text, pieces) in [
            ("\x1b[2K\x1b[1Gnpm", "npm"),
            ("\x1b[?25lhidden", "hidden"),
            ("\x1b]8;;https://example.com\x1b\\link\x1b]8;;\x07", "link"),
            ("\x1b]0;no end", "\\u{1b}]0;no end"),
            ("\x1b[31", "\\u{1b}[31"),
            ("\x1b", "\\u{1b}"),
            ("\x1b[3\u{e9}m", "\\u{1b}[3\u{e9}m"),
            ("a\u{202e}b\u{7}\r", "a\\u{202e}b\\u{7}\\u{d}"),
        ] {
            assert_eq!(shown(text), pieces, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_control_character_comes_through(text in "[\\x1b\\[\\]0-9;m\u{7}\u{202e}a-cé\\\\<]{0,40}") {
            for piece in pieces(&text) {
                let hidden = |c: char| c.is_control() || c == '\u{202e}';
                prop_assert!(!piece.text.contains(hidden));
            }
        }
    }
}
