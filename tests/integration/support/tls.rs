//! A certificate authority of a test's own, made with openssl(1), which Debian's ca-certificates brings along.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::output;

pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self { folder: TempDir::new().unwrap() };
        authority.openssl(
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            &["-nodes", "-days", "2", "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem"],
        );
        authority
    }

    /// The file to trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A server's certificate with its key, in one file. `names` as in `DNS:git.test,IP:127.0.0.1`.
    pub fn issue(&self, names: &str) -> PathBuf {
        let names = format!("subjectAltName={names}");
        self.openssl(
            &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            &[
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=server",
                "-addext",
                &names,
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-keyout",
                "server.key",
                "-out",
                "server.crt",
            ],
        );
        let parts = ["server.crt", "server.key"].map(|part| std::fs::read(self.path(part)).unwrap());
        std::fs::write(self.path("server.pem"), parts.concat()).unwrap();
        self.path("server.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    fn openssl(&self, command: &[&str], options: &[&str]) {
        output(Command::new("openssl").current_dir(self.folder.path()).args(command).args(options));
    }
}
