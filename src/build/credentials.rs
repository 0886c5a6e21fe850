//! What a build may be handed while it runs. It stays in memory: an engine is given each of it when it asks, and
//! writes none of it into an image unless the Dockerfile does.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::{SecretSlice, SecretString};

/// Secrets by name, byte for byte as they are kept.
pub type SecretValues = BTreeMap<String, SecretSlice<u8>>;

/// All that one build may ask for; nothing of it is another namespace's.
#[derive(Debug, Clone, Default)]
pub struct BuildCredentials {
    pub secrets: SecretValues,
    pub registries: Registries,
}

impl BuildCredentials {
    /// Of all that a namespace has, what a build may have that names these secrets.
    ///
    /// # Errors
    /// The name of one that is not there.
    pub fn granted(&self, secrets: &BTreeSet<String>) -> Result<Self, String> {
        let value = |name: &String| match self.secrets.get(name) {
            Some(value) => Ok((name.clone(), value.clone())),
            None => Err(name.clone()),
        };
        let secrets = secrets.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Self { secrets, registries: self.registries.clone() })
    }
}

/// A login for a registry.
#[derive(Debug, Clone)]
pub struct Login {
    /// Empty for an identity token, which takes the place of the password.
    pub user: String,
    pub secret: SecretString,
}

/// Logins by the host of their registry, with its port if it has one.
#[derive(Debug, Clone, Default)]
pub struct Registries(BTreeMap<String, Login>);

impl Registries {
    pub fn add(&mut self, host: &str, login: Login) {
        self.0.insert(plain_host(host).to_owned(), login);
    }

    /// The login for the registry that the engine calls `host`.
    pub fn login(&self, host: &str) -> Option<&Login> {
        self.0.get(plain_host(host))
    }
}

/// Docker Hub has several names, and Docker's own file has URLs for keys.
fn plain_host(host: &str) -> &str {
    let host = host.strip_prefix("https://").or_else(|| host.strip_prefix("http://")).unwrap_or(host);
    let host = host.split('/').next().unwrap_or(host);
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_known_by_all_its_names() {
        let mut registries = Registries::default();
        for (host, user) in [("https://index.docker.io/v1/", "hub"), ("mirror.example.com:5000", "mirror")] {
            registries.add(host, Login { user: user.to_owned(), secret: String::new().into() });
        }
        let user = |host: &str| registries.login(host).map(|login| login.user.as_str());
        assert_eq!(user("registry-1.docker.io"), Some("hub"));
        assert_eq!(user("docker.io"), Some("hub"));
        assert_eq!(user("mirror.example.com:5000"), Some("mirror"));
        assert_eq!(user("mirror.example.com"), None);
    }
}
