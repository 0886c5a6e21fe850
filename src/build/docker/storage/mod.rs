//! The image where the engine keeps it, on this machine: read there, no layer is packed and unpacked that the store
//! has already, and none is copied that it has not.
//!
//! The engine's storage is not an interface: its layout is moby's own. So nothing is believed. The configuration has
//! the image's id for its digest, every layer is compared with its digest by whoever reads it, and whatever
//! is not as expected is a reason to take the image by `docker save` instead.

mod containerd;
mod overlay2;
mod tar_split;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bollard::models::SystemInfo;

use super::probe;
use crate::build::engine::BuiltImage;
use crate::store::digest::Digest;

/// The largest document read into memory, in bytes: an image's configuration or manifest.
const MAX_DOCUMENT: u64 = 8 << 20;

/// Where an engine keeps its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// The engine's directory.
    root: PathBuf,
    layout: Layout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// The storage driver `overlay2`.
    Overlay2,
    /// containerd's content store, with whichever snapshotter.
    Containerd,
}

impl Storage {
    /// The storage of an engine whose directory is `root`, by what it says of itself; or else why it is not read.
    pub(super) fn of(info: &SystemInfo, root: PathBuf) -> Result<Self, String> {
        if probe::is_containerd(info) {
            return Ok(Self { root, layout: Layout::Containerd });
        }
        match info.driver.as_deref().unwrap_or("unknown") {
            "overlay2" => Ok(Self { root, layout: Layout::Overlay2 }),
            driver => {
                Err(format!("its storage driver is {driver}; of overlay2 and containerd it is known how"))
            }
        }
    }

    /// The image `id`: its configuration, and where its layers are. Blocks.
    pub(super) fn image(&self, id: Digest) -> anyhow::Result<BuiltImage> {
        match self.layout {
            Layout::Overlay2 => overlay2::image(&self.root, id),
            Layout::Containerd => containerd::image(&self.root, id),
        }
    }

    /// Whether this process may read it, as far as that can be told without an image. Blocks.
    pub(super) fn readable(&self) -> anyhow::Result<()> {
        match self.layout {
            Layout::Overlay2 => overlay2::readable(&self.root),
            Layout::Containerd => containerd::readable(&self.root),
        }
    }
}

/// Why the storage cannot be read, with what may be done about it.
pub(super) fn refused(reason: &anyhow::Error) -> String {
    let is_denied = reason.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    let remedy = match is_denied {
        true => "; give the worker the capability CAP_DAC_READ_SEARCH, as its systemd unit does",
        false => "",
    };
    format!("{reason:#}{remedy}")
}

/// The small file at `path`.
fn document(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| path.display().to_string())?;
    ensure!(bytes.len() as u64 <= MAX_DOCUMENT, "{} has more than {MAX_DOCUMENT} bytes", path.display());
    Ok(bytes)
}

/// The small file at `path`, whose digest is to be `digest`.
fn verified(path: &Path, digest: Digest) -> anyhow::Result<Vec<u8>> {
    let bytes = document(path)?;
    let found = Digest::of(&bytes);
    if found != digest {
        bail!("{} has the digest {found}", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_read() {
        let info = |driver: &str| SystemInfo { driver: Some(driver.to_owned()), ..SystemInfo::default() };
        let root = PathBuf::from("/var/lib/docker");
        let storage = Storage::of(&info("overlay2"), root.clone()).unwrap();
        assert_eq!(storage, Storage { root: root.clone(), layout: Layout::Overlay2 });
        let reason = Storage::of(&info("btrfs"), root.clone()).unwrap_err();
        assert!(reason.contains("btrfs"), "{reason}");
        let mut containerd = info("overlayfs");
        containerd.driver_status =
            Some(vec![vec!["driver-type".into(), "io.containerd.snapshotter.v1".into()]]);
        assert_eq!(Storage::of(&containerd, root).unwrap().layout, Layout::Containerd);
    }

    #[test]
    fn a_document_is_what_its_digest_says_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(verified(&path, Digest::of(b"{}")).unwrap(), b"{}");
        let error = verified(&path, Digest::of(b"[]")).unwrap_err().to_string();
        assert!(error.ends_with(&format!("has the digest {}", Digest::of(b"{}"))), "{error}");
        File::create(&path).unwrap().set_len(MAX_DOCUMENT + 1).unwrap();
        assert!(document(&path).unwrap_err().to_string().contains("more than"));
    }
}
