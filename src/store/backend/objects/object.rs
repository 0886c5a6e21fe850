//! Reading an object: as a stream, and on a blocking thread.

use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::signer::Signer;
use object_store::{Error, GetOptions, GetRange, ObjectMeta, ObjectStore};
use url::Url;

use super::bucket::Objects;
use crate::store::error::StoreError;

/// An object as it was when it was looked up.
#[derive(Clone)]
pub struct StoredObject {
    store: Arc<dyn ObjectStore>,
    signer: Arc<dyn Signer>,
    place: PathBuf,
    meta: ObjectMeta,
}

impl StoredObject {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        signer: Arc<dyn Signer>,
        place: PathBuf,
        meta: ObjectMeta,
    ) -> Self {
        Self { store, signer, place, meta }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.meta.size
    }

    /// Where it is, for messages.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// These bytes of it. `None`: it is not there any more, or has been put anew.
    pub async fn read(
        &self,
        range: Range<u64>,
    ) -> Result<Option<BoxStream<'static, io::Result<Bytes>>>, StoreError> {
        match self.store.get_opts(&self.meta.location, options(&self.meta, Some(range))).await {
            Ok(found) => Ok(Some(found.into_stream().map_err(io::Error::other).boxed())),
            Err(Error::NotFound { .. } | Error::Precondition { .. }) => Ok(None),
            Err(error) => Err(StoreError::object("read", &self.place, error)),
        }
    }

    /// An address from which anybody may read it for so long.
    pub async fn signed_url(&self, valid: Duration) -> Result<Url, StoreError> {
        let signed = self.signer.signed_url(http::Method::GET, &self.meta.location, valid).await;
        signed.map_err(|error| StoreError::object("sign an address of", &self.place, error))
    }
}

impl fmt::Debug for StoredObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What it is read with shows its keys.
        f.debug_struct("StoredObject").field("place", &self.place).finish_non_exhaustive()
    }
}

fn options(meta: &ObjectMeta, range: Option<Range<u64>>) -> GetOptions {
    let range = range.filter(|range| *range != (0..meta.size)).map(GetRange::Bounded);
    GetOptions { if_match: meta.e_tag.clone(), range, ..GetOptions::default() }
}

/// Reads an object from its beginning, on a blocking thread. One that has gone, or was put anew, is not found.
pub(in crate::store) struct ObjectReader<'a> {
    objects: &'a Objects,
    chunks: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    chunk: Bytes,
}

impl<'a> ObjectReader<'a> {
    pub(in crate::store) fn new(objects: &'a Objects, meta: &ObjectMeta) -> io::Result<Self> {
        let (store, path, options) = (objects.store(), meta.location.clone(), options(meta, None));
        let found = objects.wait(async move { store.get_opts(&path, options).await });
        let chunks = found.map_err(io_error)?.into_stream();
        Ok(Self { objects, chunks: Some(chunks), chunk: Bytes::new() })
    }
}

impl Read for ObjectReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let Some(mut chunks) = self.chunks.take() else { return Ok(0) };
            let (chunks, next) = self.objects.wait(async move {
                let next = chunks.next().await;
                (chunks, next)
            });
            let Some(next) = next else { return Ok(0) };
            self.chunk = next.map_err(io_error)?;
            self.chunks = Some(chunks);
        }
        let count = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

fn io_error(error: Error) -> io::Error {
    match error {
        Error::NotFound { .. } | Error::Precondition { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        _ => io::Error::other(error),
    }
}
