//! What can go wrong in the store, each with its remedy. Something that is not there is never an
//! error but a `None`.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;

/// Why an operation on the store failed. A failed write has changed nothing that a reader sees,
/// except that a tag or link may stand already whose durability could not be confirmed; doing it
/// again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left for {path}; free space on its file system or move the store (store.path)")]
    Full { path: PathBuf, source: io::Error },
    #[error("the disk under {path} fails: {source}; check the kernel's log and the disk")]
    Disk { path: PathBuf, source: io::Error },
    #[error("{path} cannot be written: it is mounted or opened read-only, or belongs to another user")]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "there is no store at {0}; a worker makes it when it starts, as does `buildgrid credential add`, or set store.path to where it is"
    )]
    NoStore(PathBuf),
    #[error(
        "the store at {path} has schema version {found}, and this program knows versions up to {known}; upgrade it"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged ({reason}); restore it from a backup or publish its image again")]
    Damaged { path: PathBuf, reason: String },
    #[error("the content of {digest} does not match its digest; build the commit again to repair the image")]
    Corrupt { digest: Digest },
    #[error("manifest {manifest} cannot be tagged: {what} is not in the store; publish the image again")]
    Incomplete { manifest: Digest, what: String },
    #[error("{digest} is not an image manifest that can be published: {reason}")]
    Manifest { digest: Digest, reason: String },
    #[error(
        "another process is doing the same in this store; what holds its lock ends by itself, or with its process"
    )]
    Busy,
    #[error("the program is stopping")]
    Stopping,
}

/// `EIO`, which has no `io::ErrorKind`.
const EIO: i32 = 5;

impl StoreError {
    /// Puts an error of the operating system into its class. `action` completes "cannot … `path`".
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied if action != "read" => {
                Self::ReadOnly { path, source }
            }
            _ if source.raw_os_error() == Some(EIO) => Self::Disk { path, source },
            _ => Self::Io { action, path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_path_and_remedy() {
        let path = Path::new("/srv/store/x");
        for (errno, word) in [(28, "free space"), (122, "free space"), (5, "check"), (30, "read-only")] {
            let text = StoreError::io("write", path, io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains("/srv/store/x") && text.contains(word), "{text}");
        }
        let text = StoreError::io("write", path, io::Error::from_raw_os_error(18)).to_string();
        assert!(text.starts_with("cannot write /srv/store/x: "), "{text}");
    }
}
