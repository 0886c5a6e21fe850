//! What is taken away: objects that nobody needs any more, and what the disk has damaged.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, futimens, utimensat};

use super::super::error::StoreError;
use super::super::layout::Key;
use super::directory::{Directory, Swap, absent_is_none, sync_directory};
use super::objects::{Hold, ObjectLease};

/// That this process alone does something, until it is dropped or the process dies.
pub(in crate::store) enum Lease {
    /// A locked file.
    File(File),
    Object(ObjectLease),
}

impl Lease {
    /// The time by the clock of where the store is: those of the machines that use it may differ. Needs no space.
    pub(in crate::store) fn now(&self) -> io::Result<SystemTime> {
        match self {
            Self::File(file) => {
                let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
                futimens(file, &Timestamps { last_access: now, last_modification: now })?;
                file.metadata()?.modified()
            }
            Self::Object(lease) => Ok(lease.now()),
        }
    }
}

/// That nobody else changes what is being removed.
pub(in crate::store) enum Held<'a> {
    /// Until the lock is let go.
    Lock,
    /// For a while.
    Objects(&'a Hold),
}

impl Directory {
    /// Takes the lease at `key`, unless another process has it: `None`.
    pub(in crate::store) fn lease(&self, key: &Key) -> Result<Option<Lease>, StoreError> {
        let path = self.place(key);
        let taken = || {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let file = File::options().create(true).append(true).open(&path)?;
            match file.try_lock() {
                Ok(()) => Ok(Some(Lease::File(file))),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        taken().map_err(|error| StoreError::io("lock", &path, error))
    }

    /// When an object was put.
    pub(in crate::store) fn modified(&self, key: &Key) -> Result<Option<SystemTime>, StoreError> {
        let path = self.place(key);
        absent_is_none(fs::metadata(&path).and_then(|metadata| metadata.modified()))
            .map_err(|error| StoreError::io("read", &path, error))
    }

    /// Does `work`, and puts at `key` what that `becomes` by it, if `was` stands there; else does nothing and answers `None`.
    /// Nobody else changes what is there meanwhile, and who waits for that sees the work done. What `becomes` nothing
    /// is removed. After a loss of power it may be as it was before, or in part.
    pub(in crate::store) fn change_while<T>(
        &self,
        lock: &Key,
        key: &Key,
        was: &[u8],
        becomes: impl FnOnce(&T) -> Vec<u8>,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let _locked = self.lock(lock)?;
        if self.read(key)?.unwrap_or_default() != was {
            return Ok(None);
        }
        let done = work()?;
        match &becomes(&done)[..] {
            [] if was.is_empty() => {}
            [] => _ = self.discard(key)?,
            becomes if becomes == was => {}
            becomes => self.note(key, becomes)?,
        }
        Ok(Some(done))
    }

    /// Removes an object durably if it still is `expected`.
    pub(in crate::store) fn remove_if(
        &self,
        lock: &Key,
        key: &Key,
        expected: &[u8],
    ) -> Result<Swap, StoreError> {
        let _locked = self.lock(lock)?;
        match self.read(key)? {
            Some(found) if found != expected => Ok(Swap::Found(found)),
            _ => {
                self.remove(key)?;
                Ok(Swap::Done)
            }
        }
    }

    /// Removes an object, and the directories that are empty then. After a loss of power it may be there again. Answers
    /// its length in bytes if it was there.
    pub(in crate::store) fn discard(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = self.place(key);
        // A symbolic link that leads nowhere can be removed all the same.
        let length = fs::metadata(&path).or_else(|_| fs::symlink_metadata(&path));
        let length = absent_is_none(length.map(|metadata| metadata.len()))
            .map_err(|error| StoreError::io("read", &path, error))?;
        let removed =
            absent_is_none(fs::remove_file(&path)).map_err(|error| StoreError::io("remove", &path, error))?;
        self.remove_empty(key);
        Ok(removed.and(length))
    }

    /// Removes the directories at and above `key`, as far as nothing is in them. Who was about to put something there
    /// makes them again.
    pub(in crate::store) fn remove_empty(&self, key: &Key) {
        let path = self.place(key);
        for directory in path.ancestors().take_while(|path| *path != self.root()) {
            match fs::remove_dir(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return,
                _ => {}
            }
        }
    }

    /// Moves an object durably to another place, if what stands there is still the file that was `seen`; answers
    /// whether it was.
    pub(in crate::store) fn set_aside(
        &self,
        key: &Key,
        seen: &File,
        aside: &Key,
    ) -> Result<bool, StoreError> {
        let (from, to) = (self.place(key), self.place(aside));
        let same = |path: &Path| {
            let (seen, there) = (seen.metadata()?, fs::symlink_metadata(path)?);
            Ok((seen.dev(), seen.ino()) == (there.dev(), there.ino()))
        };
        let failed = |error| StoreError::io("move", &from, error);
        if absent_is_none(same(&from)).map_err(failed)? != Some(true) {
            return Ok(false);
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|error| StoreError::io("create", parent, error))?;
        }
        if absent_is_none(fs::rename(&from, &to)).map_err(failed)?.is_none() {
            return Ok(false);
        }
        let is_same = same(&to).map_err(failed)?;
        if is_same {
            // How long it has been there, not how old it is. Not by what was `seen`, which is open for reading alone.
            let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
            let times = Timestamps { last_access: now, last_modification: now };
            if let Err(error) = utimensat(CWD, &to, &times, AtFlags::SYMLINK_NOFOLLOW) {
                let path = to.display();
                tracing::debug!(%path, %error, "it cannot be noted since when it is in quarantine; it may leave early");
            }
        } else {
            // Between the two looks it was put again, whole. It goes back, unless it has been put once more.
            let back = fs::hard_link(&to, &from);
            if back.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::AlreadyExists) {
                back.map_err(failed)?;
            }
            fs::remove_file(&to).map_err(failed)?;
        }
        for changed in [from.parent(), to.parent()].into_iter().flatten() {
            sync_directory(changed)?;
        }
        Ok(is_same)
    }
}
