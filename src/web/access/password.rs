//! Passwords of people: argon2id, a few at a time, and the same work for a user that does not exist.

use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::{PasswordHasher as _, phc};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

/// The longest password, in bytes; a longer one is refused before it is hashed.
const MAX_PASSWORD: usize = 1024;
/// The shortest password that is taken for a new login, in characters.
const MIN_PASSWORD: usize = 10;
/// Passwords checked at a time. Each takes 19 MiB and some 20 ms of a core: more would let anybody who can
/// reach the sign-in page use up the machine.
const AT_ONCE: usize = 2;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPassword {
    #[error("the password has {0} characters; at least {MIN_PASSWORD} are needed")]
    Short(usize),
    #[error("the password has {0} bytes; at most {MAX_PASSWORD} are taken")]
    Long(usize),
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// A PHC string: `$argon2id$v=19$m=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes a new password. Blocking: some 20 ms.
    pub fn make(password: &SecretString) -> Result<Self, InvalidPassword> {
        let text = password.expose_secret();
        let characters = text.chars().count();
        if characters < MIN_PASSWORD {
            return Err(InvalidPassword::Short(characters));
        }
        if text.len() > MAX_PASSWORD {
            return Err(InvalidPassword::Long(text.len()));
        }
        let hash = Argon2::default().hash_password(text.as_bytes());
        hash.map(|hash| Self(hash.to_string())).map_err(|error| InvalidPassword::Hash(error.to_string()))
    }

    /// One that was kept.
    pub fn kept(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the hash of this password; `None` if it is none at all. `memory` is what argon2id works in.
    fn is_of(&self, password: &SecretString, memory: &mut Vec<Block>) -> Option<bool> {
        let hash = phc::PasswordHash::new(&self.0).ok()?;
        let (salt, kept) = (hash.salt?, hash.hash?);
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = Version::try_from(hash.version?).ok()?;
        let argon2 = Argon2::new(algorithm, version, Params::try_from(&hash).ok()?);
        memory.resize(argon2.params().block_count(), Block::new());
        let mut made = vec![0; kept.len()];
        let password = password.expose_secret().as_bytes();
        argon2.hash_password_into_with_memory(password, salt.as_ref(), &mut made, memory).ok()?;
        Some(made.ct_eq(kept.as_bytes()).into())
    }
}

/// Checks passwords, a few at a time.
#[derive(Clone)]
pub struct Passwords {
    permits: Arc<Semaphore>,
    /// What a check works in, used again and again: allocated for each, it would be kept by the allocator, once
    /// for every thread that checks run on.
    memories: Arc<Mutex<Vec<Vec<Block>>>>,
    /// Of a password that nobody has: what an unknown user's is compared with.
    decoy: PasswordHash,
}

impl Passwords {
    /// Blocking: some 20 ms.
    pub fn new() -> Result<Self, InvalidPassword> {
        let nobody = super::Secret::generate("");
        let decoy = PasswordHash::make(&nobody.expose().to_owned().into())?;
        Ok(Self { permits: Arc::new(Semaphore::new(AT_ONCE)), memories: Arc::default(), decoy })
    }

    /// Whether `password` is the one of `kept`; of a user that is not there, never, after the same work.
    pub async fn check(&self, kept: Option<PasswordHash>, password: SecretString) -> bool {
        if password.expose_secret().len() > MAX_PASSWORD {
            return false;
        }
        let Ok(permit) = self.permits.clone().acquire_owned().await else { return false };
        let known = kept.is_some();
        let hash = kept.unwrap_or_else(|| self.decoy.clone());
        let memories = self.memories.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let all = || memories.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = all().pop().unwrap_or_default();
            let checked = hash.is_of(&password, &mut memory);
            all().push(memory);
            checked.unwrap_or(false)
        });
        checked.await.unwrap_or(false) && known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_checked_against_its_hash_alone() {
        let password: SecretString = "correct horse".to_owned().into();
        let hash = PasswordHash::make(&password).unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$"), "{}", hash.as_str());
        let passwords = Passwords::new().unwrap();
        assert!(passwords.check(Some(hash.clone()), password.clone()).await);
        assert!(!passwords.check(Some(hash.clone()), "correct house".to_owned().into()).await);
        assert!(!passwords.check(None, password.clone()).await);
        assert!(!passwords.check(Some(hash), "x".repeat(2000).into()).await);
        assert!(!passwords.check(Some(PasswordHash::kept("x".to_owned())), password.clone()).await);
        // Hashed by the library, with less work than now.
        let params = Params::new(64, 1, 1, None).unwrap();
        let older = Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password(b"correct horse");
        assert!(passwords.check(Some(PasswordHash::kept(older.unwrap().to_string())), password).await);
        assert!(passwords.memories.lock().unwrap().len() == 1, "the memory is used again");
        assert_eq!(PasswordHash::make(&"short".to_owned().into()), Err(InvalidPassword::Short(5)));
        let long = PasswordHash::make(&"x".repeat(2000).into());
        assert_eq!(long, Err(InvalidPassword::Long(2000)));
    }
}
