//! What a build may be handed while it runs. It stays in memory: an engine is given each of it when it asks, and
//! writes none of it into an image unless the Dockerfile does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use secrecy::{SecretSlice, SecretString};

use super::ssh_key::SshKey;

/// Secrets by name, byte for byte as they are kept.
pub type SecretValues = BTreeMap<String, SecretSlice<u8>>;

/// The keys of SSH agents by the name of the agent.
pub type SshKeys = BTreeMap<String, Arc<[SshKey]>>;

/// All that one build may ask for; nothing of it is another namespace's.
#[derive(Debug, Clone, Default)]
pub struct BuildCredentials {
    pub secrets: SecretValues,
    pub registries: Registries,
    pub ssh: SshKeys,
}

impl BuildCredentials {
    /// Of all that a namespace has, what a build may have that names these secrets and SSH agents.
    ///
    /// # Errors
    /// The first that is not there, or that no build is handed.
    pub fn granted(&self, secrets: &BTreeSet<String>, ssh: &BTreeSet<String>) -> Result<Self, Missing> {
        if let Some(name) = secrets.iter().find(|name| OF_THE_ENGINE.iter().any(|own| name.starts_with(own)))
        {
            return Err(Missing::OfTheEngine(name.clone()));
        }
        Ok(Self {
            secrets: named(&self.secrets, secrets).map_err(Missing::Secret)?,
            ssh: named(&self.ssh, ssh).map_err(Missing::Ssh)?,
            registries: self.registries.clone(),
        })
    }

    /// Whether a build with it may make what others are not to see.
    pub fn is_private(&self) -> bool {
        !self.secrets.is_empty() || !self.ssh.is_empty()
    }
}

/// What a build was to have, and its namespace has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Secret(String),
    Ssh(String),
    /// A secret that the engine would use by itself.
    OfTheEngine(String),
}

/// How the secrets are called that the engine asks for by itself, for `ADD` of a private repository or file
/// (moby/buildkit, source/git, source/http). What it fetches lies in a cache that all namespaces share, where another
/// one gets it by the commit's id alone.
pub const OF_THE_ENGINE: [&str; 3] = ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "HTTP_AUTH_"];

fn named<T: Clone>(
    all: &BTreeMap<String, T>,
    names: &BTreeSet<String>,
) -> Result<BTreeMap<String, T>, String> {
    names
        .iter()
        .map(|name| all.get(name).map(|found| (name.clone(), found.clone())).ok_or_else(|| name.clone()))
        .collect()
}

/// A login for a registry.
#[derive(Debug, Clone)]
pub struct Login {
    /// Empty for an identity token, which takes the place of the password.
    pub user: String,
    pub secret: SecretString,
}

/// Makes a login when it is first asked for; the error says why it cannot.
pub type Lend = Arc<dyn Fn() -> BoxFuture<'static, Result<Login, String>> + Send + Sync>;

/// Logins by the host of their registry, with its port if it has one.
#[derive(Clone, Default)]
pub struct Registries {
    known: BTreeMap<String, Login>,
    lent: Option<(String, Lend)>,
}

impl Registries {
    pub fn add(&mut self, host: &str, login: Login) {
        self.known.insert(plain_host(host).to_owned(), login);
    }

    /// The login for `host` is made by `lend`, unless there is one.
    pub fn lend(&mut self, host: &str, lend: Lend) {
        self.lent = Some((plain_host(host).to_owned(), lend));
    }

    /// The login for the registry that the engine calls `host`.
    ///
    /// # Errors
    /// It could not be made.
    pub async fn login(&self, host: &str) -> Result<Option<Login>, String> {
        let host = plain_host(host);
        match (self.known.get(host), &self.lent) {
            (Some(login), _) => Ok(Some(login.clone())),
            (None, Some((own, lend))) if own == host => lend().await.map(Some),
            (None, _) => Ok(None),
        }
    }
}

impl fmt::Debug for Registries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lent = self.lent.as_ref().map(|(host, _)| host);
        f.debug_struct("Registries").field("known", &self.known).field("lent", &lent).finish()
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

    #[tokio::test]
    async fn a_registry_is_known_by_all_its_names() {
        let mut registries = Registries::default();
        for (host, user) in [("https://index.docker.io/v1/", "hub"), ("mirror.example.com:5000", "mirror")] {
            registries.add(host, Login { user: user.to_owned(), secret: String::new().into() });
        }
        let user = async |host: &str| registries.login(host).await.unwrap().map(|login| login.user);
        assert_eq!(user("registry-1.docker.io").await.as_deref(), Some("hub"));
        assert_eq!(user("docker.io").await.as_deref(), Some("hub"));
        assert_eq!(user("mirror.example.com:5000").await.as_deref(), Some("mirror"));
        assert_eq!(user("mirror.example.com").await, None);
    }

    #[tokio::test]
    async fn a_login_is_lent_for_its_registry_unless_there_is_one() {
        let mut registries = Registries::default();
        registries
            .lend("localhost:5000", Arc::new(|| Box::pin(async { Err("the store is full".to_owned()) })));
        assert_eq!(registries.login("localhost:5000").await.unwrap_err(), "the store is full");
        assert!(registries.login("localhost").await.unwrap().is_none());
        registries.add("localhost:5000", Login { user: "own".to_owned(), secret: String::new().into() });
        assert_eq!(registries.login("localhost:5000").await.unwrap().unwrap().user, "own");
    }
}
