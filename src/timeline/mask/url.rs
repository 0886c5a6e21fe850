//! Logins in URLs: `scheme://user:password@host`.

use std::ops::Range;

use memchr::memmem;

/// The longest URL, up to its host, in which a login is found, in bytes.
pub(super) const LONGEST: usize = 2048;

/// A URL with a login.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// From the scheme to the `@`.
    pub url: Range<usize>,
    /// The password; or a user without one, which over HTTP is a token.
    pub secret: Range<usize>,
}

pub(super) fn logins(text: &str) -> impl Iterator<Item = Login> {
    memmem::find_iter(text.as_bytes(), "://").filter_map(|at| login(text, at))
}

/// The login of the URL whose scheme ends at `colon`.
fn login(text: &str, colon: usize) -> Option<Login> {
    let bytes = text.as_bytes();
    let scheme = bytes[..colon]
        .iter()
        .rev()
        .take(32)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        .count();
    let (begin, user) = (colon - scheme, colon + "://".len());
    if scheme == 0 {
        return None;
    }
    let ends = |byte: &u8| {
        byte.is_ascii_whitespace()
            || matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\'' | b'<' | b'>' | b'`' | b'\\')
    };
    let authority = bytes[user..].iter().take(LONGEST - 64).take_while(|byte| !ends(byte)).count();
    let host = user + memchr::memrchr(b'@', &bytes[user..user + authority])?;
    let secret = match memchr::memchr(b':', &bytes[user..host]) {
        Some(colon) => user + colon + 1..host,
        None if text[begin..colon].to_ascii_lowercase().starts_with("http") => user..host,
        None => return None,
    };
    (!secret.is_empty()).then_some(Login { url: begin..host + 1, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_passwords_and_tokens() {
        for (text, secret) in [
            ("fatal: https://me:hunter2@git.example.com/x: not found", Some("hunter2")),
            ("https://ghp_0123456789@github.com/a/b", Some("ghp_0123456789")),
            ("amqp://grid:p%40ss@mq/%2f", Some("p%40ss")),
            ("postgres://u:a:b@c@db:5432/x", Some("a:b@c")),
            ("ssh://git@github.com/a/b", None),
            ("https://example.com/a@b", None),
            ("https://example.com:8080/@scope/pkg", None),
            ("see https://a.example, or write to me@b.example", None),
            ("https://me:@host/", None),
            ("://me:secret@host", None),
            ("grün://", None),
        ] {
            let found: Vec<_> = logins(text).map(|login| &text[login.secret]).collect();
            assert_eq!(found, secret.into_iter().collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn a_long_line_without_a_login_takes_no_time() {
        let text = "a://".repeat(100_000);
        assert_eq!(logins(&text).count(), 0);
    }
}
