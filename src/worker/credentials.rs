//! What lies in the credentials directory for the builds of a namespace: each kind by the name of its file.
//!
//! | file | what |
//! |---|---|
//! | `secret.<namespace>.<name>` | a secret, handed over byte for byte |
//! | `registry.<namespace>` | logins for registries of base images, in the format of Docker's `config.json` |
//! | `ssh.<namespace>.<name>` | private keys of an SSH agent, one or more, in OpenSSH's format |

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::BASE64;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::Deserialize;

use super::secrets::Secret;
use crate::build::credentials::{BuildCredentials, Login, Registries};
use crate::build::ssh_key::SshKey;
use crate::publish::name::Namespace;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Secret(String),
    /// Of which namespace.
    Registries(String),
    Ssh(String),
}

impl Kind {
    /// The kind of a file of this namespace's, by its name. A namespace has no dot, so that none is another's.
    pub(super) fn of(file: &str, namespace: &Namespace) -> Option<Self> {
        let mut parts = file.splitn(3, '.');
        let (kind, owner, name) = (parts.next()?, parts.next()?, parts.next());
        match (kind, name) {
            _ if owner != namespace.as_str() => None,
            ("secret", Some(name)) => Some(Self::Secret(name.to_owned())),
            ("ssh", Some(name)) => Some(Self::Ssh(name.to_owned())),
            ("registry", None) => Some(Self::Registries(owner.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Ssh(name) => write!(f, "SSH key {name}"),
            Self::Registries(namespace) => write!(f, "registry.{namespace}"),
        }
    }
}

/// A file as it was read.
pub(super) struct File {
    pub(super) kind: Kind,
    pub(super) value: SecretSlice<u8>,
}

impl File {
    /// What of files builds may be handed, and what of them no log may show. What cannot be used becomes words.
    pub(super) fn sort(files: Vec<Self>, words: &mut Vec<String>) -> (BuildCredentials, Vec<Secret>) {
        let (mut credentials, mut hidden) = (BuildCredentials::default(), Vec::new());
        for Self { kind, value } in files {
            let name = kind.to_string();
            match kind {
                Kind::Secret(id) => {
                    hidden.push(Secret { name, value: value.clone() });
                    credentials.secrets.insert(id, value);
                }
                Kind::Ssh(id) => {
                    match SshKey::read(value.expose_secret()) {
                        Ok(keys) => drop(credentials.ssh.insert(id, keys.into())),
                        Err(reason) => words.push(format!("{name} cannot be used: {reason}")),
                    }
                    hidden.push(Secret { name, value });
                }
                Kind::Registries(_) => match logins(value.expose_secret()) {
                    Ok(logins) => add(logins, &mut credentials.registries, &mut hidden),
                    Err(reason) => words.push(format!("the logins of {name} cannot be used: {reason}")),
                },
            }
        }
        (credentials, hidden)
    }
}

fn add(logins: Vec<(String, Login)>, registries: &mut Registries, hidden: &mut Vec<Secret>) {
    for (host, login) in logins {
        let value = login.secret.expose_secret().as_bytes().to_vec().into();
        hidden.push(Secret { name: format!("the login for {host}"), value });
        registries.add(&host, login);
    }
}

/// Docker's `config.json` (docker/cli, cli/config/configfile), of which the rest is Docker's own.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Auth {
    /// `user:password` in base64.
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<SecretString>,
}

fn logins(file: &[u8]) -> Result<Vec<(String, Login)>, String> {
    // serde's words quote what they do not like, which may be a password.
    let config: DockerConfig = serde_json::from_slice(file).map_err(|error| {
        format!("it is not JSON as Docker writes it (line {}, column {})", error.line(), error.column())
    })?;
    if config.creds_store.is_some() || !config.cred_helpers.is_empty() {
        return Err("its logins are elsewhere (credsStore, credHelpers); write them into auths".to_owned());
    }
    let login = |(host, auth): (String, Auth)| match auth.login() {
        Some(login) => Ok((host, login)),
        None => Err(format!("{host} has no login: \"auth\" is user:password in base64")),
    };
    config.auths.into_iter().map(login).collect()
}

impl Auth {
    fn login(self) -> Option<Login> {
        let filled = |text: &SecretString| !text.expose_secret().is_empty();
        if let Some(secret) = self.identity_token.filter(filled) {
            return Some(Login { user: String::new(), secret });
        }
        if let (Some(user), Some(secret)) = (self.username.filter(|user| !user.is_empty()), self.password) {
            return Some(Login { user, secret });
        }
        let decoded = BASE64.decode(self.auth?.expose_secret().trim().as_bytes()).ok()?;
        let (user, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
        // Docker pads it so.
        let password = password.trim_end_matches('\0');
        Some(Login { user: user.to_owned(), secret: password.to_owned().into() })
    }
}
