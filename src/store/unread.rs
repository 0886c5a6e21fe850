//! What cannot be read of the store while the rest can: a link on a bad block, a folder that is another user's. Whoever
//! goes through all of the store passes over it, and tells it, so that one link does not stop the keeping of all others.
//!
//! Where the line is to a store that is away: what it says of itself (its version) must be there and readable still, and
//! no more than [`MOST_UNREAD`] things may be passed over. Else there is nothing to go on with, and the error stands.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::error::StoreError;
use super::handle;

/// With more things that cannot be read it is the disk, or the way to it, that fails, and reading on makes it no better.
pub(super) const MOST_UNREAD: usize = 20;

/// What makes something readable again.
pub const MENDS: &str = "look at the kernel's log and the disk, and at whose it is; else restore it from a backup, or remove it and build its images again";

/// Something in the store that cannot be read, or not be removed for what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    pub path: String,
    /// `it cannot be read: …`
    pub reason: String,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl Unread {
    /// None: the error is not about one thing of the store, or nothing to pass over.
    fn of(error: &StoreError) -> Option<Self> {
        let (path, done, reason) = match error {
            StoreError::Disk { action, path, source }
            | StoreError::Io { action: action @ ("read" | "remove"), path, source }
            // A folder that is another user's. A store that is read-only fails at its lease already.
            | StoreError::ReadOnly { action: action @ "remove", path, source } => {
                (path, *action, source.to_string())
            }
            StoreError::Object { action: action @ ("read" | "list" | "remove"), place, reason }
            | StoreError::Refused { action: action @ ("read" | "list" | "remove"), place, reason } => {
                (place, *action, reason.clone())
            }
            _ => return None,
        };
        let done = match done {
            "read" | "list" => "read",
            "remove" => "removed",
            _ => "written",
        };
        Some(Self { path: path.display().to_string(), reason: format!("it cannot be {done}: {reason}") })
    }

    /// Whether others can be read, or removed, all the same, as far as the error tells.
    pub(super) fn is_one(error: &StoreError) -> bool {
        Self::of(error).is_some()
    }
}

/// What a way through the store has passed over.
pub(super) struct PassedOver<'a> {
    pub backend: &'a Backend,
    /// What was told, each once.
    pub told: Vec<Unread>,
    /// All that was passed over.
    known: HashSet<String>,
}

impl<'a> PassedOver<'a> {
    pub(super) fn new(backend: &'a Backend) -> Self {
        Self { backend, told: Vec::new(), known: HashSet::new() }
    }

    /// What was read; `None` where it cannot be, and is passed over.
    pub(super) fn or_told<T>(&mut self, read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) => self.tell(error).map(|()| None),
        }
    }

    /// Passes over it.
    pub(super) fn tell(&mut self, error: StoreError) -> Result<(), StoreError> {
        let unread = self.count(error)?;
        if !self.told.contains(&unread) {
            self.told.push(unread);
        }
        Ok(())
    }

    /// The same, for one who tells it otherwise.
    pub(super) fn count(&mut self, error: StoreError) -> Result<Unread, StoreError> {
        let Some(unread) = Unread::of(&error) else { return Err(error) };
        if self.known.contains(&unread.path) {
            return Ok(unread);
        }
        match handle::must_be_there(self.backend) {
            Ok(()) => {}
            Err(gone @ StoreError::NoStore(_)) => return Err(gone),
            // Said of what was wanted, since it says the same.
            Err(_) => return Err(error),
        }
        if self.known.len() == MOST_UNREAD {
            return Err(StoreError::TooMuchUnread { last: Box::new(error), most: MOST_UNREAD });
        }
        self.known.insert(unread.path.clone());
        Ok(unread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, StoreConfig};
    use std::io;
    use std::path::PathBuf;

    fn unreadable(number: usize) -> StoreError {
        StoreError::io("read", format!("/store/{number}").as_ref(), io::Error::from_raw_os_error(40))
    }

    #[test]
    fn one_thing_is_passed_over_and_a_disk_is_not() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path())).unwrap();
        let mut passed = PassedOver::new(store.backend());
        assert_eq!(passed.or_told(Ok(1)).unwrap(), Some(1));
        for number in 0..MOST_UNREAD {
            for _ in 0..2 {
                assert_eq!(passed.or_told::<u8>(Err(unreadable(number))).unwrap(), None);
            }
        }
        let said = passed.told[3].to_string();
        assert!(
            said.starts_with("/store/3: it cannot be read: ") && said.contains("symbolic links"),
            "{said}"
        );
        let said = passed.tell(unreadable(20)).unwrap_err().to_string();
        assert!(said.starts_with("cannot read /store/20: ") && said.contains("20 other"), "{said}");
        assert_eq!(passed.told.len(), MOST_UNREAD);
    }

    #[test]
    fn what_cannot_be_removed_is_one_thing_and_said_as_that() {
        let of = |action, errno| {
            let error = StoreError::io(action, "/store/x".as_ref(), io::Error::from_raw_os_error(errno));
            Unread::of(&error).map(|unread| unread.reason.split(": ").next().unwrap().to_owned())
        };
        // EPERM, EACCES, EROFS, EIO, EISDIR.
        for errno in [1, 13, 30, 5, 21] {
            assert_eq!(of("remove", errno).as_deref(), Some("it cannot be removed"), "{errno}");
        }
        assert_eq!([of("write", 13), of("lock", 30), of("write", 18)], [None, None, None]);
        let (place, reason) = (PathBuf::from("s3://b/x"), "AccessDenied".to_owned());
        for error in [
            StoreError::Refused { action: "remove", place: place.clone(), reason: reason.clone() },
            StoreError::Object { action: "remove", place, reason },
        ] {
            assert_eq!(
                Unread::of(&error).unwrap().to_string(),
                "s3://b/x: it cannot be removed: AccessDenied"
            );
        }
    }

    #[test]
    fn nothing_is_passed_over_in_a_store_that_is_away() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path())).unwrap();
        let mut passed = PassedOver::new(store.backend());
        let written = StoreError::io("write", root.path(), io::Error::from_raw_os_error(40));
        assert!(matches!(passed.tell(written), Err(StoreError::Io { action: "write", .. })));
        passed.tell(unreadable(1)).unwrap();
        let version = root.path().join("buildgrid/version");
        std::fs::remove_file(&version).unwrap();
        assert!(matches!(passed.tell(unreadable(2)), Err(StoreError::NoStore(_))));
        std::os::unix::fs::symlink("version", &version).unwrap();
        let said = passed.tell(unreadable(3)).unwrap_err().to_string();
        assert!(said.starts_with("cannot read /store/3: "), "{said}");
        assert_eq!(passed.told.len(), 1);
    }
}
