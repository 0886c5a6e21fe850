//! The operations of one object each. All calls block: they belong on a blocking thread.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, UpdateVersion};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::object::StoredObject;
use super::upload::AT_ONCE;
use crate::store::backend::dispatch::{Entry, Seen};
use crate::store::config::StoreConfig;
use crate::store::digest::Digest;
use crate::store::error::StoreError;
use crate::store::layout::{self, Key};

/// Objects of a listing that are in memory at once: as many as services answer with one request.
const PAGE: usize = 1000;
/// What lies among the temporary objects for so long was left by a crash.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

pub(in crate::store) struct Objects {
    pub(super) client: Arc<Client>,
    /// `s3://images/prefix`, for messages.
    url: String,
    /// Where blobs are until they are in the object store.
    spool: PathBuf,
    /// That so many parts of uploads may be in memory.
    pub(super) turns: Arc<Semaphore>,
    /// Instead of the usual one, for tests.
    #[cfg(test)]
    pub(super) stale: Option<Duration>,
    /// Of its own, so that a thread may wait for it wherever it is called from. `None` only while it is dropped.
    runtime: Option<Runtime>,
}

/// A small object as it was read.
pub(super) struct Found {
    pub bytes: Bytes,
    /// What a put on condition names.
    pub version: UpdateVersion,
    pub modified: SystemTime,
}

impl Objects {
    pub(in crate::store) fn connect(config: &StoreConfig) -> Result<Self, StoreError> {
        let client = Arc::new(Client::connect(config)?);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("object-store")
            .enable_all()
            .build()
            .map_err(|error| StoreError::io("start", "a thread for the object store".as_ref(), error))?;
        let url = config.to_string().trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            url,
            spool: config.resolved_spool(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            #[cfg(test)]
            stale: None,
            runtime: Some(runtime),
        })
    }

    /// Waits for something to be done on the runtime of the object store.
    pub(super) fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        self.runtime().spawn(async move { drop(answer.send(work.await)) });
        answered.recv().expect("the runtime lives as long as the store, and requests do not panic")
    }

    pub(super) fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the store is dropped")
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        self.client.patient.clone()
    }

    pub(super) fn at(&self, key: &Key) -> Path {
        Path::from(format!("{}{}", self.client.prefix, key.as_str()))
    }

    /// Its address, for messages.
    pub(in crate::store) fn place(&self, key: &Key) -> PathBuf {
        format!("{}/{}", self.url, key.as_str()).into()
    }

    pub(in crate::store) fn url(&self) -> &str {
        &self.url
    }

    pub(in crate::store) fn spool(&self) -> &std::path::Path {
        &self.spool
    }

    pub(super) fn failed(
        &self,
        action: &'static str,
        key: &Key,
    ) -> impl Fn(object_store::Error) -> StoreError {
        let place = self.place(key);
        move |error| StoreError::object(action, &place, error)
    }

    /// What stands there, if it is only that something was taken away, too.
    pub(super) fn fetch(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let (store, path) = (self.store(), self.at(key));
        let found = self.wait(async move {
            let found = store.get(&path).await?;
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            let modified = found.meta.last_modified.into();
            Ok(Found { bytes: found.bytes().await?, version, modified })
        });
        absent_is_none(found).map_err(self.failed("read", key))
    }

    pub(in crate::store) fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let (store, path) = (self.store(), self.at(key));
        let found = absent_is_none(self.wait(async move { store.head(&path).await }));
        Ok(found.map_err(self.failed("read", key))?.filter(|meta| !is_taken(key, meta.size)))
    }

    /// The whole of a small object.
    pub(in crate::store) fn read(&self, key: &Key) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.fetch(key)?.filter(|found| !is_taken(key, found.bytes.len() as u64));
        Ok(found.map(|found| found.bytes.into()))
    }

    /// The same of one that may be large: its length, where that is more than `most` bytes.
    pub(in crate::store) fn read_up_to(
        &self,
        key: &Key,
        most: u64,
    ) -> Result<Option<Result<Vec<u8>, u64>>, StoreError> {
        let (store, path) = (self.store(), self.at(key));
        let found = self.wait(async move {
            let found = store.get(&path).await?;
            match found.meta.size {
                length if length > most => Ok(Err(length)),
                _ => Ok(Ok(found.bytes().await?)),
            }
        });
        let found = absent_is_none(found).map_err(self.failed("read", key))?;
        let found =
            found.filter(|found| !found.as_ref().is_ok_and(|bytes| is_taken(key, bytes.len() as u64)));
        Ok(found.map(|found| found.map(Vec::from)))
    }

    /// The length of an object in bytes.
    pub(in crate::store) fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        Ok(self.head(key)?.map(|meta| meta.size))
    }

    /// When an object was put.
    pub(in crate::store) fn modified(&self, key: &Key) -> Result<Option<SystemTime>, StoreError> {
        Ok(self.head(key)?.map(|meta| meta.last_modified.into()))
    }

    /// An object to be read later, as it is now.
    pub(in crate::store) fn object(&self, key: &Key) -> Result<Option<StoredObject>, StoreError> {
        let found = self.head(key)?;
        Ok(found
            .map(|meta| StoredObject::new(self.store(), self.client.signer.clone(), self.place(key), meta)))
    }

    /// The names under `key`, sorted.
    pub(in crate::store) fn list(&self, key: &Key) -> Result<Vec<String>, StoreError> {
        let (store, path) = (self.store(), self.at(key));
        let listed = self.wait(async move { store.list_with_delimiter(Some(&path)).await });
        let listed = listed.map_err(self.failed("list", key))?;
        let folders = listed.common_prefixes.iter();
        let objects = listed.objects.iter().map(|meta| &meta.location);
        let mut names: Vec<_> =
            folders.chain(objects).filter_map(|path| path.filename()).map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Tells of each object below `key`, by its path from there, until `each` answers that it is enough, or why the rest
    /// cannot be listed. A request answers for a thousand.
    pub(in crate::store) fn walk(
        &self,
        key: &Key,
        each: &mut dyn FnMut(&str, Seen) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let above = self.at(key);
        let mut listing: BoxStream<'static, _> = self.store().list(Some(&above));
        loop {
            let page;
            (listing, page) = self.wait(async move {
                let page: Result<Vec<ObjectMeta>, _> = listing.by_ref().take(PAGE).try_collect().await;
                (listing, page)
            });
            let page = match page {
                Ok(page) => page,
                Err(error) => return each("", Seen::Unread(self.failed("list", key)(error))).map(drop),
            };
            for meta in &page {
                let below = meta.location.as_ref().strip_prefix(above.as_ref());
                let Some(path) = below.and_then(|path| path.strip_prefix('/')) else { continue };
                let entry = Entry { bytes: meta.size, modified: meta.last_modified.into() };
                if !is_taken(&key.below(path), meta.size) && !each(path, Seen::Object(entry))? {
                    return Ok(());
                }
            }
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }

    /// Puts small objects in the given order, over what is there.
    pub(in crate::store) fn put(&self, objects: &[(&Key, &[u8])]) -> Result<(), StoreError> {
        for (key, bytes) in objects {
            let (store, path, payload) = (self.store(), self.at(key), PutPayload::from(bytes.to_vec()));
            self.wait(async move { store.put(&path, payload).await }).map_err(self.failed("write", key))?;
        }
        Ok(())
    }

    /// Removes an object; answers whether it was there.
    pub(in crate::store) fn remove(&self, key: &Key) -> Result<bool, StoreError> {
        Ok(self.discard(key)?.is_some())
    }

    /// Removes an object. Answers its length in bytes if it was there.
    pub(in crate::store) fn discard(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        let Some(meta) = self.head(key)? else { return Ok(None) };
        self.delete(key)?;
        Ok(Some(meta.size))
    }

    /// Sends the removal of an object, once.
    pub(super) fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let (store, path) = (self.client.once.clone(), self.at(key));
        let deleted = self.wait(async move { store.delete(&path).await });
        absent_is_none(deleted).map(drop).map_err(self.failed("remove", key))
    }

    /// Removes the temporary objects that crashes have left: blobs are spooled in files without a name, of which a crash
    /// leaves none.
    pub(in crate::store) fn sweep(
        &self,
        cancel: &CancellationToken,
        mut told: impl FnMut(&std::path::Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        let folder = layout::temporary_files();
        let mut old = Vec::new();
        self.walk(&folder, &mut |name, seen| {
            let Some(entry) = seen.object()? else { return Ok(true) };
            if entry.modified.elapsed().is_ok_and(|age| age > STALE) {
                old.push((folder.below(name), entry.bytes));
            }
            Ok(!cancel.is_cancelled())
        })?;
        for (key, bytes) in old {
            told(&self.place(&key), self.delete(&key).map(|()| bytes));
        }
        Ok(())
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // One may not wait for it in another runtime.
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client shows its keys.
        f.debug_struct("Objects").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Whether an object of this length only says that the one at `key` was taken away ([`conditional`](super::conditional)):
/// nothing of the store's is empty but the blob that is.
pub(super) fn is_taken(key: &Key, length: u64) -> bool {
    length == 0 && *key != layout::blob(Digest::of(b""))
}

pub(super) fn absent_is_none<T>(
    result: Result<T, object_store::Error>,
) -> Result<Option<T>, object_store::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
