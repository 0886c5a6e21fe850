//! A blob's way into an object store: in one request, or in parts that become visible together at the end.
//!
//! Its key is known only with its last byte, so a blob is spooled to a local file first. (The other way, an upload
//! to a temporary key and a copy, costs the service's work twice, and ends at the 5 GB that a copy takes.) Parts of an upload
//! that is never ended are nobody's to see; a lifecycle rule of the bucket removes them.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, UploadPart};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};

use super::bucket::Objects;
use crate::store::backend::dispatch::of_store;
use crate::store::error::StoreError;
use crate::store::layout::Key;

/// The usual length of a part, in bytes. A smaller blob goes in one request.
const PART: usize = 8 << 20;
/// Parts in memory at once, of all uploads of a process together: they are 32 MiB. Each has a minute to go
/// ([`Client`](super::client::Client)), so that an uplink of 560 kB/s is the least on which all do.
pub(super) const AT_ONCE: usize = 4;
/// Every how long one who waits for its turn asks whether it goes on.
const TURN: Duration = Duration::from_secs(1);
/// A blob has no more parts (services take 10,000); longer ones have larger parts.
const MOST_PARTS: u64 = 9_000;

/// What has been read to its end, and is not visible yet. Dropped, it leaves nothing behind.
pub(in crate::store) struct Upload<'a> {
    objects: &'a Objects,
    key: Key,
    length: u64,
    body: Option<Body>,
}

/// That a part may be in memory, until it is dropped.
type Turn = OwnedSemaphorePermit;

enum Body {
    Whole(Bytes, Turn),
    Parts(Box<dyn MultipartUpload>),
}

impl Objects {
    /// Reads `source`, of about `length` bytes, to its end. `goes_on` is asked between the parts. An error that is not
    /// the source's is one around a [`StoreError`].
    pub(in crate::store) fn upload(
        &self,
        key: &Key,
        source: &mut dyn Read,
        length: u64,
        goes_on: &dyn Fn() -> io::Result<()>,
    ) -> io::Result<Upload<'_>> {
        let part = PART.max(usize::try_from(length.div_ceil(MOST_PARTS)).unwrap_or(usize::MAX));
        let turn = self.turn(goes_on)?;
        let first = piece(source, part)?;
        let mut upload = Upload { objects: self, key: key.clone(), length: first.len() as u64, body: None };
        if first.len() < part {
            upload.body = Some(Body::Whole(first, turn));
            return Ok(upload);
        }
        let (store, path) = (self.store(), self.at(key));
        let begun = self.wait(async move { store.put_multipart(&path).await });
        let mut parts = begun.map_err(|error| of_store(self.failed("write", key)(error)))?;
        let mut sending = JoinSet::new();
        self.send(&mut sending, parts.put_part(PutPayload::from(first)), turn);
        upload.body = Some(Body::Parts(parts));
        loop {
            // Before it is read.
            let turn = self.turn(goes_on)?;
            let next = piece(source, part)?;
            if next.is_empty() {
                break;
            }
            upload.length += next.len() as u64;
            let Some(Body::Parts(parts)) = &mut upload.body else { break };
            self.send(&mut sending, parts.put_part(PutPayload::from(next)), turn);
            while let Some(sent) = sending.try_join_next() {
                self.is_sent(sent, key)?;
            }
        }
        while !sending.is_empty() {
            goes_on()?;
            let (all, sent) = self.wait(async move {
                let sent = sending.join_next().await;
                (sending, sent)
            });
            sending = all;
            if let Some(sent) = sent {
                self.is_sent(sent, key)?;
            }
        }
        Ok(upload)
    }

    /// Waits until one more part may be in memory.
    fn turn(&self, goes_on: &dyn Fn() -> io::Result<()>) -> io::Result<Turn> {
        let mut turn = Box::pin(self.turns.clone().acquire_owned());
        loop {
            goes_on()?;
            let come;
            (turn, come) = self.wait(async move {
                let come = tokio::time::timeout(TURN, &mut turn).await;
                (turn, come)
            });
            if let Ok(Ok(turn)) = come {
                return Ok(turn);
            }
        }
    }

    fn send(&self, sending: &mut JoinSet<object_store::Result<()>>, part: UploadPart, turn: Turn) {
        let part = async move {
            let sent = part.await;
            drop(turn);
            sent
        };
        sending.spawn_on(part, self.runtime().handle());
    }

    fn is_sent(&self, sent: Result<object_store::Result<()>, JoinError>, key: &Key) -> io::Result<()> {
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(of_store(self.failed("write", key)(error))),
            Err(_) => Err(of_store(StoreError::Stopping)),
        }
    }
}

impl Upload<'_> {
    /// Makes it visible, and sees that it is there in its length.
    pub(in crate::store) fn complete(mut self) -> Result<(), StoreError> {
        let (objects, key) = (self.objects, self.key.clone());
        let failed = objects.failed("write", &key);
        match self.body.take() {
            None => {}
            Some(Body::Whole(bytes, _turn)) => {
                let (store, path) = (objects.store(), objects.at(&key));
                objects
                    .wait(async move { store.put(&path, PutPayload::from(bytes)).await })
                    .map_err(failed)?;
            }
            Some(Body::Parts(mut parts)) => {
                let before = objects.head(&key)?;
                let (parts, completed) = objects.wait(async move {
                    let completed = parts.complete().await;
                    (parts, completed)
                });
                if let Err(error) = completed {
                    // Where the answer was lost, there is no such upload any more when it is asked for again.
                    let now = objects.head(&key).ok().flatten();
                    let is_done = now != before && now.is_some_and(|now| now.size == self.length);
                    if !is_done {
                        self.body = Some(Body::Parts(parts));
                        return Err(failed(error));
                    }
                }
            }
        }
        match objects.head(&key)?.map_or(0, |meta| meta.size) {
            length if length == self.length => Ok(()),
            length => Err(StoreError::Damaged {
                path: objects.place(&key),
                reason: format!("it is {length} bytes long after {} were sent", self.length),
            }),
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        if let Some(Body::Parts(mut parts)) = self.body.take() {
            let aborted = self.objects.wait(async move { parts.abort().await });
            if let Err(error) = aborted {
                let place = self.objects.place(&self.key);
                tracing::warn!(place = %place.display(), %error, "the parts of an upload that failed stay in the object store; let a lifecycle rule of the bucket remove such");
            }
        }
    }
}

/// The next bytes of a source, as many as there are up to `length`.
fn piece(source: &mut dyn Read, length: usize) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    source.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
