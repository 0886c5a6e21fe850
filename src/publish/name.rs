//! Names: the parts of an image's name and the name itself, `<namespace>/<app>.<repo>:<tag>`.
//!
//! Pure: no input or output. Every part is one path component in the sense of the OCI distribution
//! specification 1.1 ("Pulling manifests": `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`), narrowed so that a
//! name reads in one way only and no client takes a namespace for a host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::source::commit::CommitId;

/// The longest component, in characters.
const MAX_COMPONENT: usize = 96;

/// The longest name of a repository, in characters. Clients allow 255 together with the registry's host and port and
/// the slash after them (OCI distribution specification 1.1, "Pulling manifests"); this leaves 62 for these.
const MAX_NAME: usize = 192;

/// The longest tag (OCI distribution specification 1.1: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
const MAX_TAG: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error(
        "{part} {value:?} is not a name: lower-case letters and digits, joined by single separators ({separators}), at most {MAX_COMPONENT} characters"
    )]
    Grammar { part: &'static str, value: String, separators: &'static str },
    #[error(
        "namespace {0:?} would be taken for a host by registry clients; choose a name other than localhost"
    )]
    Host(String),
    #[error(
        "variant {0:?} is not a name: a lower-case letter or digit, then up to 62 of a-z, 0-9, '_', '.' and '-'"
    )]
    Variant(String),
    #[error(
        "the image's name {name}… is {length} characters long, at most {MAX_NAME} are taken: clients allow 255 with the registry's host; choose a shorter namespace, app or repository name"
    )]
    Long { name: String, length: usize },
    #[error("{0:?} is not an image name of the form <namespace>/<app>.<repository>:<tag>")]
    Image(String),
}

/// Whether `text` is one path component; `dot` says whether '.' may separate.
fn is_component(text: &str, dot: bool) -> bool {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_COMPONENT {
        return false;
    }
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    // Between two runs of letters and digits: one dot, one or two underscores, or any count of hyphens.
    let mut runs = bytes.split(|&byte| alphanumeric(byte)).filter(|run| !run.is_empty());
    alphanumeric(bytes[0])
        && alphanumeric(bytes[bytes.len() - 1])
        && runs.all(|run| match run {
            b"." => dot,
            b"_" | b"__" => true,
            _ => run.iter().all(|&byte| byte == b'-'),
        })
}

macro_rules! component {
    ($(#[$doc:meta])* $name:ident, $part:literal, dot: $dot:literal, $separators:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }

            fn check(text: &str) -> Result<(), InvalidName> {
                if is_component(text, $dot) {
                    return Ok(());
                }
                Err(InvalidName::Grammar {
                    part: $part,
                    value: text.chars().take(MAX_COMPONENT + 1).collect(),
                    separators: $separators,
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

component!(
    /// A tenant: the first component of an image's name, and what credentials are limited to.
    Namespace, "namespace", dot: false, "'_', '__' or hyphens"
);
component!(
    /// An app of a namespace. It has no dot, so that `<app>.<repository>` reads in one way only.
    AppName, "app", dot: false, "'_', '__' or hyphens"
);
component!(
    /// The name of the repository that an app is built from.
    RepositoryName, "repository name", dot: true, "'.', '_', '__' or hyphens"
);

impl FromStr for Namespace {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::check(text)?;
        if text == "localhost" {
            return Err(InvalidName::Host(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for AppName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl RepositoryName {
    /// Folds a forge's name into the grammar: lower case, anything outside it becomes `-`,
    /// separators at the ends are trimmed, and what remains is validated.
    pub fn fold(name: &str) -> Result<Self, InvalidName> {
        let folded: String = name
            .chars()
            .map(|c| match c.to_ascii_lowercase() {
                c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
                _ => '-',
            })
            .collect();
        folded.trim_matches(['.', '_', '-']).parse()
    }
}

/// What tells two images of one commit apart: it is appended to the tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Variant(String);

impl Variant {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Variant {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let later = |byte: u8| first(byte) || matches!(byte, b'_' | b'.' | b'-');
        match text.as_bytes() {
            [head, tail @ ..] if first(*head) && tail.len() <= 62 && tail.iter().all(|&b| later(b)) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidName::Variant(text.chars().take(80).collect())),
        }
    }
}

impl<'de> Deserialize<'de> for Variant {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An image's repository in the registry: `<namespace>/<app>.<repository>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageRepository {
    pub namespace: Namespace,
    pub app: AppName,
    pub repository: RepositoryName,
}

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.namespace, self.app, self.repository)
    }
}

impl fmt::Debug for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ImageRepository {
    /// # Errors
    /// [`InvalidName::Long`] where they are so long together that clients do not take the name.
    pub fn new(namespace: Namespace, app: AppName, repository: RepositoryName) -> Result<Self, InvalidName> {
        let name = Self { namespace, app, repository };
        let text = name.to_string();
        match text.len() {
            ..=MAX_NAME => Ok(name),
            length => Err(InvalidName::Long { name: text[..MAX_COMPONENT].to_owned(), length }),
        }
    }
}

impl FromStr for ImageRepository {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let image = || InvalidName::Image(text.chars().take(300).collect());
        let (namespace, name) = text.split_once('/').ok_or_else(image)?;
        let (app, repository) = name.split_once('.').ok_or_else(image)?;
        Self::new(namespace.parse()?, app.parse()?, repository.parse()?)
    }
}

/// A tag: a commit, with the variant where the event names one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    pub fn of(commit: &CommitId, variant: Option<&Variant>) -> Self {
        match variant {
            None => Self(commit.to_string()),
            Some(variant) => Self(format!("{commit}-{}", variant.as_str())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let later = |byte: u8| first(byte) || matches!(byte, b'.' | b'-');
        match text.as_bytes() {
            [head, tail @ ..] if first(*head) && tail.len() < MAX_TAG && tail.iter().all(|&b| later(b)) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidName::Image(text.chars().take(300).collect())),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an image: `<namespace>/<app>.<repository>:<tag>`. With the registry's host before it,
/// it is the image URL.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImageName {
    pub repository: ImageRepository,
    pub tag: Tag,
}

impl ImageName {
    /// What `docker pull` takes.
    pub fn url(&self, registry_host: &str) -> String {
        format!("{registry_host}/{self}")
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl fmt::Debug for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn components_follow_the_grammar() {
        for good in ["acme", "a", "9", "a-b", "a--b", "a_b", "a__b", "a1-2", &"a".repeat(96)] {
            assert!(good.parse::<Namespace>().is_ok(), "{good}");
            assert!(good.parse::<AppName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "_a",
            "a.",
            "a___b",
            "a-_b",
            "a.b",
            "a/b",
            "../a",
            "a b",
            "a\0",
            "é",
            "a:5000",
            &"a".repeat(97),
        ] {
            assert!(bad.parse::<Namespace>().is_err(), "{bad}");
            assert!(bad.parse::<AppName>().is_err(), "{bad}");
        }
        assert!("a.b".parse::<RepositoryName>().is_ok());
        assert!("a..b".parse::<RepositoryName>().is_err());
        assert!("localhost".parse::<Namespace>().unwrap_err().to_string().contains("host"));
    }

    #[test]
    fn folds_repository_names() {
        for (given, folded) in [
            ("Storefront", "storefront"),
            ("My Shop!", "my-shop"),
            (".dotfiles", "dotfiles"),
            ("a b_c.d", "a-b_c.d"),
            ("-_x_-", "x"),
        ] {
            assert_eq!(RepositoryName::fold(given).unwrap().as_str(), folded);
        }
        for bad in ["", "---", "..", "日本", "a..b"] {
            assert!(RepositoryName::fold(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn image_names_read_in_one_way() {
        let repository: ImageRepository = "acme/shop.store.front".parse().unwrap();
        assert_eq!(repository.app.as_str(), "shop");
        assert_eq!(repository.repository.as_str(), "store.front");
        let commit: CommitId = "9fceb02d0ae598e95dc970b74767f19372d61af8".parse().unwrap();
        let variant: Variant = "debug".parse().unwrap();
        let name = ImageName { repository, tag: Tag::of(&commit, Some(&variant)) };
        assert_eq!(
            name.url("registry.example.com"),
            "registry.example.com/acme/shop.store.front:9fceb02d0ae598e95dc970b74767f19372d61af8-debug"
        );
        for bad in ["acme", "acme/shop", "acme/shop.", "acme/.front", "a/b/c.d", "../etc/x.y"] {
            assert!(bad.parse::<ImageRepository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_that_clients_do_not_take_is_refused() {
        let full = format!("{}/{}.{}", "n".repeat(96), "a".repeat(50), "r".repeat(44));
        assert_eq!(full.len(), MAX_NAME);
        assert!(full.parse::<ImageRepository>().is_ok());
        let error = format!("{full}r").parse::<ImageRepository>().unwrap_err().to_string();
        assert!(error.contains("193") && error.contains("192") && error.contains("255"), "{error}");
    }

    proptest! {
        #[test]
        fn folding_gives_a_valid_name_or_none(name in ".{0,40}") {
            if let Ok(folded) = RepositoryName::fold(&name) {
                prop_assert_eq!(folded.as_str().parse::<RepositoryName>().unwrap(), folded.clone());
                prop_assert_eq!(RepositoryName::fold(folded.as_str()).unwrap(), folded);
            }
        }
    }
}
