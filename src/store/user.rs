//! The user name of a registry login, which is a file name in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::credentials::random_text;

/// Random bytes that make a user name different from all others of its namespace.
const SUFFIX_BYTES: usize = 5;
/// The longest user name, in characters: a namespace, a hyphen and the random part fit.
const MAX_USER: usize = 128;

/// Lower-case letters, digits, `_` and `-`, the first a letter or digit; at most 128 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UserName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a user name of a registry login: at most {MAX_USER} lower-case letters, digits, '_' and '-'; `buildgrid credential list` shows them"
)]
pub struct InvalidUserName(String);

impl UserName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new name that begins with `prefix`, a path component of at most 96 characters.
    pub(super) fn generate(prefix: &str) -> Self {
        Self(format!("{prefix}-{}", random_text::<SUFFIX_BYTES>()))
    }
}

impl FromStr for UserName {
    type Err = InvalidUserName;

    fn from_str(text: &str) -> Result<Self, InvalidUserName> {
        let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let allowed = |byte: u8| first(byte) || matches!(byte, b'_' | b'-');
        match text.as_bytes() {
            [head, tail @ ..]
                if first(*head) && tail.len() < MAX_USER && tail.iter().all(|&b| allowed(b)) =>
            {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidUserName(text.chars().take(MAX_USER + 1).collect())),
        }
    }
}

impl<'de> Deserialize<'de> for UserName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_safe_as_a_file_name() {
        for good in ["acme-k3x9qd2m", "a", "9_a", &"a".repeat(128), UserName::generate("a--b").as_str()] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "../x", "a/b", "a.json", "-a", "A", "a b", "a\0", &"a".repeat(129)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
    }
}
