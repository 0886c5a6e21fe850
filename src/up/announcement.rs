//! `up.json`: where a running `buildgrid up` listens, by which commands on the same machine find it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

const NAME: &str = "up.json";

/// What a running `buildgrid up` says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    pub version: u32,
    /// The process; the file may outlive it.
    pub pid: u32,
    /// The timeline service: pages and `/api/v1`.
    pub url: String,
    /// The file with the token that commands use.
    pub token_file: PathBuf,
    /// The registry's host, with which image URLs begin.
    pub registry: String,
    /// The address of `/healthz`, `/readyz` and `/metrics`.
    pub status: String,
}

impl Announcement {
    /// The version that is written.
    pub const VERSION: u32 = 1;

    /// What was written in `data_dir`, if anything was that this user may read.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(NAME);
        let named = || format!("read {}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(named),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            // Another user's: as good as none.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error).with_context(named),
        }
    }

    /// Writes it whole: a reader sees the old one or this one.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join(NAME);
        let named = || format!("write {}", path.display());
        let mut file = tempfile::NamedTempFile::new_in(data_dir).with_context(named)?;
        serde_json::to_writer_pretty(&mut file, self).with_context(named)?;
        file.persist(&path).with_context(named)?;
        Ok(())
    }

    /// Removes it, at the end.
    pub fn remove(data_dir: &Path) {
        // What is left names a process that is gone, and commands say that it does not answer.
        let _ = std::fs::remove_file(data_dir.join(NAME));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Announcement::read(folder.path()).unwrap(), None);
        let announcement = Announcement {
            version: Announcement::VERSION,
            pid: 7,
            url: "http://127.0.0.1:8420".to_owned(),
            token_file: "/x/local.token".into(),
            registry: "localhost:5000".to_owned(),
            status: "127.0.0.1:9441".to_owned(),
        };
        announcement.write(folder.path()).unwrap();
        assert_eq!(Announcement::read(folder.path()).unwrap(), Some(announcement));
        Announcement::remove(folder.path());
        assert_eq!(Announcement::read(folder.path()).unwrap(), None);
        std::fs::write(folder.path().join(NAME), "{").unwrap();
        assert!(Announcement::read(folder.path()).is_err());
    }
}
