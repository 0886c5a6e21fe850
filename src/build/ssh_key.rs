//! Private SSH keys that builds may use and never see: read from OpenSSH's format, in which `ssh-keygen` writes them,
//! and signed with by AWS-LC.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RsaKeyPair,
};
use num_bigint::BigUint;
use russh::keys::ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};
use russh::keys::ssh_key::{Mpint, PrivateKey};

/// How one key ends and the next begins in a file of several.
const END: &str = "-----END OPENSSH PRIVATE KEY-----";

/// A key with which a build's SSH clients can log in.
pub struct SshKey {
    /// As it goes over the wire (RFC 4253, section 6.6).
    public: Vec<u8>,
    comment: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa { name: &'static str, pair: EcdsaKeyPair },
    Rsa(RsaKeyPair),
}

/// Which hash an RSA signature is asked for with (draft-ietf-sshm-ssh-agent, section 5.3.1): SHA-1 is not made.
const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

impl SshKey {
    /// The keys of a file: one, or several after each other.
    ///
    /// # Errors
    /// Why one of them cannot be used, in words that show nothing of it.
    pub fn read(file: &[u8]) -> Result<Vec<Self>, String> {
        let text = str::from_utf8(file).map_err(|_| NOT_OPENSSH.to_owned())?;
        let keys: Vec<&str> =
            text.split_inclusive(END).map(str::trim).filter(|key| !key.is_empty()).collect();
        if keys.is_empty() {
            return Err("it is empty".to_owned());
        }
        keys.into_iter().map(Self::parse).collect()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let key = PrivateKey::from_openssh(text).map_err(|_| NOT_OPENSSH.to_owned())?;
        if key.is_encrypted() {
            return Err(
                "it has a passphrase, which nobody could type in; take it off with ssh-keygen -p".to_owned()
            );
        }
        let pair = match key.key_data() {
            KeypairData::Ed25519(pair) => Pair::Ed25519(
                Ed25519KeyPair::from_seed_and_public_key(pair.private.as_ref(), pair.public.as_ref())
                    .map_err(|_| BROKEN.to_owned())?,
            ),
            KeypairData::Ecdsa(pair) => ecdsa(pair)?,
            KeypairData::Rsa(pair) => Pair::Rsa(rsa(pair).ok_or(BROKEN)?),
            _ => return Err(UNKNOWN.to_owned()),
        };
        let public = key.public_key().to_bytes().map_err(|_| UNKNOWN.to_owned())?;
        Ok(Self { public, comment: key.comment().to_string(), pair })
    }

    /// As it goes over the wire.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// A signature and the name of its algorithm, with the `flags` of a request to an agent. `None` where the key
    /// makes none so.
    pub fn sign(&self, data: &[u8], flags: u32) -> Option<(&'static str, Vec<u8>)> {
        match &self.pair {
            Pair::Ed25519(pair) => Some(("ssh-ed25519", pair.sign(data).as_ref().to_vec())),
            Pair::Ecdsa { name, pair } => {
                let signed = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signed.as_ref().split_at(signed.as_ref().len() / 2);
                // RFC 5656, section 3.1.2.
                let mut signature = Vec::new();
                for number in [r, s] {
                    let number = Mpint::from_positive_bytes(number);
                    signature.extend(u32::try_from(number.as_bytes().len()).ok()?.to_be_bytes());
                    signature.extend(number.as_bytes());
                }
                Some((name, signature))
            }
            Pair::Rsa(pair) => {
                let (name, padding) = match flags {
                    _ if flags & RSA_SHA2_512 != 0 => ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512),
                    _ if flags & RSA_SHA2_256 != 0 => ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256),
                    _ => return None,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                Some((name, signature))
            }
        }
    }
}

const NOT_OPENSSH: &str = "it is not a private key in OpenSSH's format, as ssh-keygen writes it";
const BROKEN: &str = "its parts do not fit together";
const UNKNOWN: &str = "it is of a kind that is not known: Ed25519, ECDSA (P-256, P-384) and RSA are";

fn ecdsa(pair: &EcdsaKeypair) -> Result<Pair, String> {
    let make = |name, algorithm: &'static EcdsaSigningAlgorithm| {
        let (private, public) = (pair.private_key_bytes(), pair.public_key_bytes());
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, private, public);
        pair.map(|pair| Pair::Ecdsa { name, pair }).map_err(|_| BROKEN.to_owned())
    };
    match pair {
        EcdsaKeypair::NistP256 { .. } => make("ecdsa-sha2-nistp256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        EcdsaKeypair::NistP384 { .. } => make("ecdsa-sha2-nistp384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        EcdsaKeypair::NistP521 { .. } => Err(UNKNOWN.to_owned()),
    }
}

fn rsa(pair: &RsaKeypair) -> Option<RsaKeyPair> {
    let bytes = Mpint::as_positive_bytes;
    let number = |part: &Mpint| Some(BigUint::from_bytes_be(bytes(part)?));
    // OpenSSH leaves these two out.
    let exponent = |prime: &Mpint| {
        let prime = number(prime)?;
        let below = (prime > BigUint::from(1_u8)).then(|| prime - 1_u8)?;
        Some((number(pair.private().d())? % below).to_bytes_be())
    };
    let (first, second) = (exponent(pair.private().p())?, exponent(pair.private().q())?);
    RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n: bytes(pair.public().n())?, e: bytes(pair.public().e())? },
        d: bytes(pair.private().d())?,
        p: bytes(pair.private().p())?,
        q: bytes(pair.private().q())?,
        dP: &first,
        dQ: &second,
        qInv: bytes(pair.private().iqmp())?,
    })
    .ok()
}

impl fmt::Debug for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshKey").field("comment", &self.comment).finish_non_exhaustive()
    }
}
