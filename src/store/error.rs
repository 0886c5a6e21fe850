//! What can go wrong in the store, each with its remedy. Something that is not there is never an
//! error but a `None`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::digest::Digest;
use super::user::UserName;

/// Why an operation on the store failed. A failed write has changed nothing that a reader sees,
/// except that a tag or link may stand already whose durability could not be confirmed; doing it
/// again is always safe.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no space is left for {path}; free space on its file system or move the store (store.path)")]
    Full { path: PathBuf, source: io::Error },
    #[error("the disk under {path} fails: {source}; check the kernel's log and the disk")]
    Disk { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} cannot be written: it is mounted or opened read-only, or belongs to another user")]
    ReadOnly { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "no space is left in {path}, where blobs are until they are in the object store; free space there, or name another directory (store.spool)"
    )]
    SpoolFull { path: PathBuf, source: io::Error },
    #[error(
        "cannot write in {path}, where blobs are until they are in the object store: {source}; name another directory (store.spool)"
    )]
    Spool { path: PathBuf, source: io::Error },
    #[error("{key}: {reason}")]
    Unusable { key: &'static str, reason: String },
    #[error(
        "the object store refuses to {action} {place}: {reason}; check the keys (store.credentials_file, or the environment), and that they may get, put, list and delete there"
    )]
    Refused { action: &'static str, place: PathBuf, reason: String },
    #[error(
        "cannot {action} {place} in the object store: {reason}; check that it answers, and store.url, store.endpoint and store.region"
    )]
    Object { action: &'static str, place: PathBuf, reason: String },
    #[error(
        "the object store of {place} {what}, so that two workers could overwrite each other's tags; use a service, or a version of it, that keeps the conditions of puts, as Amazon's S3 does"
    )]
    Unconditional { place: String, what: &'static str },
    #[error(
        "the object store takes more than {limit:?} for a few removals, after which they are not safe any more; what is left is removed next time"
    )]
    Slow { limit: Duration },
    #[error(
        "there is no store at {0}; a worker makes it when it starts, as does `buildgrid credential add`, or set store.path or store.url to where it is"
    )]
    NoStore(PathBuf),
    #[error(
        "the store at {path} has schema version {found}, and this program knows versions up to {known}; upgrade it"
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is damaged ({reason}); restore it from a backup or publish its image again")]
    Damaged { path: PathBuf, reason: String },
    #[error(transparent)]
    DamagedLogin(#[from] DamagedLogin),
    #[error("the content of {digest} does not match its digest; build the commit again to repair the image")]
    Corrupt { digest: Digest },
    #[error("manifest {manifest} cannot be tagged: {what} is not in the store; publish the image again")]
    Incomplete { manifest: Digest, what: String },
    #[error("{digest} is not an image manifest that can be published: {reason}")]
    Manifest { digest: Digest, reason: String },
    #[error("{last}; nor can {most} other things, so that it is the disk that fails, or the way to it")]
    TooMuchUnread { last: Box<StoreError>, most: usize },
    #[error(
        "another process is doing the same in this store; what holds its lock ends by itself, or with its process"
    )]
    Busy,
    #[error("the program is stopping")]
    Stopping,
}

/// A login whose file is no login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{path} is damaged ({reason}), so that nobody can pull with this login; restore it from a backup, or do `buildgrid credential remove {user}` and make another (`buildgrid credential add`)"
)]
pub struct DamagedLogin {
    pub path: PathBuf,
    pub user: UserName,
    pub reason: String,
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
                Self::ReadOnly { action, path, source }
            }
            _ if source.raw_os_error() == Some(EIO) => Self::Disk { action, path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// The same of the directory where blobs are on their way to an object store.
    pub(super) fn spool(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::SpoolFull { path, source },
            _ => Self::Spool { path, source },
        }
    }

    /// The same of an error of an object store.
    pub(super) fn object(action: &'static str, place: &Path, source: object_store::Error) -> Self {
        let (place, reason) = (place.to_owned(), reason_of(&source));
        match source {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                Self::Refused { action, place, reason }
            }
            _ => Self::Object { action, place, reason },
        }
    }
}

/// The most characters of what an object store's client says.
const MOST_SAID: usize = 500;

/// What an object store's client says, with the cause at the bottom of it: it leaves out why a connection failed. Of a
/// service's answer the code and the message alone: the rest repeats what was signed, a session's token among it.
fn reason_of(error: &object_store::Error) -> String {
    let mut reason = error.to_string();
    let of = |name: &str| Some(reason.split_once(&format!("<{name}>"))?.1.split_once('<')?.0.to_owned());
    if let Some(code) = of("Code") {
        return format!("{code}: {}", of("Message").unwrap_or_default()).chars().take(MOST_SAID).collect();
    }
    let chain = std::iter::successors(std::error::Error::source(error), |error| error.source());
    if let Some(cause) = chain.last().map(ToString::to_string).filter(|cause| !reason.contains(cause)) {
        reason = format!("{reason}: {cause}");
    }
    reason.lines().next().unwrap_or_default().chars().take(MOST_SAID).collect()
}

/// A round through the store that ended before its end: what it has found and done till then stays so.
#[derive(Debug)]
pub struct BrokenOff<T> {
    pub so_far: T,
    pub error: StoreError,
}

impl<T> BrokenOff<T> {
    /// What a round has found and done, and why it ended early if it did.
    pub fn apart(round: Result<T, Box<Self>>) -> (T, Option<StoreError>) {
        match round {
            Ok(done) => (done, None),
            Err(broken) => (broken.so_far, Some(broken.error)),
        }
    }
}

impl<T> fmt::Display for BrokenOff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T: fmt::Debug> std::error::Error for BrokenOff<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
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

    #[test]
    fn of_a_services_answer_nothing_is_said_that_was_signed() {
        let answer = "Server returned 403: <Error>\n<Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>\n\
                      <CanonicalRequest>x-amz-security-token:SECRET</CanonicalRequest></Error>";
        let error = object_store::Error::Generic { store: "S3", source: answer.into() };
        assert_eq!(reason_of(&error), "SignatureDoesNotMatch: It does not match.");
        let long = object_store::Error::Generic {
            store: "S3",
            source: format!("{}\nSECRET", "x".repeat(9000)).into(),
        };
        let said = reason_of(&long);
        assert!(said.len() <= MOST_SAID && !said.contains("SECRET"), "{said}");
    }
}
