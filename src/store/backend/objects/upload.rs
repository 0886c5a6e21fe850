//! A blob's way into an object store: in one request, or in parts that become visible together at the end.
//!
//! Its key is known only with its last byte, so a blob is spooled to a local file first. (The other way, an upload
//! to a temporary key and a copy, costs the service's work twice, and ends at the 5 GB that a copy takes.) Parts of an upload
//! that is never ended are nobody's to see; a lifecycle rule of the bucket removes them.

use std::io::{self, Read};

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt as _, PutPayload, UploadPart};
use tokio::task::JoinSet;

use super::bucket::Objects;
use crate::store::backend::dispatch::of_store;
use crate::store::error::StoreError;
use crate::store::layout::Key;

/// The usual length of a part, in bytes. A smaller blob goes in one request.
const PART: usize = 8 << 20;
/// Parts under way at once: four of them are 32 MiB of memory.
const AT_ONCE: usize = 4;
/// A blob has no more parts (services take 10,000); longer ones have larger parts.
const MOST_PARTS: u64 = 9_000;

/// What has been read to its end, and is not visible yet. Dropped, it leaves nothing behind.
pub(in crate::store) struct Upload<'a> {
    objects: &'a Objects,
    key: Key,
    length: u64,
    body: Option<Body>,
}

enum Body {
    Whole(Bytes),
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
        let first = piece(source, part)?;
        let mut upload = Upload { objects: self, key: key.clone(), length: first.len() as u64, body: None };
        if first.len() < part {
            upload.body = Some(Body::Whole(first));
            return Ok(upload);
        }
        let (store, path) = (self.store(), self.at(key));
        let begun = self.wait(async move { store.put_multipart(&path).await });
        let mut parts = begun.map_err(|error| of_store(self.failed("write", key)(error)))?;
        let mut sending = JoinSet::new();
        let first = parts.put_part(PutPayload::from(first));
        upload.body = Some(Body::Parts(parts));
        self.send(&mut sending, first, key)?;
        loop {
            goes_on()?;
            let next = piece(source, part)?;
            if next.is_empty() {
                break;
            }
            upload.length += next.len() as u64;
            let Some(Body::Parts(parts)) = &mut upload.body else { break };
            let next = parts.put_part(PutPayload::from(next));
            self.send(&mut sending, next, key)?;
        }
        while !sending.is_empty() {
            goes_on()?;
            self.one_sent(&mut sending, key)?;
        }
        Ok(upload)
    }

    fn send(
        &self,
        sending: &mut JoinSet<object_store::Result<()>>,
        part: UploadPart,
        key: &Key,
    ) -> io::Result<()> {
        if sending.len() >= AT_ONCE {
            self.one_sent(sending, key)?;
        }
        sending.spawn_on(part, self.runtime().handle());
        Ok(())
    }

    fn one_sent(&self, sending: &mut JoinSet<object_store::Result<()>>, key: &Key) -> io::Result<()> {
        let mut all = std::mem::take(sending);
        let (all, sent) = self.wait(async move {
            let sent = all.join_next().await;
            (all, sent)
        });
        *sending = all;
        match sent {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(of_store(self.failed("write", key)(error))),
            Some(Err(_)) => Err(of_store(StoreError::Stopping)),
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
            Some(Body::Whole(bytes)) => {
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
