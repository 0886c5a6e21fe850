//! The one place that knows both kinds of stores. All calls block: they belong on a blocking thread.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::content::{Content, Stamp};
use super::directory::{Directory, Swap};
use super::objects::Objects;
use super::removal::{Held, Lease};
use crate::store::blobs::{Blob, BlobSource};
use crate::store::error::StoreError;
use crate::store::layout::Key;

/// Where the store's objects are.
#[derive(Debug)]
pub(in crate::store) enum Backend {
    Directory(Directory),
    Objects(Objects),
}

/// What a listing tells of an object.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Entry {
    pub bytes: u64,
    pub modified: SystemTime,
}

/// What a walk comes to.
#[derive(Debug)]
pub(in crate::store) enum Seen {
    Object(Entry),
    /// A directory, before what is in it.
    Folder,
    /// What it is, or what is in it, cannot be read.
    Unread(StoreError),
}

impl Seen {
    /// For whom what cannot be read is the end.
    pub(in crate::store) fn object(self) -> Result<Option<Entry>, StoreError> {
        match self {
            Self::Object(entry) => Ok(Some(entry)),
            Self::Folder => Ok(None),
            Self::Unread(error) => Err(error),
        }
    }
}

macro_rules! each {
    ($backend:expr, $place:ident => $call:expr) => {
        match $backend {
            Backend::Directory($place) => $call,
            Backend::Objects($place) => $call,
        }
    };
}

impl Backend {
    /// Where an object is, for messages.
    pub(in crate::store) fn place(&self, key: &Key) -> PathBuf {
        each!(self, place => place.place(key))
    }

    /// Where the store is, for messages.
    pub(in crate::store) fn root(&self) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.root().to_owned(),
            Self::Objects(objects) => objects.url().into(),
        }
    }

    /// The directory that it is in, unless it is in an object store.
    pub(in crate::store) fn directory(&self) -> Option<&Directory> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Objects(_) => None,
        }
    }

    /// The whole of a small object.
    pub(in crate::store) fn read(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        each!(self, place => place.read(key))
    }

    /// The same of one that may be large: its length, where that is more than `most` bytes.
    pub(in crate::store) fn read_up_to(
        &self,
        key: &Key,
        most: u64,
    ) -> Result<Option<Result<Vec<u8>, u64>>, StoreError> {
        match self {
            Self::Directory(directory) => match directory.size(key)? {
                Some(length) if length > most => Ok(Some(Err(length))),
                Some(_) => Ok(directory.read(key)?.map(Ok)),
                None => Ok(None),
            },
            Self::Objects(objects) => objects.read_up_to(key, most),
        }
    }

    /// The length of an object in bytes.
    pub(in crate::store) fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        each!(self, place => place.size(key))
    }

    /// When an object was put.
    pub(in crate::store) fn modified(&self, key: &Key) -> Result<Option<SystemTime>, StoreError> {
        each!(self, place => place.modified(key))
    }

    /// An object for whoever serves it.
    pub(in crate::store) fn served(&self, key: &Key) -> Result<Option<Blob>, StoreError> {
        Ok(match self {
            Self::Directory(directory) => {
                directory.size(key)?.map(|size| Blob { size, source: BlobSource::File(directory.place(key)) })
            }
            Self::Objects(objects) => objects
                .object(key)?
                .map(|object| Blob { size: object.size(), source: BlobSource::Object(object) }),
        })
    }

    /// An object to be read from here.
    pub(in crate::store) fn open(&self, key: &Key) -> Result<Option<Content<'_>>, StoreError> {
        Ok(match self {
            Self::Directory(directory) => directory.open(key)?.map(Content::File),
            Self::Objects(objects) => objects.head(key)?.map(|meta| Content::Object(objects, meta)),
        })
    }

    /// By what it is seen whether an object has been written to.
    pub(in crate::store) fn stamp(&self, key: &Key) -> Result<Option<Stamp>, StoreError> {
        Ok(match self {
            Self::Directory(directory) => Stamp::of_file(&directory.place(key)),
            Self::Objects(objects) => objects.head(key)?.map(Stamp::of_object),
        })
    }

    /// The names under `key`, sorted; none when there is no such directory.
    pub(in crate::store) fn list(&self, key: &Key) -> Result<Vec<String>, StoreError> {
        each!(self, place => place.list(key))
    }

    /// The names under `key` under which there is an object called `below`, sorted.
    pub(in crate::store) fn list_having(&self, key: &Key, below: &str) -> Result<Vec<String>, StoreError> {
        let mut having = Vec::new();
        match self {
            Self::Directory(directory) => {
                for name in directory.list(key)? {
                    if directory.size(&key.below(&name).below(below))?.is_some() {
                        having.push(name);
                    }
                }
            }
            // Not a request for each.
            Self::Objects(objects) => objects.walk(key, &mut |path, seen| {
                seen.object()?;
                let name = path.split_once('/').filter(|(_, rest)| *rest == below);
                having.extend(name.map(|(name, _)| name.to_owned()));
                Ok(true)
            })?,
        }
        having.sort_unstable();
        Ok(having)
    }

    /// Tells of each object below `key`, by its path from there, in any order, until `each` answers that it is enough; and
    /// of what cannot be read there, in whose stead it goes on with the rest.
    pub(in crate::store) fn walk(
        &self,
        key: &Key,
        each: &mut dyn FnMut(&str, Seen) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        each!(self, place => place.walk(key, each))
    }

    /// Puts small objects in the given order, over what is there.
    pub(in crate::store) fn put(&self, objects: &[(&Key, &[u8])]) -> Result<(), StoreError> {
        each!(self, place => place.put(objects))
    }

    /// Puts an object that a loss of power may cut short or take away: where that saves something, without waiting for
    /// the disk.
    pub(in crate::store) fn note(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => directory.note(key, bytes),
            Self::Objects(objects) => objects.put(&[(key, bytes)]),
        }
    }

    /// Puts `before`, and then `bytes` at `key` unless something stands there, in which case that is the answer.
    pub(in crate::store) fn put_if_absent(
        &self,
        before: &[(&Key, &[u8])],
        key: &Key,
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        each!(self, place => place.put_if_absent(before, key, bytes))
    }

    /// Puts `before`, and then `bytes` at `key` if `expected` or nothing stands there. The lock file at `lock` keeps out
    /// all other processes that replace objects under it in a directory.
    pub(in crate::store) fn compare_and_set(
        &self,
        lock: &Key,
        before: &[(&Key, &[u8])],
        key: &Key,
        expected: &[u8],
        bytes: &[u8],
    ) -> Result<Swap, StoreError> {
        match self {
            Self::Directory(directory) => directory.compare_and_set(lock, before, key, expected, bytes),
            Self::Objects(objects) => objects.compare_and_set(before, key, expected, bytes),
        }
    }

    /// Makes sure that an object which was found is durable: another process may have put it and not have come to its
    /// own sync yet.
    pub(in crate::store) fn settle(&self, key: &Key) -> Result<(), StoreError> {
        match self {
            Self::Directory(directory) => directory.settle(key),
            Self::Objects(_) => Ok(()),
        }
    }

    /// Removes an object durably; answers whether it was there.
    pub(in crate::store) fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        each!(self, place => place.remove(key))
    }

    /// Removes an object durably if it still is `expected`; where others wait for what is `held`, before that is over.
    pub(in crate::store) fn remove_if(
        &self,
        lock: &Key,
        key: &Key,
        expected: &[u8],
        held: Option<&Held>,
    ) -> Result<Swap, StoreError> {
        match self {
            Self::Directory(directory) => directory.remove_if(lock, key, expected),
            Self::Objects(objects) => {
                let hold = match held {
                    Some(Held::Objects(hold)) => Some(*hold),
                    _ => None,
                };
                objects.remove_if(key, expected, hold)
            }
        }
    }

    /// Removes an object durably, before what is `held` is over.
    pub(in crate::store) fn remove_held(&self, key: &Key, held: &Held) -> Result<(), StoreError> {
        match (self, held) {
            (Self::Objects(objects), Held::Objects(hold)) => objects.erase(key, hold),
            _ => self.remove(key).map(drop),
        }
    }

    /// Removes an object, and the directories that are empty then. After a loss of power it may be there again. Answers
    /// its length in bytes if it was there.
    pub(in crate::store) fn discard(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        each!(self, place => place.discard(key))
    }

    /// The same, of what others put again only once what is `held` is over.
    pub(in crate::store) fn erase(&self, key: &Key, held: &Held) -> Result<(), StoreError> {
        match (self, held) {
            (Self::Objects(objects), Held::Objects(hold)) => objects.erase(key, hold),
            _ => self.discard(key).map(drop),
        }
    }

    /// Removes the directories at and above `key`, as far as nothing is in them.
    pub(in crate::store) fn remove_empty(&self, key: &Key) {
        if let Self::Directory(directory) = self {
            directory.remove_empty(key);
        }
    }

    /// Puts `becomes` at `key` if `was` stands there; answers whether it did. Both may be nothing. After a loss of power
    /// it may be as it was before.
    pub(in crate::store) fn change(
        &self,
        lock: &Key,
        key: &Key,
        was: &[u8],
        becomes: &[u8],
    ) -> Result<bool, StoreError> {
        match self {
            Self::Directory(directory) => {
                Ok(directory.change_while(lock, key, was, |()| becomes.to_vec(), || Ok(()))?.is_some())
            }
            Self::Objects(objects) => objects.change(key, was, becomes),
        }
    }

    /// Does `work`, and puts at `key` what that `becomes` by it, if `was` stands there; else does nothing and answers `None`,
    /// as it does where another went on in the middle of the work that took too long. Nobody else changes what is there
    /// meanwhile, and who waits for that sees the work done. What `becomes` nothing is removed. After a loss of power it
    /// may be as it was before, or in part.
    pub(in crate::store) fn change_while<T>(
        &self,
        lock: &Key,
        key: &Key,
        was: &[u8],
        becomes: impl FnOnce(&T) -> Vec<u8>,
        work: impl FnOnce(&Held) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        match self {
            Self::Directory(directory) => {
                directory.change_while(lock, key, was, becomes, || work(&Held::Lock))
            }
            Self::Objects(objects) => {
                objects.change_while(key, was, becomes, |hold| work(&Held::Objects(hold)))
            }
        }
    }

    /// Takes the lease at `key`, unless another process has it: `None`.
    pub(in crate::store) fn lease(&self, key: &Key) -> Result<Option<Lease>, StoreError> {
        match self {
            Self::Directory(directory) => directory.lease(key),
            Self::Objects(objects) => Ok(objects.lease(key)?.map(Lease::Object)),
        }
    }

    /// Moves an object to another place, if what stands there is still what was `seen`; answers whether it was.
    pub(in crate::store) fn set_aside(
        &self,
        key: &Key,
        seen: &Content<'_>,
        aside: &Key,
    ) -> Result<bool, StoreError> {
        match (self, seen) {
            (Self::Directory(directory), Content::File(file)) => directory.set_aside(key, file, aside),
            (Self::Objects(objects), Content::Object(_, meta)) => objects.set_aside(key, meta, aside),
            // Opened in another store.
            _ => Ok(false),
        }
    }

    /// Removes the temporary files that a crash has left. Of each, `told` hears its length, or why it could not be
    /// removed. Goes no further once `cancel` is cancelled.
    pub(in crate::store) fn sweep(
        &self,
        cancel: &CancellationToken,
        told: impl FnMut(&Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        each!(self, place => place.sweep(cancel, told))
    }
}

/// An error that is not its source's, for who reads and writes.
pub(super) fn of_store(error: StoreError) -> io::Error {
    io::Error::other(error)
}
