//! Registry logins: generated, shown once, kept in the store as a digest with the namespaces that
//! they may pull. A registry needs nothing but the store, any number of replicas can run, and a
//! login that is removed is refused a second later, because a registry believes what it has read no longer than that.
//!
//! A plain SHA-256 is enough here: a password has 160 random bits, which no one can try out.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use rustix::fs::{Access, access};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

use super::backend::{Backend, Swap};
use super::digest::Digest;
use super::error::{DamagedLogin, StoreError};
use super::handle::Store;
use super::layout;
use super::unread::{PassedOver, Unread};
use super::user::UserName;
use crate::publish::name::Namespace;

/// 160 random bits.
const PASSWORD_BYTES: usize = 20;

/// The longest password that is looked at, in bytes: four times as long as those that are made.
const MAX_PASSWORD: usize = 128;

/// A registry login as it is kept: everything but the password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub user: UserName,
    password_digest: Digest,
    /// The namespaces whose images it may pull.
    pub namespaces: BTreeSet<Namespace>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the password was last made anew.
    #[serde(with = "time::serde::rfc3339::option")]
    pub rotated_at: Option<OffsetDateTime>,
    /// From when on it is refused. Only one that is lent to a build has an end.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

impl Credential {
    /// Whether this is its password, and it may be used still.
    pub fn is_for(&self, password: &str) -> bool {
        password.len() <= MAX_PASSWORD && self.has(Digest::of(password.as_bytes()))
    }

    /// Whether its password has this digest, compared in constant time, and it may be used still.
    fn has(&self, password: Digest) -> bool {
        let same = self.password_digest.as_bytes().ct_eq(password.as_bytes());
        bool::from(same) && !self.has_expired()
    }

    fn has_expired(&self) -> bool {
        self.expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc())
    }
}

/// The logins of a store, each sorted by user name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub usable: Vec<Credential>,
    pub damaged: Vec<DamagedLogin>,
    pub unread: Vec<UnreadLogin>,
}

/// A login whose file cannot be read now. Nothing is known of it, so that nothing tells anybody to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadLogin {
    pub user: UserName,
    pub file: Unread,
}

impl fmt::Display for UnreadLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; the login may be good: look at whose its file is and at the disk, or try again",
            self.file
        )
    }
}

/// A login with its password, which cannot be had a second time.
#[derive(Debug)]
pub struct NewCredential {
    pub credential: Credential,
    pub password: SecretString,
}

impl Store {
    /// Makes a login for one or more namespaces. Its user name begins with the first of them.
    pub async fn add_credential(&self, namespaces: BTreeSet<Namespace>) -> Result<NewCredential, StoreError> {
        self.make_credential(namespaces, None).await
    }

    /// Makes a login for a namespace that is refused after `lasts`, also where nobody removes it.
    pub async fn lend_credential(
        &self,
        namespace: Namespace,
        lasts: Duration,
    ) -> Result<NewCredential, StoreError> {
        // A time beyond what a date can tell is never reached.
        let end = time::Duration::try_from(lasts).ok().and_then(|lasts| now().checked_add(lasts));
        self.make_credential([namespace].into(), end).await
    }

    async fn make_credential(
        &self,
        namespaces: BTreeSet<Namespace>,
        expires_at: Option<OffsetDateTime>,
    ) -> Result<NewCredential, StoreError> {
        self.blocking(move |backend| {
            let prefix = namespaces.first().map_or("pull", Namespace::as_str);
            let password = random_text::<PASSWORD_BYTES>();
            loop {
                let credential = Credential {
                    user: UserName::generate(prefix),
                    password_digest: Digest::of(password.as_bytes()),
                    namespaces: namespaces.clone(),
                    created_at: now(),
                    rotated_at: None,
                    expires_at,
                };
                let key = layout::credential(&credential.user);
                // A name that exists by chance is another's.
                if backend.put_if_absent(&[], &key, &json(&credential))? == Swap::Done {
                    return Ok(NewCredential { credential, password: password.into() });
                }
            }
        })
        .await
    }

    /// Gives a login a new password; registries refuse the old one a second later. `None`: there is no such login.
    pub async fn rotate_credential(&self, user: &UserName) -> Result<Option<NewCredential>, StoreError> {
        let user = user.clone();
        self.blocking(move |backend| {
            let Some(mut credential) = read(backend, &user)? else { return Ok(None) };
            let password = random_text::<PASSWORD_BYTES>();
            credential.password_digest = Digest::of(password.as_bytes());
            credential.rotated_at = Some(now());
            backend.put(&[(&layout::credential(&user), &json(&credential))])?;
            Ok(Some(NewCredential { credential, password: password.into() }))
        })
        .await
    }

    /// All logins.
    pub async fn credentials(&self) -> Result<Credentials, StoreError> {
        self.blocking(all).await
    }

    /// A login, if there is one of this name.
    pub async fn credential(&self, user: &UserName) -> Result<Option<Credential>, StoreError> {
        let user = user.clone();
        self.blocking(move |backend| read(backend, &user)).await
    }

    /// Whether this process may make and change logins, as far as can be told without doing it.
    pub async fn may_write_credentials(&self) -> Result<bool, StoreError> {
        self.blocking(|backend| {
            // Of an object store only trying tells.
            let Some(directory) = backend.directory() else { return Ok(true) };
            // A file is written in the one and moved into the other, which the first login makes.
            let places = [layout::temporary_files(), layout::credentials()].map(|key| directory.place(&key));
            let writable = |place: &std::path::Path| {
                let place = place.ancestors().find(|place| place.exists());
                place.is_some_and(|place| access(place, Access::WRITE_OK | Access::EXEC_OK).is_ok())
            };
            Ok(places.iter().all(|place| writable(place)))
        })
        .await
    }

    /// Removes a login, which registries refuse a second later; answers whether there was one.
    pub async fn remove_credential(&self, user: &UserName) -> Result<bool, StoreError> {
        let key = layout::credential(user);
        self.blocking(move |backend| backend.remove(&key)).await
    }

    /// Removes the logins that have expired, and answers how many. Blocking.
    pub fn sweep_credentials(&self) -> Result<u64, StoreError> {
        let backend = self.backend();
        let Credentials { usable, damaged, unread } = all(backend)?;
        let damaged = damaged.iter().map(ToString::to_string);
        for login in damaged.chain(unread.iter().map(ToString::to_string)) {
            tracing::warn!(login, "it cannot be told whether a login has expired");
        }
        let mut removed = 0;
        for credential in usable.iter().filter(|credential| credential.has_expired()) {
            removed += u64::from(backend.remove(&layout::credential(&credential.user))?);
        }
        Ok(removed)
    }

    /// The login of this user and password. An unknown user takes the work of a wrong password, but for reading a file that
    /// is there; one that no password can be, for its length, takes none.
    pub async fn verify_credential(
        &self,
        user: &str,
        password: &str,
    ) -> Result<Option<Credential>, StoreError> {
        if password.len() > MAX_PASSWORD {
            return Ok(None);
        }
        let user = user.parse::<UserName>().ok();
        let given = Digest::of(password.as_bytes());
        self.blocking(move |backend| {
            let found = user.as_ref().map(|user| read(backend, user)).transpose()?.flatten();
            let known = found.is_some();
            let credential = found.unwrap_or_else(decoy);
            Ok((credential.has(given) && known).then_some(credential))
        })
        .await
    }
}

fn read(backend: &Backend, user: &UserName) -> Result<Option<Credential>, StoreError> {
    let key = layout::credential(user);
    let Some(bytes) = backend.read(&key)? else { return Ok(None) };
    let credential = parse(&bytes).map_err(|error| DamagedLogin {
        path: backend.place(&key),
        user: user.clone(),
        reason: error.to_string(),
    })?;
    Ok(Some(credential))
}

/// One that cannot be read costs no other.
fn all(backend: &Backend) -> Result<Credentials, StoreError> {
    let (mut passed, mut credentials) = (PassedOver::new(backend), Credentials::default());
    let files = backend.list(&layout::credentials())?;
    for user in files.iter().filter_map(|file| file.strip_suffix(".json")?.parse::<UserName>().ok()) {
        match read(backend, &user) {
            Ok(credential) => credentials.usable.extend(credential),
            Err(StoreError::DamagedLogin(login)) => credentials.damaged.push(login),
            Err(error) => {
                let file = passed.count(error)?;
                credentials.unread.push(UnreadLogin { user, file });
            }
        }
    }
    Ok(credentials)
}

/// Stands in for the login of an unknown user: parsed and compared as one is. Its password is the empty one, by which nobody
/// gets in.
fn decoy() -> Credential {
    const DECOY: &[u8] = br#"{"user":"nobody","password_digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","namespaces":["nobody"],"created_at":"2026-01-01T00:00:00Z","rotated_at":null}"#;
    parse(DECOY).expect("the constant is a login: every unknown user's attempt reads it")
}

fn parse(bytes: &[u8]) -> serde_json::Result<Credential> {
    serde_json::from_slice(bytes)
}

fn json(credential: &Credential) -> Vec<u8> {
    serde_json::to_vec_pretty(credential).expect("all fields have a JSON form")
}

/// Times are kept in whole seconds.
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().truncate_to_second()
}

/// Random bytes as lower-case base32: eight characters for five bytes.
pub(super) fn random_text<const BYTES: usize>() -> String {
    BASE32_NOPAD.encode(&rand::random::<[u8; BYTES]>()).to_ascii_lowercase()
}

#[cfg(test)]
#[path = "credentials_tests.rs"]
mod tests;
