//! A directory as the place of the store's objects. All calls block: they belong on a blocking thread.
//!
//! A write is whole or absent, and durable when its call returns: a temporary file under
//! `buildgrid/tmp` (the same file system), fsync, rename to its place, fsync of that directory and
//! of every directory just made on the way ([`Batch`]).

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use super::super::credentials::random_text;
use super::super::error::StoreError;
use super::super::layout::{self, Key};
use super::batch::Batch;
use super::dispatch::{Entry, Seen};

/// Directories remembered, at most; beyond it the memory starts anew, which costs a few syncs.
const MAX_KNOWN: usize = 8192;

/// On a file system without locks, a temporary file not written to for this long was left by a crash: no
/// publish pauses for a day.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug)]
pub(in crate::store) struct Directory {
    root: PathBuf,
    /// Directories of which this process knows that they stand durably in their parents: shared
    /// ones, such as the 256 that blobs are spread over, not those made for one object.
    known: Mutex<HashMap<PathBuf, Identity>>,
}

/// Which directory stands at a path: one that was removed and made again is another, and not durable yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    number: u64,
    /// Numbers are used again. Not every file system tells.
    made: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self { number: metadata.ino(), made: metadata.created().ok() })
    }
}

/// A file being written. (Not `tempfile`'s own: that one wraps errors, so that their numbers are lost.)
pub(super) struct Temporary {
    pub(super) file: File,
    /// Removed when dropped.
    pub(super) path: TempPath,
}

/// What came of a compare-and-set.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) enum Swap {
    Done,
    /// Another value stands there.
    Found(Vec<u8>),
}

impl Directory {
    pub(in crate::store) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), known: Mutex::new(HashMap::new()) }
    }

    pub(in crate::store) fn place(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    /// An object to be read.
    pub(in crate::store) fn open(&self, key: &Key) -> Result<Option<File>, StoreError> {
        let path = self.place(key);
        absent_is_none(File::open(&path)).map_err(|error| StoreError::io("read", &path, error))
    }

    /// Tells of each object below `key`, by its path from there, until `each` answers that it is enough; of directories and
    /// of what cannot be read as well.
    pub(in crate::store) fn walk(
        &self,
        key: &Key,
        each: &mut dyn FnMut(&str, Seen) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.walk_below(key, "", each).map(drop)
    }

    fn walk_below(
        &self,
        key: &Key,
        above: &str,
        each: &mut dyn FnMut(&str, Seen) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let names = match self.list(key) {
            Ok(names) => names,
            Err(error) => return each(above.trim_end_matches('/'), Seen::Unread(error)),
        };
        for name in names {
            let (key, path) = (key.below(&name), format!("{above}{name}"));
            let place = self.place(&key);
            let goes_on = match absent_is_none(fs::metadata(&place)) {
                // One that goes away meanwhile is not there.
                Ok(None) => true,
                Ok(Some(metadata)) if metadata.is_dir() => {
                    each(&path, Seen::Folder)? && self.walk_below(&key, &format!("{path}/"), each)?
                }
                Ok(Some(metadata)) => {
                    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    each(&path, Seen::Object(Entry { bytes: metadata.len(), modified }))?
                }
                Err(error) => each(&path, Seen::Unread(StoreError::io("read", &place, error)))?,
            };
            if !goes_on {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the directory at `key`, durably.
    pub(in crate::store) fn make(&self, key: &Key) -> Result<(), StoreError> {
        let mut batch = Batch::new(self);
        batch.make(&self.place(key))?;
        batch.sync()
    }

    /// The whole of a small object.
    pub(in crate::store) fn read(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.place(key);
        absent_is_none(fs::read(&path)).map_err(|error| StoreError::io("read", &path, error))
    }

    /// The length of an object in bytes.
    pub(in crate::store) fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let path = self.place(key);
        absent_is_none(fs::metadata(&path))
            .map(|found| found.filter(fs::Metadata::is_file).map(|metadata| metadata.len()))
            .map_err(|error| StoreError::io("read", &path, error))
    }

    /// The names under `key`, sorted; none when there is no such directory.
    pub(in crate::store) fn list(&self, key: &Key) -> Result<Vec<String>, StoreError> {
        let path = self.place(key);
        let failed = |error| StoreError::io("read", &path, error);
        let Some(entries) = absent_is_none(fs::read_dir(&path)).map_err(failed)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            // The store's own names are ASCII; whatever else lies there is not an object of it.
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Puts small objects in the given order, over what is there.
    pub(in crate::store) fn put(&self, objects: &[(&Key, &[u8])]) -> Result<(), StoreError> {
        self.with_known_directories(|| {
            let mut batch = Batch::new(self);
            batch.put(objects)?;
            batch.sync()
        })
    }

    /// Puts an object without waiting for the disk: it is whole or absent for who reads it, and after a loss of power
    /// what it was, absent, or cut short.
    pub(in crate::store) fn note(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        self.with_known_directories(|| Batch::new(self).note(key, bytes))
    }

    /// Puts `before`, and then `bytes` at `key` unless something stands there, in which case
    /// that is the answer.
    pub(in crate::store) fn put_if_absent(
        &self,
        before: &[(&Key, &[u8])],
        key: &Key,
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        self.with_known_directories(|| {
            let mut batch = Batch::new(self);
            batch.make_parent(key)?;
            batch.put(before)?;
            batch.sync()?;
            loop {
                let put = batch.create(key, bytes)?;
                // Also for what another has put: it may not have come to its own sync yet.
                batch.sync()?;
                if put {
                    return Ok(Swap::Done);
                }
                // Where it has been removed since, the place is free again.
                if let Some(found) = self.read(key)? {
                    return Ok(Swap::Found(found));
                }
            }
        })
    }

    /// Puts `before`, and then `bytes` at `key` if `expected` or nothing stands there. The lock file
    /// at `lock` keeps out all other processes that replace objects under it.
    pub(in crate::store) fn compare_and_set(
        &self,
        lock: &Key,
        before: &[(&Key, &[u8])],
        key: &Key,
        expected: &[u8],
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        let _locked = self.lock(lock)?;
        match self.read(key)? {
            None => self.put_if_absent(before, key, bytes),
            Some(found) if found == expected => {
                self.put(before)?;
                self.put(&[(key, bytes)])?;
                Ok(Swap::Done)
            }
            Some(found) => Ok(Swap::Found(found)),
        }
    }

    /// Makes sure that an object which was found is durable: another process may have put it and
    /// not have come to its own sync yet.
    pub(in crate::store) fn settle(&self, key: &Key) -> Result<(), StoreError> {
        let mut batch = Batch::new(self);
        let path = batch.make_parent(key)?;
        batch.has_entry(&path);
        batch.sync()
    }

    /// Removes an object durably; answers whether it was there.
    pub(in crate::store) fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        let path = self.place(key);
        let removed = absent_is_none(fs::remove_file(&path))
            .map_err(|error| StoreError::io("remove", &path, error))?
            .is_some();
        if removed && let Some(parent) = path.parent() {
            sync_directory(parent)?;
        }
        Ok(removed)
    }

    /// A new file beside the objects, gone when it is dropped. The umask says who may read it, as with
    /// any other file of this user: a stock registry may run as another.
    pub(super) fn temporary(&self) -> Result<Temporary, StoreError> {
        loop {
            let path = self.place(&layout::temporary_files()).join(random_text::<10>());
            let failed = |error| StoreError::io("write", &path, error);
            let file = File::options().write(true).create_new(true).open(&path).map_err(failed)?;
            // Held until it has its place: what nobody holds, a crash has left. A sweep may have come between.
            let is_swept = matches!(file.try_lock(), Err(TryLockError::WouldBlock))
                || file.metadata().map_err(failed)?.nlink() == 0;
            if !is_swept {
                let path = TempPath::try_from_path(&path).map_err(failed)?;
                return Ok(Temporary { file, path });
            }
        }
    }

    /// Removes the temporary files that a crash has left: those that no writer holds. Of each, `told` hears
    /// its length, or why it could not be removed. Goes no further once `cancel` is cancelled.
    pub(in crate::store) fn sweep(
        &self,
        cancel: &CancellationToken,
        mut told: impl FnMut(&Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        let key = layout::temporary_files();
        for name in self.list(&key)? {
            if cancel.is_cancelled() {
                break;
            }
            let path = self.place(&key).join(name);
            let remove = || {
                let file = File::open(&path)?;
                let metadata = file.metadata()?;
                let is_left = match file.try_lock() {
                    Ok(()) => true,
                    Err(TryLockError::WouldBlock) => false,
                    // A file system without locks.
                    Err(TryLockError::Error(_)) => {
                        metadata.modified()?.elapsed().is_ok_and(|age| age > STALE)
                    }
                };
                if is_left {
                    fs::remove_file(&path)?;
                }
                Ok(is_left.then_some(metadata.len()))
            };
            // A file that goes away meanwhile belongs to a writer that has just finished.
            match absent_is_none(remove()) {
                Ok(removed) => {
                    if let Some(bytes) = removed.flatten() {
                        told(&path, Ok(bytes));
                    }
                }
                Err(error) => told(&path, Err(StoreError::io("remove", &path, error))),
            }
        }
        Ok(())
    }

    pub(in crate::store) fn root(&self) -> &Path {
        &self.root
    }

    fn known(&self) -> MutexGuard<'_, HashMap<PathBuf, Identity>> {
        // A map of paths is whole whatever panicked beside it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the directory at `path` is known to be durable.
    pub(super) fn knows(&self, path: &Path) -> bool {
        let identity = Identity::of(path);
        identity.is_some() && self.known().get(path) == identity.as_ref()
    }

    /// Notes directories as they were seen before their parents were synced.
    pub(super) fn remember(&self, directories: impl IntoIterator<Item = (PathBuf, Identity)>) {
        let mut known = self.known();
        if known.len() > MAX_KNOWN {
            known.clear();
        }
        known.extend(directories);
    }

    /// Runs `write`, and once more without the memory of directories when one of them has gone
    /// meanwhile: removed by a collection of garbage in another process, or by hand.
    pub(super) fn with_known_directories<T>(
        &self,
        write: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match write() {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.known().clear();
                write()
            }
            done => done,
        }
    }

    /// Keeps out all other processes that lock the same file, until what is answered is dropped.
    pub(super) fn lock(&self, key: &Key) -> Result<File, StoreError> {
        let path = self.place(key);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|error| StoreError::io("create", parent, error))?;
        }
        let open = || {
            let file = File::options().create(true).append(true).open(&path)?;
            file.lock()?;
            Ok(file)
        };
        open().map_err(|error| StoreError::io("lock", &path, error))
    }
}

/// Makes the entries of a directory durable.
pub(in crate::store) fn sync_directory(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StoreError::io("sync", path, error))
}

pub(super) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A part of the path that is a file means the same: nothing is there.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
