//! The key `tls` of the sections `registry` and `timeline`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The files of a certificate and its key. They are looked at all the time, and may be replaced while they are used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates (PEM): first the server's own, then those that lead from it to an authority.
    pub certificate: PathBuf,
    /// The private key of the first certificate (PEM), without a passphrase; not to be read by all users.
    pub key: PathBuf,
}
