//! The commit a build is made from: always the full 40-digit id, never a branch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A full SHA-1 commit id, in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CommitId(String);

impl CommitId {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first seven digits, as people quote commits.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCommit {
    #[error(
        "{0:?} is a SHA-256 commit id (64 digits), and libgit2 does not read SHA-256 repositories yet; build from a SHA-1 repository"
    )]
    Sha256(String),
    #[error(
        "{0:?} is not a full commit id: 40 hex digits are needed, never a branch, a tag or a shortened id"
    )]
    NotFull(String),
}

impl FromStr for CommitId {
    type Err = InvalidCommit;

    fn from_str(text: &str) -> Result<Self, InvalidCommit> {
        let hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match text.len() {
            40 if hex => Ok(Self(text.to_ascii_lowercase())),
            64 if hex => Err(InvalidCommit::Sha256(text.to_owned())),
            _ => Err(InvalidCommit::NotFull(text.chars().take(80).collect())),
        }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for CommitId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommitId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_full_ids_only() {
        let id = "9FCEB02d0ae598e95dc970b74767f19372d61af8";
        let commit: CommitId = id.parse().unwrap();
        assert_eq!(commit.as_str(), id.to_ascii_lowercase());
        assert_eq!(commit.short(), "9fceb02");
        for bad in
            ["", "main", "refs/heads/main", "9fceb02", &id[1..], &format!("{id}0"), &id.replace('9', "g")]
        {
            assert!(matches!(bad.parse::<CommitId>(), Err(InvalidCommit::NotFull(_))), "{bad}");
        }
        let long = "a".repeat(64);
        assert!(long.parse::<CommitId>().unwrap_err().to_string().contains("libgit2"));
    }
}
