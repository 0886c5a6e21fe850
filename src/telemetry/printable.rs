//! Text from outside on a terminal.

/// `text` with every control character, bidirectional override and zero-width character written out, so that what somebody
/// else wrote can neither move the cursor nor pass for something that it is not.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    write_out(&mut printed, text);
    printed
}

/// As [`printable`], but colours (the escape sequences of `ESC [ … m`) stay: for a build's own lines.
/// They end with the text.
pub fn with_colours(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    let (mut rest, mut coloured) = (text, false);
    while let Some(at) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(at);
        write_out(&mut printed, before);
        let digits = sequence[2..]
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, ';' | ':'))
            .map_or(sequence.len(), |n| n + 2);
        let colour = sequence[digits..].starts_with('m');
        let end = if colour { digits + 1 } else { 2 };
        match colour {
            true => printed.push_str(&sequence[..end]),
            false => write_out(&mut printed, &sequence[..end]),
        }
        coloured |= colour;
        rest = &sequence[end..];
    }
    write_out(&mut printed, rest);
    if coloured {
        printed.push_str("\x1b[0m");
    }
    printed
}

/// Adds `text` to `printed`, with what is hidden written out.
pub(crate) fn write_out(printed: &mut String, text: &str) {
    for c in text.chars() {
        match is_hidden(c) {
            true => printed.extend(c.escape_unicode()),
            false => printed.push(c),
        }
    }
}

/// Whether a character is no part of a line's text: control characters but the tab, bidirectional controls,
/// those without width that stand for nothing, and those that some readers take for a line's end.
pub(crate) fn is_hidden(c: char) -> bool {
    match c {
        '\t' => false,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => true,
        c => c.is_control(),
    }
}

/// Whether a character takes no room of its own in a line: one that is [hidden](is_hidden), or one that only
/// changes how its neighbours look, as those that join letters and emoji. (`Default_Ignorable_Code_Point` of
/// Unicode.)
pub(crate) fn is_invisible(c: char) -> bool {
    match c {
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => true,
        '\u{200c}' | '\u{200d}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' => true,
        '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' => true,
        '\u{e0000}'..='\u{e0fff}' => true,
        c => is_hidden(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_words_and_shows_the_rest() {
        assert_eq!(printable("größer\tthan 日本"), "größer\tthan 日本");
        assert_eq!(printable("\u{1b}[2J\r\n\u{202e}x\u{9b}"), "\\u{1b}[2J\\u{d}\\u{a}\\u{202e}x\\u{9b}");
        assert_eq!(printable("a\u{200b}b\u{ad}c\u{feff}d\u{2060}"), "a\\u{200b}b\\u{ad}c\\u{feff}d\\u{2060}");
        let joined = "\u{1f469}\u{200d}\u{1f4bb} \u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645} \u{2764}\u{fe0f}";
        assert_eq!(printable(joined), joined, "what writing needs stays");
    }

    #[test]
    fn colours_stay_and_end() {
        assert_eq!(with_colours("\x1b[1;32mok\x1b[0m done"), "\x1b[1;32mok\x1b[0m done\x1b[0m");
        assert_eq!(with_colours("\x1b[2Ja\x1b[31"), "\\u{1b}[2Ja\\u{1b}[31");
        assert_eq!(with_colours("plain"), "plain");
    }
}
