//! Where a repository is fetched from: an `http` or `https` URL without credentials.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

/// The longest URL taken, in bytes.
const MAX_URL: usize = 2048;

/// The URL of a git repository, checked: `https://` or `http://`, a host, a path, no credentials,
/// no query and no fragment.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RepositoryUrl(Url);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("repository URL {0:?} cannot be read: {1}")]
    Unreadable(String, url::ParseError),
    #[error("the repository URL is {0} bytes long; at most {MAX_URL} are taken")]
    TooLong(usize),
    #[error("repository URL scheme {0:?} is not allowed: use https:// (or http://)")]
    Scheme(String),
    // The URL is not quoted: it contains the secret.
    #[error(
        "the repository URL contains credentials; remove the user name and password, credentials belong to the worker"
    )]
    Credentials,
    // Not quoted either, for the same reason.
    #[error(
        "the repository URL contains a space, a control character, a backslash or a '..', which readers of URLs treat differently; write it out"
    )]
    Ambiguous,
    #[error("repository URL {0:?} has a query or a fragment, which git does not use")]
    Extra(String),
    #[error("repository URL {0:?} does not name a repository on the host")]
    NoPath(String),
}

impl RepositoryUrl {
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The last segment of the path without `.git`: the name a forge shows.
    pub fn last_segment(&self) -> &str {
        let path = self.0.path().trim_end_matches('/');
        let segment = path.rsplit('/').next().unwrap_or(path);
        segment.strip_suffix(".git").unwrap_or(segment)
    }
}

impl FromStr for RepositoryUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        if text.len() > MAX_URL {
            return Err(InvalidUrl::TooLong(text.len()));
        }
        // The parser would drop tabs and line ends, turn '\\' into '/' and resolve '..' without a word.
        let dots = |part: &str| part.to_ascii_lowercase().replace("%2e", ".") == "..";
        if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
            || text.split('/').any(dots)
        {
            return Err(match text.contains('@') {
                true => InvalidUrl::Credentials,
                false => InvalidUrl::Ambiguous,
            });
        }
        let url = Url::parse(text).map_err(|error| match text.contains('@') {
            true => InvalidUrl::Credentials,
            false => InvalidUrl::Unreadable(text.to_owned(), error),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(InvalidUrl::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidUrl::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidUrl::Extra(text.to_owned()));
        }
        let url = Self(url);
        if url.last_segment().is_empty() {
            return Err(InvalidUrl::NoPath(text.to_owned()));
        }
        Ok(url)
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl Serialize for RepositoryUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

impl<'de> Deserialize<'de> for RepositoryUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_plain_web_urls() {
        for (text, name) in [
            ("https://git.example.com/acme/storefront.git", "storefront"),
            ("http://127.0.0.1:3000/hello/", "hello"),
            ("https://git.example.com/a/b/c.d", "c.d"),
        ] {
            assert_eq!(text.parse::<RepositoryUrl>().unwrap().last_segment(), name);
        }
    }

    #[test]
    fn refuses_the_rest() {
        for bad in [
            "",
            "storefront",
            "/srv/git/x",
            "file:///srv/git/x",
            "ext::sh -c id",
            "git@host:acme/x.git",
            "ssh://host/x",
            "git://host/x",
            "https://u:p@host/x",
            "https://u@host/x",
            "https://host",
            "https://host/",
            "https://host/.git",
            "https://host/x?a=b",
            "https://host/x#y",
            "https://host/a/../x",
            "https://host/a/%2E./x",
            "https://host/a\\x",
            "https://ho\nst/x",
            " https://host/x",
            "javascript:alert(1)",
        ] {
            assert!(bad.parse::<RepositoryUrl>().is_err(), "{bad}");
        }
        let error = "https://me:hunter2@host/x".parse::<RepositoryUrl>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        let error = "https://me:hunter2@ho st/x".parse::<RepositoryUrl>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
