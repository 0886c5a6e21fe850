//! Names of images and their parts, digests and logins.

use std::fmt::{Debug, Display};
use std::str::FromStr;
use std::sync::LazyLock;

use buildgrid::publish::name::{ImageRepository, RepositoryName, Tag};
use buildgrid::store::UserName;
use buildgrid::store::digest::Digest;
use regex::Regex;

/// The OCI distribution specification 1.1, "Pulling manifests".
static NAME: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$").unwrap()
});
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$").unwrap());
/// The OCI image specification 1.1, "Registered algorithms".
static DIGEST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^sha256:[a-f0-9]{64}$").unwrap());

/// What is taken for a name is one by the specification, and is written as it was read.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(name) = read::<ImageRepository>(text) {
        assert!(NAME.is_match(text) && text.len() <= 192, "{text:?} is no name");
        let parts = (name.namespace.as_str(), name.app.as_str(), name.repository.as_str());
        assert_eq!(format!("{}/{}.{}", parts.0, parts.1, parts.2), text);
    }
    assert_eq!(read::<Tag>(text).is_some(), TAG.is_match(text), "{text:?}");
    assert_eq!(read::<Digest>(text).is_some(), DIGEST.is_match(text), "{text:?}");
    if read::<UserName>(text).is_some() {
        // It is the name of a file.
        assert!(!text.contains(['/', '\0']) && !text.starts_with('.'), "{text:?}");
    }
    if let Ok(folded) = RepositoryName::fold(text) {
        assert!(NAME.is_match(folded.as_str()) && !folded.as_str().contains('/'), "{text:?}");
    }
}

fn read<T: FromStr<Err: Display> + Display + Debug>(text: &str) -> Option<T> {
    match text.parse::<T>() {
        Ok(read) => {
            assert_eq!(read.to_string(), text);
            Some(read)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}
