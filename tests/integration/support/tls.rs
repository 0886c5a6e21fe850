//! A certificate authority of a test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use buildgrid::serving::tls::TlsConfig;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let (folder, key) = (TempDir::new().unwrap(), KeyPair::generate().unwrap());
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The file to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate for these names and addresses, for two months.
    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_for(names, Duration::days(60))
    }

    /// One that ends after this time from now, or before now.
    pub fn issue_for(&self, names: &[&str], time: Duration) -> Issued {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut params = CertificateParams::new(names).unwrap();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::days(30), now + time);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// As [`issue`](Self::issue): certificate and key in one file.
    pub fn in_one_file(&self, names: &[&str]) -> PathBuf {
        let Issued { certificate, key } = self.issue(names);
        let file = self.folder.path().join("server.pem");
        fs::write(&file, [certificate, key].concat()).unwrap();
        file
    }
}

/// A certificate and its key, as PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Issued {
    /// Puts both into a folder, or into the place of those that are there.
    pub fn written_to(&self, folder: &Path) -> TlsConfig {
        let put = |name: &str, text: &str| {
            let (file, new) = (folder.join(name), folder.join(format!("{name}.new")));
            fs::write(&new, text).unwrap();
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
            fs::rename(&new, &file).unwrap();
            file
        };
        TlsConfig { certificate: put("tls.crt", &self.certificate), key: put("tls.key", &self.key) }
    }
}
