//! A certificate with its key, as it lies in its files: whether it can be used at all, and what is to be said of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::macros::{date, format_description};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::TlsConfig;

/// How long before its end a certificate is complained of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The most that is read of a file: a chain has some kilobytes.
const MOST: u64 = 1 << 20;

/// Why a pair cannot be served at all, with its file and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(pub(super) String);

/// What is to be said of a pair that can be served all the same, with the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// All clients refuse it, by its time.
    Refused(String),
    /// Those that come by the service's name refuse it, or its key is open.
    Trouble(String),
    /// It is good, and not for long.
    EndsSoon(String),
}

/// The two files, as they were read.
pub(super) struct Files {
    config: Arc<TlsConfig>,
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// Whether users that are neither the key's owner nor of its group may read it.
    is_open: bool,
}

impl Files {
    /// Blocking.
    pub(super) fn read(config: Arc<TlsConfig>) -> Result<Self, Unusable> {
        let (certificate, _) = read(&config.certificate)?;
        let (key, mode) = read(&config.key)?;
        Ok(Self { config, certificate, key, is_open: mode & 0o007 != 0 })
    }

    /// By which other files are told from these.
    pub(super) fn mark(&self) -> Mark {
        let certificate = Sha256::digest(&self.certificate).into();
        (certificate, Sha256::digest(&self.key).into(), self.is_open)
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let file = self.config.certificate.display();
        let chain = CertificateDer::pem_slice_iter(&self.certificate).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| {
            Unusable(format!("{file} is not PEM ({error}); it may be half written: put it there again"))
        })?;
        match chain.is_empty() {
            true => Err(Unusable(format!("{file} has no certificate in it; it needs the server's, as PEM"))),
            false => Ok(chain),
        }
    }

    /// Between which times all certificates are good.
    fn validity(&self, chain: &[CertificateDer<'_>]) -> Result<(OffsetDateTime, OffsetDateTime), Unusable> {
        let (mut begins, mut ends) =
            (OffsetDateTime::UNIX_EPOCH, date!(9999 - 12 - 31).midnight().assume_utc());
        for one in chain {
            let (_, one) = X509Certificate::from_der(one).map_err(|error| self.broken(&error))?;
            begins = begins.max(one.validity().not_before.to_datetime());
            ends = ends.min(one.validity().not_after.to_datetime());
        }
        Ok((begins, ends))
    }

    /// Refuses what is not of X.509 version 3, which clients take for no server's certificate and for no authority's (RFC
    /// 5280, 6.1.4 (k)). An authority that has signed itself may stand there: clients go by their own copy of it.
    fn are_usable(&self, chain: &[CertificateDer<'_>]) -> Result<(), Unusable> {
        let file = self.config.certificate.display();
        for (index, one) in chain.iter().enumerate() {
            let (_, one) = X509Certificate::from_der(one).map_err(|error| self.broken(&error))?;
            let is_root = index > 0 && one.issuer() == one.subject();
            if one.version() == X509Version::V3 || is_root {
                continue;
            }
            let (which, extensions) = match index {
                0 => ("the first certificate".to_owned(), "the names of the server"),
                _ => (format!("certificate {} of {}", index + 1, chain.len()), "basicConstraints=CA:TRUE"),
            };
            return Err(Unusable(format!(
                "{which} in {file} is of X.509 version {}, and only version 3 can be used; have it issued with \
                 extensions, {extensions} among them (openssl x509 -extfile)",
                one.version().0 + 1
            )));
        }
        Ok(())
    }

    /// Whether clients that come by `host` take the first certificate for the server's.
    fn names(&self, chain: &[CertificateDer<'_>], host: &str) -> Result<bool, Unusable> {
        let Some(own) = chain.first() else { return Ok(false) };
        let own = ParsedCertificate::try_from(own).map_err(|error| self.broken(&error))?;
        let name = ServerName::try_from(host_alone(host));
        Ok(name.is_ok_and(|name| rustls::client::verify_server_name(&own, &name).is_ok()))
    }

    fn broken(&self, error: &dyn std::error::Error) -> Unusable {
        let file = self.config.certificate.display();
        Unusable(format!("{file} has a certificate in it that cannot be read: {error}; put it there again"))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Unusable> {
        let file = self.config.key.display();
        PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| match error {
            pem::Error::NoItemsFound => Unusable(format!(
                "{file} has no private key in it; it needs one as PEM, without a passphrase"
            )),
            error => {
                Unusable(format!("{file} is not PEM ({error}); it may be half written: put it there again"))
            }
        })
    }
}

/// The digests of both files, and whether the key is open.
pub(super) type Mark = ([u8; 32], [u8; 32], bool);

fn read(path: &Path) -> Result<(Vec<u8>, u32), Unusable> {
    // A pipe that nobody writes to would hold up opening and reading for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(path).and_then(|file| {
        let (metadata, mut bytes) = (file.metadata()?, Vec::new());
        if !metadata.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok((bytes, metadata.mode()))
    });
    opened.map_err(|error| {
        Unusable(format!(
            "{} cannot be read ({error}); it must be there, as a file, and readable for the user that the service runs as",
            path.display()
        ))
    })
}

/// A certificate that can be served.
#[derive(Debug, Clone)]
pub struct Pair {
    pub(super) key: Arc<CertifiedKey>,
    begins: OffsetDateTime,
    /// Of all certificates of the chain, the end of the first that ends.
    ends: OffsetDateTime,
    concerns: Vec<Concern>,
}

impl Pair {
    /// Reads the files of a service that clients call `host`, with a port or without. Blocking.
    ///
    /// # Errors
    /// A file cannot be read, has not in it what it should have, or the key is another certificate's.
    pub fn load(config: &TlsConfig, host: &str) -> Result<Self, Unusable> {
        Self::of(&Files::read(Arc::new(config.clone()))?, host)
    }

    pub(super) fn of(files: &Files, host: &str) -> Result<Self, Unusable> {
        let (certificate, key) = (files.config.certificate.display(), files.config.key.display());
        let chain = files.chain()?;
        let (begins, ends) = files.validity(&chain)?;
        files.are_usable(&chain)?;
        let names_host = files.names(&chain, host)?;
        let signing = aws_lc_rs::sign::any_supported_type(&files.private_key()?).map_err(|error| {
            Unusable(format!(
                "the key in {key} cannot be used ({error}); have a certificate issued for one of RSA with 2048 bits or \
                 more, of ECDSA on P-256, P-384 or P-521, or of Ed25519"
            ))
        })?;
        let pair = CertifiedKey::new(chain, signing);
        pair.keys_match().map_err(|_| {
            Unusable(format!(
                "the key in {key} is not that of the first certificate in {certificate}; put the two there that were \
                 issued together, in the second the server's own certificate first"
            ))
        })?;
        let mut concerns = Vec::new();
        if !names_host {
            let host = host_alone(host);
            concerns.push(Concern::Trouble(format!(
                "the certificate in {certificate} does not name {host}, and whoever comes by that name refuses it; have \
                 one issued for it (subjectAltName)"
            )));
        }
        if files.is_open {
            concerns.push(Concern::Trouble(format!(
                "{key} is open to all users of this machine; chmod o= {key}, and have another key issued where others \
                 use it"
            )));
        }
        Ok(Self { key: Arc::new(pair), begins, ends, concerns })
    }

    /// When it ends: it, or one of those that lead from it to an authority.
    pub fn ends(&self) -> OffsetDateTime {
        self.ends
    }

    /// What is wrong with it at this time.
    pub fn concerns(&self, now: OffsetDateTime) -> Vec<Concern> {
        let mut concerns = self.concerns.clone();
        concerns.extend(self.of_time(now));
        concerns
    }

    /// What is wrong with its time.
    pub fn of_time(&self, now: OffsetDateTime) -> Option<Concern> {
        let ends = minute(self.ends);
        if now >= self.ends {
            return Some(Concern::Refused(format!(
                "the certificate has ended on {ends}, and clients refuse it; put a new one into its place"
            )));
        }
        if now < self.begins {
            let begins = minute(self.begins);
            return Some(Concern::Refused(format!(
                "the certificate is good from {begins} on, and clients refuse it until then; look at this machine's clock"
            )));
        }
        (self.ends - now < SOON).then(|| {
            Concern::EndsSoon(format!(
                "the certificate ends on {ends}, in less than 14 days; see to it that it is renewed"
            ))
        })
    }
}

/// A time, to the minute.
pub fn minute(time: OffsetDateTime) -> String {
    let form = format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    time.to_offset(time::UtcOffset::UTC).format(&form).unwrap_or_else(|_| time.to_string())
}

/// Without its port, and an IPv6 address without its brackets.
fn host_alone(host: &str) -> String {
    let authority = host.parse::<http::uri::Authority>();
    let host = authority.map_or_else(|_| host.to_owned(), |authority| authority.host().to_owned());
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
