//! The writes of one operation, which share their directory syncs.
//!
//! Syncing is what a write costs. So everything that can be done before a sync is done before it:
//! all directories made and all files written, then all files synced, then all renamed, then each
//! directory that got an entry synced once. A journalling file system commits twice for all of it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::super::error::StoreError;
use super::super::layout::Key;
use super::directory::{Directory, Identity, Temporary, sync_directory};

pub(super) struct Batch<'a> {
    directory: &'a Directory,
    /// Directories that have got an entry since their last sync.
    unsynced: BTreeSet<PathBuf>,
    /// Directories whose own entry is among those to sync, or was synced by this batch.
    made: BTreeSet<PathBuf>,
    /// Of those, the ones that were there before: shared, so worth remembering.
    met: Vec<(PathBuf, Identity)>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(directory: &'a Directory) -> Self {
        Self { directory, unsynced: BTreeSet::new(), made: BTreeSet::new(), met: Vec::new() }
    }

    /// Makes a directory and what is missing above it, up to the root.
    ///
    /// The parent of a directory that was there already is synced too, the first time it is met:
    /// the process that made it may have been killed before its own sync.
    pub(super) fn make(&mut self, path: &Path) -> Result<(), StoreError> {
        if path == self.directory.root() || self.made.contains(path) || self.directory.knows(path) {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        self.make(parent)?;
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.met.extend(Identity::of(path).map(|found| (path.to_owned(), found)));
            }
            Err(error) => return Err(StoreError::io("create", path, error)),
        }
        self.unsynced.insert(parent.to_owned());
        self.made.insert(path.to_owned());
        Ok(())
    }

    /// Makes the directory that the object at `key` lies in.
    pub(super) fn make_parent(&mut self, key: &Key) -> Result<PathBuf, StoreError> {
        let path = self.directory.place(key);
        if let Some(parent) = path.parent() {
            self.make(parent)?;
        }
        Ok(path)
    }

    /// Puts objects in the given order. What is there with the same bytes stays.
    pub(super) fn put(&mut self, objects: &[(&Key, &[u8])]) -> Result<(), StoreError> {
        let mut written = Vec::with_capacity(objects.len());
        for (key, bytes) in objects {
            let path = self.make_parent(key)?;
            if holds(&path, bytes) {
                self.has_entry(&path);
            } else {
                written.push((self.write(bytes)?, path));
            }
        }
        // The disk is given all of them at once: of many small files, each sync would else wait for its own.
        for (file, _) in &written {
            let _ = rustix::fs::fadvise(&file.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        for (file, _) in &written {
            sync_file(file)?;
        }
        for (file, path) in written {
            self.place(&file, &path)?;
            written_in_place(file);
        }
        Ok(())
    }

    /// Writes one object without syncing anything: what is made on the way is synced by who next puts something there.
    pub(super) fn note(mut self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.make_parent(key)?;
        let file = self.write(bytes)?;
        self.place(&file, &path)?;
        written_in_place(file);
        Ok(())
    }

    /// Puts `bytes` at `key` unless something is there; answers whether it did.
    pub(super) fn create(&mut self, key: &Key, bytes: &[u8]) -> Result<bool, StoreError> {
        let path = self.make_parent(key)?;
        let file = self.write(bytes)?;
        sync_file(&file)?;
        self.has_entry(&path);
        match file.path.persist_noclobber(&path) {
            Ok(()) => Ok(true),
            Err(failed) if failed.error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(failed) => Err(StoreError::io("write", &path, failed.error)),
        }
    }

    /// Moves a synced file to its place, after which it is [`written_in_place`].
    pub(super) fn place(&mut self, file: &Temporary, path: &Path) -> Result<(), StoreError> {
        fs::rename(&file.path, path).map_err(|error| StoreError::io("write", path, error))?;
        self.has_entry(path);
        Ok(())
    }

    /// Notes that the directory of `path` is to be synced.
    pub(super) fn has_entry(&mut self, path: &Path) {
        self.unsynced.extend(path.parent().map(Path::to_owned));
    }

    /// Makes all entries of this batch durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        while let Some(path) = self.unsynced.last() {
            sync_directory(path)?;
            self.unsynced.pop_last();
        }
        self.directory.remember(self.met.drain(..));
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<Temporary, StoreError> {
        let mut file = self.directory.temporary()?;
        file.file.write_all(bytes).map_err(|error| StoreError::io("write", &file.path, error))?;
        Ok(file)
    }
}

/// Forgets the temporary name of a file that has been moved to its place.
pub(super) fn written_in_place(file: Temporary) {
    // The name is not removed and the handle is closed; on Unix keeping a path cannot fail.
    let _ = file.path.keep();
}

/// Makes a file's bytes durable, before its rename makes them visible.
pub(super) fn sync_file(file: &Temporary) -> Result<(), StoreError> {
    file.file.sync_all().map_err(|error| StoreError::io("sync", &file.path, error))
}

/// Whether the file holds exactly these bytes. One that cannot be read is written again.
fn holds(path: &Path, bytes: &[u8]) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64)
        && fs::read(path).is_ok_and(|found| found == bytes)
}
