//! Registry logins: generated, shown once, kept in the store as a digest with the namespaces that
//! they may pull. A registry needs nothing but the store, any number of replicas can run, and a
//! login that is removed is refused a second later, because a registry believes what it has read no longer than that.
//!
//! A plain SHA-256 is enough here: a password has 160 random bits, which no one can try out.

use std::collections::BTreeSet;
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
use super::unread::PassedOver;
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
        let Credentials { usable, damaged } = all(backend)?;
        for login in damaged {
            tracing::warn!(%login, "it cannot be told whether a login has expired");
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
    let credential = parse(&bytes).map_err(|error| damaged(backend, user, error.to_string()))?;
    Ok(Some(credential))
}

fn damaged(backend: &Backend, user: &UserName, reason: String) -> DamagedLogin {
    DamagedLogin { path: backend.place(&layout::credential(user)), user: user.clone(), reason }
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
                let reason = passed.count(error)?.reason;
                credentials.damaged.push(damaged(backend, &user, reason));
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
mod tests {
    use super::*;
    use crate::store::StoreConfig;
    use secrecy::ExposeSecret as _;

    #[tokio::test]
    async fn are_verified_until_rotated_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(root.path().join("store"));
        let store = Store::open(&config).unwrap();
        let reader = Store::open_read_only(&config).unwrap();
        let namespaces: BTreeSet<Namespace> = ["acme", "smoke"].map(|name| name.parse().unwrap()).into();
        let added = store.add_credential(namespaces.clone()).await.unwrap();
        let user = added.credential.user.clone();
        let first = added.password.expose_secret();
        assert!(user.as_str().starts_with("acme-") && first.len() == 32, "{user} {first}");

        let verified = reader.verify_credential(user.as_str(), first).await.unwrap().unwrap();
        assert_eq!((&verified, &verified.namespaces), (&added.credential, &namespaces));
        for (name, password) in [
            (user.as_str(), "wrong"),
            (user.as_str(), ""),
            ("acme-other", first),
            ("", ""),
            // The decoy's.
            ("nobody", ""),
            ("../version", first),
        ] {
            assert_eq!(reader.verify_credential(name, password).await.unwrap(), None, "{name}");
        }

        assert_eq!(reader.credential(&user).await.unwrap().as_ref(), Some(&added.credential));
        assert!(store.may_write_credentials().await.unwrap());
        let rotated = store.rotate_credential(&user).await.unwrap().unwrap();
        let second = rotated.password.expose_secret();
        assert_eq!(reader.verify_credential(user.as_str(), first).await.unwrap(), None);
        assert!(reader.verify_credential(user.as_str(), second).await.unwrap().is_some());
        let all = reader.credentials().await.unwrap();
        assert_eq!((&all.usable[..], &all.damaged[..]), (std::slice::from_ref(&rotated.credential), &[][..]));

        assert!(store.remove_credential(&user).await.unwrap());
        assert!(!store.remove_credential(&user).await.unwrap());
        assert_eq!(reader.verify_credential(user.as_str(), second).await.unwrap(), None);
        assert!(store.rotate_credential(&user).await.unwrap().is_none());
        assert_eq!(reader.credential(&user).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_password_that_is_too_long_is_not_even_hashed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path())).unwrap();
        let added = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
        let user = added.credential.user.clone();
        let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
        for (length, is_good) in [(MAX_PASSWORD, true), (MAX_PASSWORD + 1, false), (1 << 20, false)] {
            let password = "x".repeat(length);
            let password_digest = Digest::of(password.as_bytes());
            // By its digest it is the right one.
            std::fs::write(&file, json(&Credential { password_digest, ..added.credential.clone() })).unwrap();
            let verified = store.verify_credential(user.as_str(), &password).await.unwrap();
            assert_eq!(verified.is_some(), is_good, "{length}");
        }
    }

    #[tokio::test]
    async fn one_that_is_lent_ends_by_itself() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
        let valid = async |new: &NewCredential| {
            let (user, password) = (new.credential.user.as_str(), new.password.expose_secret());
            store.verify_credential(user, password).await.unwrap().is_some()
        };
        let lent = store.lend_credential("acme".parse().unwrap(), Duration::from_secs(3600)).await.unwrap();
        let over = store.lend_credential("acme".parse().unwrap(), Duration::ZERO).await.unwrap();
        let kept = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
        assert!(valid(&lent).await && valid(&kept).await && !valid(&over).await);
        assert_eq!(store.sweep_credentials().unwrap(), 1);
        let left: Vec<_> = store.credentials().await.unwrap().usable;
        assert!(left.contains(&lent.credential) && left.contains(&kept.credential) && left.len() == 2);
        let file = root.path().join(format!("buildgrid/credentials/{}.json", kept.credential.user));
        assert!(
            !std::fs::read_to_string(file).unwrap().contains("expires_at"),
            "as earlier versions wrote it"
        );
    }

    #[tokio::test]
    async fn a_damaged_one_is_told_with_what_helps_and_hides_no_other() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path())).unwrap();
        let add = || store.add_credential(["acme".parse().unwrap()].into());
        let (user, other) = (add().await.unwrap().credential.user, add().await.unwrap().credential);
        let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
        for is_loop in [false, true] {
            match is_loop {
                false => std::fs::write(&file, "{").unwrap(),
                true => std::os::unix::fs::symlink(&file, &file).unwrap(),
            }
            let over = store.lend_credential("acme".parse().unwrap(), Duration::ZERO).await.unwrap();
            let told = store.credential(&user).await.unwrap_err().to_string();
            assert!(!told.contains("image") && told.contains(&*file.to_string_lossy()), "{told}");
            assert!(is_loop || told.contains(&format!("`buildgrid credential remove {user}`")), "{told}");
            let all = store.credentials().await.unwrap();
            assert!(all.usable.contains(&other) && all.usable.contains(&over.credential));
            let [damaged] = &all.damaged[..] else { panic!("{all:?}") };
            let said = damaged.to_string();
            let remedy = format!("`buildgrid credential remove {user}`");
            assert!(damaged.user == user && said.contains(&remedy) && !said.contains("image"), "{said}");
            assert_eq!(store.sweep_credentials().unwrap(), 1, "the others are swept");
            assert_eq!(store.credentials().await.unwrap().usable, std::slice::from_ref(&other));
            assert!(store.remove_credential(&user).await.unwrap(), "as it says");
            assert!(store.credentials().await.unwrap().damaged.is_empty());
        }
    }

    #[tokio::test]
    async fn a_store_that_is_away_has_no_damaged_logins() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path())).unwrap();
        let user = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap().credential.user;
        let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&file, &file).unwrap();
        std::fs::remove_file(root.path().join("buildgrid/version")).unwrap();
        assert!(matches!(store.credentials().await, Err(StoreError::NoStore(_))));
    }

    #[tokio::test]
    async fn keep_no_password() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
        let added = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
        let file = root.path().join(format!("buildgrid/credentials/{}.json", added.credential.user));
        let kept = std::fs::read_to_string(file).unwrap();
        assert!(!kept.contains(added.password.expose_secret()), "{kept}");
        assert!(!format!("{added:?}").contains(added.password.expose_secret()));
    }
}
