//! Where a repository is fetched from: an `https`, `http` or `ssh` URL without a password, or the short form of
//! the last one, `git@host:path`.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The longest URL taken, in bytes.
const MAX_URL: usize = 2048;
const SSH_PORT: u16 = 22;

/// The URL of a git repository, checked: a host, a path, no password, no query and no fragment; a user name in
/// those over SSH, and only there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RepositoryUrl {
    url: Url,
    /// Written as `git@host:path`, whose path begins in the user's home directory.
    is_short: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUrl {
    #[error("repository URL {0:?} cannot be read: {1}")]
    Unreadable(String, url::ParseError),
    #[error("the repository URL is {0} bytes long; at most {MAX_URL} are taken")]
    TooLong(usize),
    #[error("repository URL scheme {0:?} is not allowed: use https://, or ssh:// (or http://)")]
    Scheme(String),
    // The URL is not quoted: it contains the secret.
    #[error(
        "the repository URL contains credentials; remove the user name and password, credentials belong to the worker"
    )]
    Credentials,
    #[error("repository URL {0:?} does not say as which user to log in; over SSH write ssh://git@host/path")]
    NoUser(String),
    // Not quoted either, for the same reason.
    #[error(
        "the repository URL contains a space, a control character, a backslash, an encoded slash or a '..', which readers of URLs treat differently; write it out"
    )]
    Ambiguous,
    #[error("repository URL {0:?} has a query or a fragment, which git does not use")]
    Extra(String),
    #[error("repository URL {0:?} names a host that begins with a dash; no host does")]
    Host(String),
    #[error("repository URL {0:?} does not name a repository on the host")]
    NoPath(String),
}

impl RepositoryUrl {
    /// As a URL, in one way of writing: `git@host:path` is `ssh://git@host/path`.
    pub fn as_url(&self) -> &Url {
        &self.url
    }

    pub fn is_ssh(&self) -> bool {
        self.url.scheme() == "ssh"
    }

    /// The last segment of the path without `.git`: the name a forge shows.
    pub fn last_segment(&self) -> &str {
        let path = self.url.path().trim_end_matches('/');
        let segment = path.rsplit('/').next().unwrap_or(path);
        segment.strip_suffix(".git").unwrap_or(segment)
    }

    /// What a server is asked for over SSH, as git asks (connect.c, `parse_connect_url`): the path from the root,
    /// from a home directory where it begins with `~`, and from the user's own in the short form.
    pub(super) fn path_over_ssh(&self) -> String {
        let path = percent_decode_str(self.url.path()).decode_utf8_lossy().into_owned();
        match path.strip_prefix('/') {
            Some(rest) if self.is_short || rest.starts_with('~') => rest.to_owned(),
            _ => path,
        }
    }

    /// The repository that `relative` (`./x`, `../x`) names from this one, as git resolves the URLs of submodules
    /// (git-submodule(1), `add`): by its segments, and not as a browser would.
    pub(super) fn join(&self, relative: &str) -> Result<Self, InvalidUrl> {
        let mut segments: Vec<&str> = self.url.path().split('/').filter(|name| !name.is_empty()).collect();
        let mut names = relative.split('/').filter(|name| !name.is_empty()).peekable();
        while let Some(up) = names.next_if(|name| matches!(*name, "." | "..")) {
            if up == ".." && segments.pop().is_none() {
                return Err(InvalidUrl::NoPath(relative.to_owned()));
            }
        }
        segments.extend(names);
        let mut base = self.url.clone();
        base.set_path("");
        let path = segments.join("/");
        let text = format!("{}/{path}", base.as_str().trim_end_matches('/'));
        let mut joined: Self = text.parse()?;
        joined.is_short = self.is_short;
        Ok(joined)
    }
}

/// Reads a URL as far as all of ours have it in common: scheme, host, port, no password. The path may be empty, and
/// over SSH the user. Answers with whether it was written in the short form.
pub(super) fn parse_any(text: &str) -> Result<(Url, bool), InvalidUrl> {
    if text.len() > MAX_URL {
        return Err(InvalidUrl::TooLong(text.len()));
    }
    let unclear = |error: InvalidUrl| match text.contains('@') && text.contains("://") {
        true => InvalidUrl::Credentials,
        false => error,
    };
    // The parser would drop tabs and line ends, turn '\\' into '/' and resolve '..' without a word; servers read an
    // encoded slash as one.
    let lower = text.to_ascii_lowercase();
    let dots = |part: &str| part.replace("%2e", ".") == "..";
    let encoded = |byte: u8| lower.contains(&format!("%{byte:02x}"));
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
        || lower.split(['/', ':']).any(dots)
        || (0..0x20).chain([b'/', b'\\', 0x7f]).any(encoded)
    {
        return Err(unclear(InvalidUrl::Ambiguous));
    }
    let short = in_full(text);
    let is_short = short.is_some();
    let full = short.as_deref().unwrap_or(text);
    let mut url = Url::parse(full)
        .map_err(|error| unclear(InvalidUrl::Unreadable(text.chars().take(200).collect(), error)))?;
    match url.scheme() {
        "http" | "https" if !url.username().is_empty() => return Err(InvalidUrl::Credentials),
        "http" | "https" => {}
        "ssh" => normalise(&mut url, text)?,
        scheme => return Err(InvalidUrl::Scheme(scheme.to_owned())),
    }
    if url.password().is_some() {
        return Err(InvalidUrl::Credentials);
    }
    // It would be an option to a program that is handed it.
    if url.host_str().is_some_and(|host| host.starts_with('-')) {
        return Err(InvalidUrl::Host(text.to_owned()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(InvalidUrl::Extra(text.to_owned()));
    }
    Ok((url, is_short))
}

/// `user@host:path` as a URL. As git does, a slash before the colon makes it something else.
fn in_full(text: &str) -> Option<String> {
    let (user, rest) = text.split_once('@')?;
    let at = match rest.strip_prefix('[') {
        // An IPv6 address.
        Some(_) => rest.find("]:")? + 1,
        None => rest.find(':')?,
    };
    let (host, path) = (&rest[..at], &rest[at + 1..]);
    if user.contains(['/', ':']) || host.contains('/') || path.starts_with("//") {
        return None;
    }
    // In this form a percent sign stands for itself; a query it has none, and so refuses what looks like one.
    Some(format!("ssh://{user}@{host}/{}", path.trim_start_matches('/').replace('%', "%25")))
}

/// The parser takes a host that is not of the web as it stands: folds it here, so that two ways to write one host are
/// equal.
fn normalise(url: &mut Url, text: &str) -> Result<(), InvalidUrl> {
    let unreadable = |error| InvalidUrl::Unreadable(text.to_owned(), error);
    let host = Host::parse(url.host_str().unwrap_or_default()).map_err(unreadable)?;
    url.set_host(Some(&host.to_string())).map_err(unreadable)?;
    if url.port() == Some(SSH_PORT) {
        // It fails only for URLs without a host.
        let _ = url.set_port(None);
    }
    Ok(())
}

impl FromStr for RepositoryUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let (url, is_short) = parse_any(text)?;
        if url.scheme() == "ssh" && url.username().is_empty() {
            return Err(InvalidUrl::NoUser(text.to_owned()));
        }
        let from_root = is_short && text.split_once(':').is_some_and(|(_, path)| path.starts_with('/'));
        let url = Self { url, is_short: is_short && !from_root };
        // What begins with a dash would be an option to the program at the other end.
        if url.last_segment().is_empty() || url.path_over_ssh().starts_with('-') {
            return Err(InvalidUrl::NoPath(text.to_owned()));
        }
        Ok(url)
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.is_short, self.url.port()) {
            (true, None) => {
                let host = self.url.host_str().unwrap_or_default();
                write!(f, "{}@{host}:{}", self.url.username(), self.path_over_ssh())
            }
            _ => f.write_str(self.url.as_str()),
        }
    }
}

impl fmt::Debug for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for RepositoryUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
    fn takes_urls_of_the_web_and_of_ssh() {
        for (text, name) in [
            ("https://git.example.com/acme/storefront.git", "storefront"),
            ("http://127.0.0.1:3000/hello/", "hello"),
            ("https://git.example.com/a/b/c.d", "c.d"),
            ("ssh://git@git.example.com:2222/acme/x.git", "x"),
            ("git@git.example.com:acme/x.git", "x"),
            ("git@[::1]:x", "x"),
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
            "host:acme/x.git",
            "git@host",
            "git@host:",
            "git@host:-x",
            "git@-oProxyCommand=id:x",
            "ssh://git@-oProxyCommand=id/x",
            "https://-host/x",
            "git@host:a?b",
            "git@host:../x",
            "ssh://host/x",
            "ssh://git:p@host/x",
            "ssh://git@/x",
            "ssh://git@host",
            "ssh://git@host/x?y",
            "ssh://git@ho%20st/x",
            "https://host/a%2F..%2Fx",
            "https://host/a%00x",
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

    #[test]
    fn one_repository_over_ssh_is_written_in_one_way() {
        for (text, shown, path) in [
            ("ssh://git@Host:22/acme/x.git", "ssh://git@host/acme/x.git", "/acme/x.git"),
            ("ssh://git@host/~ada/x", "ssh://git@host/~ada/x", "~ada/x"),
            ("ssh://git@host/a%20b", "ssh://git@host/a%20b", "/a b"),
            ("git@HOST:acme/x.git", "git@host:acme/x.git", "acme/x.git"),
            ("git@host:a%20b", "git@host:a%20b", "a%20b"),
            ("git@host:/srv/x", "ssh://git@host/srv/x", "/srv/x"),
            ("git@host:~ada/x", "git@host:~ada/x", "~ada/x"),
            ("git@[::1]:x", "git@[::1]:x", "x"),
        ] {
            let url: RepositoryUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), url.path_over_ssh().as_str()), (shown, path), "{text}");
            assert_eq!(shown.parse::<RepositoryUrl>().unwrap(), url, "{text}");
        }
    }

    #[test]
    fn relative_urls_are_resolved_as_git_does() {
        for (base, relative, expected) in [
            ("https://host/acme/x.git", "../lib.git", "https://host/acme/lib.git"),
            ("https://host/acme/x.git/", "../../other/lib", "https://host/other/lib"),
            ("https://host:8443/acme/x.git", "./lib", "https://host:8443/acme/x.git/lib"),
            ("ssh://git@host:2222/acme/x", "../lib", "ssh://git@host:2222/acme/lib"),
            ("git@host:acme/x.git", "../lib.git", "git@host:acme/lib.git"),
        ] {
            let base: RepositoryUrl = base.parse().unwrap();
            assert_eq!(base.join(relative).unwrap().to_string(), expected);
        }
        let base: RepositoryUrl = "https://host/acme/x.git".parse().unwrap();
        for bad in ["../../../lib", "../..", "../a/../../b", "../a?b", "../a\u{1}"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    /// Pieces of URLs, good and bad, that readers of URLs have stumbled over.
    const PIECES: [&str; 30] = [
        "https://",
        "http://",
        "ssh://",
        "git@",
        "host",
        "example.com",
        ":22",
        ":99999",
        "/",
        "//",
        "..",
        "%2e",
        "%2f",
        "@",
        ":",
        "?",
        "#",
        "\\",
        " ",
        "\n",
        "[::1]",
        "[",
        "127.1",
        "ä",
        "-oProxyCommand=x",
        "ext::sh",
        ".git",
        "~",
        "a",
        "%",
    ];

    proptest::proptest! {
        #[test]
        fn what_is_taken_is_a_plain_url(parts in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..9)) {
            let text = parts.concat();
            if let Ok(url) = text.parse::<RepositoryUrl>() {
                let plain = url.as_url();
                proptest::prop_assert!(matches!(plain.scheme(), "http" | "https" | "ssh"), "{text:?}");
                proptest::prop_assert!(plain.password().is_none() && plain.query().is_none(), "{text:?}");
                proptest::prop_assert!(plain.username().is_empty() || plain.scheme() == "ssh", "{text:?}");
                proptest::prop_assert!(plain.host_str().is_some_and(|host| !host.starts_with('-')), "{text:?}");
                proptest::prop_assert!(!plain.path().split('/').any(|part| part == ".."), "{text:?}");
                // It says itself, and reads itself as the same.
                proptest::prop_assert_eq!(url.to_string().parse::<RepositoryUrl>().unwrap(), url);
            }
        }

        #[test]
        fn what_is_relative_stays_on_its_server(
            parts in proptest::collection::vec(proptest::sample::select(&PIECES[..]), 0..6),
            up in 0..6_usize,
        ) {
            let above: RepositoryUrl = "https://git.example.com/acme/group/shop.git".parse().unwrap();
            let relative = "../".repeat(up) + &parts.concat();
            if let Ok(url) = above.join(&relative) {
                proptest::prop_assert_eq!(url.as_url().origin(), above.as_url().origin(), "{:?}", relative);
            }
        }
    }
}
