//! Secrets that a program or a browser holds, and of which the service keeps only the digest.
//!
//! A plain SHA-256 is enough here: a secret has 160 random bits, which no one can try out.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use secrecy::{ExposeSecret, SecretString};

use crate::store::digest::Digest;

/// 160 random bits.
const BYTES: usize = 20;

/// A token, or what a browser's session is known by.
pub struct Secret(SecretString);

impl Secret {
    /// A new token of a program.
    pub fn token() -> Self {
        Self::generate("bgt_")
    }

    /// A new one, which begins with `prefix`: so that a leaked one can be found by its look.
    pub fn generate(prefix: &str) -> Self {
        let random = BASE32_NOPAD.encode(&rand::random::<[u8; BYTES]>()).to_ascii_lowercase();
        Self(format!("{prefix}{random}").into())
    }

    /// One that somebody sent.
    pub fn given(text: &str) -> Self {
        Self(text.to_owned().into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// What the service keeps of it.
    pub fn digest(&self) -> String {
        Digest::of(self.expose().as_bytes()).hex()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_random_and_never_shown() {
        let (one, two) = (Secret::token(), Secret::token());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 4 + 32);
        assert_eq!(Secret::given(one.expose()).digest(), one.digest());
        assert!(!format!("{one:?}").contains(one.expose()));
    }
}
