//! The end of a round: what was found without use is removed where its grace is over, and marked where it was not
//! before.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use rayon::prelude::*;

use super::retention::Retention;
use super::round::Round;
use crate::store::backend::Held;
use crate::store::condemned::{self, List, Mark};
use crate::store::digest::Digest;
use crate::store::error::StoreError;
use crate::store::layers::Layer;
use crate::store::layout::{self, Key};
use crate::store::unread::{PassedOver, Unread};

/// What is removed under one lock of the lists, for which a publisher may have to wait.
const AT_ONCE: usize = 512;
/// The same in an object store: each is a request there, and all must be over before the others have waited long enough.
const AT_ONCE_BY_REQUESTS: usize = 64;
/// Of these, so many are under way at a time: a service may take seven seconds for one.
const REQUESTS: usize = 16;

/// So many are removed one after the other: fewer are not worth a thread.
const TOGETHER: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Link,
    /// An image that retention lets go, by its link in its tag's index.
    Image,
}

/// Something that nobody needs.
pub(super) struct Garbage {
    pub key: Key,
    pub digest: Digest,
    pub kind: Kind,
    pub bytes: u64,
    /// The mark that it had when the round began.
    pub mark: Option<Mark>,
}

/// The garbage of one list.
pub(super) struct Settled {
    due: Vec<Garbage>,
    /// What is not due, and what could not be removed.
    rest: Vec<Garbage>,
}

/// What came of the removal of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Gone,
    /// It is there still, and keeps its mark.
    Stays,
}

impl Round<'_> {
    /// Removes what is due in one list; answers what was, and the rest.
    pub(super) fn remove_due(
        &mut self,
        passed: &mut PassedOver<'_>,
        shard: &str,
    ) -> Result<Settled, StoreError> {
        let mut garbage = self.garbage.remove(shard).unwrap_or_default();
        if self.unread_lists.contains(shard) {
            garbage.clear();
        }
        // Images go by their tags, or not at all.
        let is_due = |one: &Garbage| {
            one.kind != Kind::Image && one.mark.as_ref().is_some_and(|mark| self.is_due(mark))
        };
        let (mut due, mut rest): (Vec<_>, Vec<_>) = garbage.into_iter().partition(is_due);
        let mut stuck = HashSet::new();
        let is_directory = self.backend.directory().is_some();
        for batch in due.chunks(if is_directory { AT_ONCE } else { AT_ONCE_BY_REQUESTS }) {
            self.go_on()?;
            let marks: Vec<&Mark> = batch.iter().filter_map(|one| one.mark.as_ref()).collect();
            let keys: HashMap<_, _> = batch.iter().map(|one| (one.key.as_str(), one)).collect();
            let (failed, gone) = (Mutex::new(HashMap::new()), Mutex::new(HashSet::new()));
            let remove = |mark: &Mark, held: &Held| {
                let Some(one) = keys.get(mark.key.as_str()) else { return Ok(Outcome::Stays) };
                match self.backend.erase(&one.key, held) {
                    // A directory in the place of a link, or another user's. The others go.
                    Err(error) if Unread::is_one(&error) => {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.insert(mark.key.clone(), error);
                        Ok(Outcome::Stays)
                    }
                    Err(error) => Err(error),
                    Ok(()) => {
                        gone.lock().unwrap_or_else(PoisonError::into_inner).insert(mark.key.clone());
                        Ok(Outcome::Gone)
                    }
                }
            };
            let removed = match self.collection.dry_run {
                true => Ok(marks.iter().map(|mark| mark.key.clone()).collect()),
                false => self.remove_marked(shard, &marks, remove),
            };
            // Also what went before an error.
            let mut gone = gone.into_inner().unwrap_or_else(PoisonError::into_inner);
            gone.extend(removed.iter().flatten().cloned());
            for one in batch.iter().filter(|one| gone.contains(one.key.as_str())) {
                self.collected.removed.add(one.kind == Kind::Blob, one.bytes);
            }
            removed?;
            let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
            for (key, error) in failed.into_iter().filter(|(key, _)| !gone.contains(key)) {
                passed.tell(error)?;
                stuck.insert(key);
            }
        }
        rest.extend(due.extract_if(.., |one| stuck.contains(one.key.as_str())));
        Ok(Settled { due, rest })
    }

    /// Removes what these marks name, of those that still stand in the list, which loses the marks of what is gone;
    /// answers what is.
    pub(super) fn remove_marked(
        &self,
        shard: &str,
        marks: &[&Mark],
        remove: impl Fn(&Mark, &Held) -> Result<Outcome, StoreError> + Sync,
    ) -> Result<HashSet<String>, StoreError> {
        let marks: HashMap<_, _> = marks.iter().map(|mark| (mark.key.as_str(), *mark)).collect();
        loop {
            let list = List::read(self.backend, shard)?;
            let is_named = |mark: &&Mark| marks.get(mark.key.as_str()) == Some(mark);
            let go: Vec<&Mark> = list.marks.iter().filter(is_named).collect();
            let (lock, key) = (layout::condemned_lock(), layout::condemned(shard));
            // Many at once, since it is the disk, or the service, that takes the time.
            let work = |held: &Held| {
                let gone = Mutex::new(HashSet::new());
                let one = |mark: &Mark| {
                    if remove(mark, held)? == Outcome::Gone {
                        gone.lock().unwrap_or_else(PoisonError::into_inner).insert(mark.key.clone());
                    }
                    Ok(())
                };
                match self.backend.directory() {
                    Some(_) => go.par_iter().with_min_len(TOGETHER).try_for_each(|mark| one(mark)),
                    None => by_requests(&go, one),
                }?;
                Ok(gone.into_inner().unwrap_or_else(PoisonError::into_inner))
            };
            let rest = |gone: &HashSet<String>| {
                List::bytes_of(list.marks.iter().filter(|mark| !is_named(mark) || !gone.contains(&mark.key)))
            };
            if let Some(gone) = self.backend.change_while(&lock, &key, &list.bytes, rest, work)? {
                return Ok(gone);
            }
        }
    }

    /// Marks what has none, and takes the marks off what is needed again.
    pub(super) fn condemn(&mut self, shard: &str, settled: &Settled) -> Result<(), StoreError> {
        let Settled { due, rest } = settled;
        if due.is_empty() && rest.is_empty() && !self.marked.contains(shard) {
            return Ok(());
        }
        loop {
            let list = List::read(self.backend, shard)?;
            let since = self.clock()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let standing: HashMap<_, _> = list.marks.iter().map(|mark| (mark.key.as_str(), mark)).collect();
            let (mut marks, mut waiting) = (Vec::new(), Vec::new());
            for one in rest {
                match standing.get(one.key.as_str()) {
                    // One from the future begins anew: a clock was wrong.
                    Some(&mark) if mark.since <= since => {
                        marks.push(mark.clone());
                        waiting.push(true);
                    }
                    _ => {
                        let (key, digest) = (one.key.as_str().to_owned(), one.digest);
                        let (round, is_image) = (self.id.clone(), one.kind == Kind::Image);
                        marks.push(Mark { key, digest, since, round, is_image });
                        waiting.push(false);
                    }
                }
            }
            let found: HashSet<_> = due.iter().chain(rest).map(|one| one.key.as_str()).collect();
            let mut spared = 0;
            for mark in list.marks.iter().filter(|mark| !found.contains(mark.key.as_str())) {
                let is_open = match mark.is_image {
                    true => matches!(self.collection.retention, Retention::Unknown(_)),
                    false => {
                        mark.key == layout::blob(mark.digest).as_str()
                            && (self.keeps_blobs || !self.sees_blobs && !self.live.has(mark.digest))
                    }
                };
                // Where nobody can tell whether it is in use, it neither goes nor is spared.
                match is_open {
                    true => marks.push(mark.clone()),
                    false => spared += 1,
                }
            }
            let bytes = List::bytes_of(&marks);
            let (lock, key) = (layout::condemned_lock(), layout::condemned(shard));
            let is_done = self.collection.dry_run
                || bytes == list.bytes
                || self.backend.change(&lock, &key, &list.bytes, &bytes)?;
            if !is_done {
                continue;
            }
            for (one, waits) in rest.iter().zip(waiting) {
                let sum = if waits { &mut self.collected.waiting } else { &mut self.collected.condemned };
                sum.add(one.kind == Kind::Blob, one.bytes);
            }
            self.collected.spared += spared;
            return Ok(());
        }
    }

    /// Entries of the layer index whose blobs are gone. One that a publisher puts meanwhile may go with them; its
    /// layer is compressed again then.
    pub(super) fn layer_index(&mut self, passed: &mut PassedOver<'_>) -> Result<(), StoreError> {
        if self.collection.dry_run || self.collected.removed.blobs == 0 {
            return Ok(());
        }
        for shard in condemned::shards() {
            self.go_on()?;
            let folder = layout::layer_indices(&shard);
            for name in passed.or_told(self.backend.list(&folder))?.unwrap_or_default() {
                let key = folder.below(&name);
                let Some(Some(bytes)) = passed.or_told(self.backend.read(&key))? else { continue };
                let is_of_use = match serde_json::from_slice::<Layer>(&bytes) {
                    Ok(layer) => {
                        self.live.has(layer.digest)
                            // One that cannot be seen is there.
                            || self.backend.size(&layout::blob(layer.digest)).map_or(true, |size| size.is_some())
                    }
                    Err(_) => false,
                };
                if !is_of_use && passed.or_told(self.backend.discard(&key))?.flatten().is_some() {
                    self.collected.removed.links += 1;
                }
            }
        }
        Ok(())
    }
}

/// Removes each by a request, on threads of their own, of which there are more than processors.
fn by_requests(
    marks: &[&Mark],
    remove: impl Fn(&Mark) -> Result<(), StoreError> + Sync,
) -> Result<(), StoreError> {
    let remove = &remove;
    std::thread::scope(|scope| {
        let pieces = marks.chunks(marks.len().div_ceil(REQUESTS).max(1));
        let threads = pieces.map(|piece| scope.spawn(|| piece.iter().try_for_each(|mark| remove(mark))));
        let threads: Vec<_> = threads.collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a removal does not panic"))
    })
}
