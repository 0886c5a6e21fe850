//! Which front ends may read a Dockerfile. One named by `# syntax=` is an image that the engine pulls and runs, with the
//! build context before it and every step of the build in its hands.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What the name of an image without a host means (distribution/reference, normalize.go).
const DEFAULT_HOST: &str = "docker.io";
const OFFICIAL: &str = "library/";

/// An image that may be a front end: any version of it, or the one of a tag or digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Frontend {
    name: String,
    /// `:tag`, `@digest` or both; empty for any.
    version: String,
}

impl Frontend {
    /// The front end that BuildKit's own people publish.
    pub(super) fn official() -> Self {
        Self { name: format!("{DEFAULT_HOST}/docker/dockerfile"), version: String::new() }
    }

    /// Whether an image so called is this one.
    pub(super) fn allows(&self, image: &str) -> bool {
        image.parse::<Self>().is_ok_and(|image| {
            image.name == self.name && (self.version.is_empty() || image.version == self.version)
        })
    }
}

impl FromStr for Frontend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not the name of an image, such as docker/dockerfile or docker/dockerfile:1.7"
            )
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
        let tagged = text.split('@').next().unwrap_or(text);
        // A colon before the last slash is a port's.
        let path = tagged.rfind('/').map_or(0, |slash| slash + 1);
        let name = &tagged[..tagged[path..].find(':').map_or(tagged.len(), |colon| path + colon)];
        if name.is_empty() || name.split('/').any(str::is_empty) || !text.bytes().all(is_plain) {
            return Err(wrong());
        }
        let version = text[name.len()..].to_owned();
        let (host, rest) = match name.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest.to_owned()),
            Some(_) => (DEFAULT_HOST, name.to_owned()),
            None => (DEFAULT_HOST, format!("{OFFICIAL}{name}")),
        };
        let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
        Ok(Self { name: format!("{host}/{rest}"), version })
    }
}

fn is_host(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

impl TryFrom<String> for Frontend {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Frontend> for String {
    fn from(frontend: Frontend) -> Self {
        frontend.to_string()
    }
}

impl fmt::Display for Frontend {
    /// As it is usually written, without Docker Hub's host.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.strip_prefix("docker.io/").unwrap_or(&self.name);
        write!(f, "{}{}", name.strip_prefix(OFFICIAL).unwrap_or(name), self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_allows_its_image_by_every_name_and_no_other() {
        let official = Frontend::official();
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1",
            "docker.io/docker/dockerfile:1.7-labs",
            "index.docker.io/docker/dockerfile@sha256:00",
            "docker/dockerfile:1@sha256:00",
        ] {
            assert!(official.allows(image), "{image}");
        }
        for image in [
            "",
            "dockerfile",
            "docker/dockerfile-upstream",
            "docker/dockerfile/x",
            "evil.example.com/docker/dockerfile",
            "docker:5000/dockerfile",
            "Docker/dockerfile",
            "docker//dockerfile",
            "docker/dockerfile x",
        ] {
            assert!(!official.allows(image), "{image}");
        }
        let pinned: Frontend = "docker/dockerfile:1@sha256:00".parse().unwrap();
        assert!(pinned.allows("docker.io/docker/dockerfile:1@sha256:00"));
        assert!(!pinned.allows("docker/dockerfile:1") && !pinned.allows("docker/dockerfile"));
        let own: Frontend = "localhost:5000/front/end".parse().unwrap();
        assert!(own.allows("localhost:5000/front/end:2") && !own.allows("front/end"));
        for frontend in [pinned, own, Frontend::official(), "frontend".parse().unwrap()] {
            assert_eq!(frontend.to_string().parse::<Frontend>().unwrap(), frontend);
        }
    }
}
