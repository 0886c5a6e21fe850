//! Text from outside on a terminal.

/// `text` with every control character and bidirectional override written out, so that what somebody
/// else wrote can neither move the cursor nor pass for something that it is not.
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\t' => printed.push(c),
            c if c.is_control() || hidden => printed.extend(c.escape_unicode()),
            c => printed.push(c),
        }
    }
    printed
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn leaves_words_and_shows_the_rest() {
        assert_eq!(printable("größer\tthan 日本"), "größer\tthan 日本");
        assert_eq!(printable("\u{1b}[2J\r\n\u{202e}x\u{9b}"), "\\u{1b}[2J\\u{d}\\u{a}\\u{202e}x\\u{9b}");
    }
}
