//! The beginning of repository URLs: what a rule, or a credential, is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// A scheme, a host with its port, and as many whole segments of the path as there are. `https://host/acme` is
/// the beginning of `https://host/acme/x` and of `https://host/acme.git`, and not of `https://host/acme-2/x`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UrlPrefix(Url);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    #[error("{0:?} is not the beginning of URLs: {1}; write it as https://git.example.com/group/")]
    Unreadable(String, url::ParseError),
    // Not quoted: it contains the secret.
    #[error(
        "the beginning of URLs has a user name or password; credentials belong to the credentials directory"
    )]
    Credentials,
    #[error("{0:?} has no host, or has a query or a fragment; write it as https://git.example.com/group/")]
    Extra(String),
}

impl UrlPrefix {
    /// Whether `url` begins with it.
    pub fn covers(&self, url: &Url) -> bool {
        let (own, path) = (trimmed(self.0.path()), trimmed(url.path()));
        let same = self.0.scheme() == url.scheme()
            && self.0.host() == url.host()
            && self.0.port_or_known_default() == url.port_or_known_default();
        let below = path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        same && below
    }
}

/// A path without what may stand at the end of a repository's and changes nothing.
fn trimmed(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.strip_suffix(".git").unwrap_or(path)
}

impl FromStr for UrlPrefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let url = Url::parse(text).map_err(|error| match text.contains('@') {
            true => InvalidPrefix::Credentials,
            false => InvalidPrefix::Unreadable(text.to_owned(), error),
        })?;
        if url.password().is_some() || (!url.username().is_empty() && url.scheme() != "ssh") {
            return Err(InvalidPrefix::Credentials);
        }
        if url.host().is_none() || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidPrefix::Extra(text.to_owned()));
        }
        Ok(Self(url))
    }
}

impl fmt::Display for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for UrlPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for UrlPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UrlPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_whole_segments_of_one_host() {
        for (prefix, url, covered) in [
            ("https://git.example.com", "https://git.example.com/acme/x.git", true),
            ("https://git.example.com/acme", "https://git.example.com/acme/x.git", true),
            ("https://git.example.com/acme/", "https://GIT.example.com:443/acme/x", true),
            ("https://git.example.com/acme/x", "https://git.example.com/acme/x.git/", true),
            ("https://git.example.com/acme/x.git", "https://git.example.com/acme/x", true),
            ("https://git.example.com/acme", "https://git.example.com/acme-2/x.git", false),
            ("https://git.example.com/acme", "http://git.example.com/acme/x.git", false),
            ("https://git.example.com/acme", "https://git.example.com:8443/acme/x.git", false),
            ("https://git.example.com", "https://git.example.com.evil.net/acme/x.git", false),
            ("https://git.example.com/acme", "https://git.example.com/Acme/x", false),
        ] {
            let url = url.parse::<crate::source::url::RepositoryUrl>().unwrap();
            assert_eq!(prefix.parse::<UrlPrefix>().unwrap().covers(url.as_url()), covered, "{prefix} {url}");
        }
    }

    #[test]
    fn refuses_what_is_no_beginning() {
        for bad in [
            "",
            "git.example.com",
            "https://",
            "https://u:p@host/",
            "https://host/?a",
            "https://host/#a",
            "mailto:x",
        ] {
            assert!(bad.parse::<UrlPrefix>().is_err(), "{bad:?}");
        }
        let error = "https://me:hunter2@ho st/".parse::<UrlPrefix>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
