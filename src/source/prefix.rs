//! The beginning of repository URLs: what a rule, or a credential, is for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use super::url::{InvalidUrl, RepositoryUrl, parse_any};

/// A scheme, a host with its port, over SSH a user if one is named, and as many whole names of the path as there are:
/// `https://host/acme` is the beginning of `https://host/acme/x` and of `https://host/acme.git`, and not of
/// `https://host/acme-2/x`.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlPrefix(Url);

impl UrlPrefix {
    /// How many names of the URL's path are covered, if the URL is: by whole names, and whether it ends with `.git`
    /// or not.
    pub fn covers(&self, url: &RepositoryUrl) -> Option<usize> {
        let url = url.as_url();
        let same_server = self.0.scheme() == url.scheme()
            && self.0.host() == url.host()
            && self.0.port_or_known_default() == url.port_or_known_default()
            && (self.0.username().is_empty() || self.0.username() == url.username());
        let (own, names) = (names(&self.0), names(url));
        (same_server && names.starts_with(&own)).then_some(own.len())
    }

    pub(super) fn is_ssh(&self) -> bool {
        self.0.scheme() == "ssh"
    }
}

fn names(url: &Url) -> Vec<&str> {
    let mut names: Vec<_> = url.path().split('/').filter(|name| !name.is_empty()).collect();
    if let Some(last) = names.last_mut() {
        *last = last.strip_suffix(".git").unwrap_or(last);
    }
    names
}

impl FromStr for UrlPrefix {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        Ok(Self(parse_any(text)?.0))
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
    fn covers_whole_names_of_one_server() {
        for (prefix, url, covered) in [
            ("https://git.example.com", "https://git.example.com/acme/x.git", Some(0)),
            ("https://git.example.com/acme", "https://git.example.com/acme/x.git", Some(1)),
            ("https://git.example.com/acme/", "https://GIT.example.com:443/acme/x", Some(1)),
            ("https://git.example.com/acme/x", "https://git.example.com/acme/x.git/", Some(2)),
            ("https://git.example.com/acme/x.git", "https://git.example.com/acme/x", Some(2)),
            ("https://git.example.com/acme", "https://git.example.com/acme-2/x.git", None),
            ("https://git.example.com/acme", "http://git.example.com/acme/x.git", None),
            ("https://git.example.com/acme", "https://git.example.com:8443/acme/x.git", None),
            ("https://git.example.com", "https://git.example.com.evil.net/acme/x.git", None),
            ("https://git.example.com/acme", "https://git.example.com/Acme/x", None),
            ("ssh://git.example.com/acme", "ssh://git@git.example.com/acme/x", Some(1)),
            ("ssh://git@git.example.com/acme", "ssh://other@git.example.com/acme/x", None),
        ] {
            let url = url.parse().unwrap();
            assert_eq!(prefix.parse::<UrlPrefix>().unwrap().covers(&url), covered, "{prefix} {url}");
        }
    }

    #[test]
    fn refuses_what_is_no_beginning() {
        for bad in ["", "git.example.com", "https://", "https://u:p@host/", "https://host/?a", "mailto:x"] {
            assert!(bad.parse::<UrlPrefix>().is_err(), "{bad:?}");
        }
        let error = "https://me:hunter2@ho st/".parse::<UrlPrefix>().unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
