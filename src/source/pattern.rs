//! One pattern of a `.dockerignore`: Go's `filepath.Match`, plus `**` for any number of folders, as
//! github.com/moby/patternmatcher reads it. Where that package hands a character class or an escape to
//! Go's regular expressions, and these read more into it than `filepath.Match` documents (`\d`,
//! `[[:alpha:]]`), the documentation is followed.

/// A pattern that paths are matched against. Paths have no slash at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    matcher: Matcher,
    /// What every matching path begins with.
    prefix: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    /// The path itself.
    Literal(String),
    /// `**` and a literal: the path's end; with a slash in between also the whole path.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// `?`: any character but a slash.
    Any,
    /// `[a-z]`, `[^a-z]`.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    /// `*`: any number of characters but slashes.
    Name,
    /// `**/`, and `**` before something else: nothing, or anything that ends with a slash.
    Folders,
    /// `**` at the end: anything.
    Rest,
}

impl Pattern {
    /// Reads a pattern that has been cleaned. The error says what is wrong with it.
    pub(super) fn parse(pattern: &str) -> Result<Self, &'static str> {
        let tokens = tokens(pattern)?;
        let literal = |tokens: &[Token]| -> Option<String> {
            tokens.iter().map(|token| if let Token::Char(c) = token { Some(c) } else { None }).collect()
        };
        let escaped = pattern.contains('\\');
        let matcher = match tokens.split_first() {
            _ if !escaped && let Some(literal) = literal(&tokens) => Matcher::Literal(literal),
            Some((Token::Folders | Token::Rest, rest)) if !escaped && literal(rest).is_some() => {
                // With the slash that `Folders` may have swallowed.
                Matcher::Suffix(pattern[2..].to_owned())
            }
            _ => Matcher::Tokens(tokens.clone()),
        };
        let leading =
            tokens.iter().map_while(|token| if let Token::Char(c) = token { Some(c) } else { None });
        Ok(Self { matcher, prefix: leading.collect() })
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Literal(literal) => path == literal,
            Matcher::Suffix(suffix) => path.ends_with(suffix) || suffix.strip_prefix('/') == Some(path),
            Matcher::Tokens(tokens) => path.starts_with(&self.prefix) && run(tokens, path),
        }
    }

    /// Whether a path below `folder`, or the folder itself, may match. Never wrongly false.
    pub(super) fn may_match_below(&self, folder: &str) -> bool {
        let below = |prefix: &str| prefix.starts_with(folder) && prefix[folder.len()..].starts_with('/');
        match &self.matcher {
            Matcher::Literal(literal) => literal == folder || below(literal),
            Matcher::Suffix(_) => true,
            Matcher::Tokens(_) => {
                folder.starts_with(&self.prefix) || below(&self.prefix) || self.prefix == folder
            }
        }
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                if rest.peek().is_some() { Token::Folders } else { Token::Rest }
            }
            '*' => Token::Name,
            '?' => Token::Any,
            '[' => class(&mut rest)?,
            '\\' => Token::Char(rest.next().ok_or("it ends with a backslash")?),
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

fn class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, &'static str> {
    const OPEN: &str = "a '[' has no ']'";
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_char(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => class_char(rest)?,
            None => low,
        };
        if rest.peek().is_none() {
            return Err(OPEN);
        }
        if low > high {
            return Err("a range in '[]' runs backwards");
        }
        ranges.push((low, high));
    }
}

fn class_char(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, &'static str> {
    match rest.next() {
        None => Err("a '[' has no ']'"),
        Some('-') => Err("a '-' in '[]' that is no range needs a backslash before it"),
        Some(']') => Err("a ']' at the beginning of '[]' needs a backslash before it"),
        Some('\\') => rest.next().ok_or("it ends with a backslash"),
        Some(c) => Ok(c),
    }
}

/// Follows all readings of the pattern at once: the time grows with the product of the lengths,
/// whatever the pattern.
fn run(tokens: &[Token], path: &str) -> bool {
    let mut now = vec![false; tokens.len() + 1];
    let mut next = now.clone();
    enter(tokens, &mut now, 0);
    for c in path.chars() {
        next.fill(false);
        for (at, token) in tokens.iter().enumerate().filter(|(at, _)| now[*at]) {
            match token {
                Token::Char(wanted) if *wanted == c => enter(tokens, &mut next, at + 1),
                Token::Any if c != '/' => enter(tokens, &mut next, at + 1),
                Token::Class { negated, ranges }
                    if ranges.iter().any(|(low, high)| (low..=high).contains(&&c)) != *negated =>
                {
                    enter(tokens, &mut next, at + 1);
                }
                Token::Name if c != '/' => enter(tokens, &mut next, at),
                Token::Rest => enter(tokens, &mut next, at),
                Token::Folders => {
                    // Not entered anew: what it has begun must end with a slash.
                    next[at] = true;
                    if c == '/' {
                        enter(tokens, &mut next, at + 1);
                    }
                }
                _ => {}
            }
        }
        std::mem::swap(&mut now, &mut next);
        if !now.contains(&true) {
            return false;
        }
    }
    now[tokens.len()]
}

/// Marks a position, and those behind tokens that may match nothing.
fn enter(tokens: &[Token], positions: &mut [bool], mut at: usize) {
    positions[at] = true;
    while matches!(tokens.get(at), Some(Token::Name | Token::Folders | Token::Rest)) {
        at += 1;
        positions[at] = true;
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
