//! Blobs: layers, configurations and manifests by their digest, and the links through which a
//! repository's readers reach them.

use std::path::PathBuf;

use super::backend::{BlobWriter, StoredObject};
use super::condemned;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use crate::publish::name::ImageRepository;

/// A blob that may be read.
#[derive(Debug, Clone)]
pub struct Blob {
    /// In bytes.
    pub size: u64,
    pub source: BlobSource,
}

/// What a blob is read from.
#[derive(Debug, Clone)]
pub enum BlobSource {
    File(PathBuf),
    Object(StoredObject),
}

impl Store {
    /// A writer for one blob, to be used on a blocking thread.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        BlobWriter::new(self.backend().clone())
    }

    /// Puts a small blob that is whole in memory, such as a configuration.
    pub async fn put_blob(&self, bytes: Vec<u8>) -> Result<Digest, StoreError> {
        self.blocking(move |backend| {
            let digest = Digest::of(&bytes);
            condemned::spare(backend, [digest])?;
            backend.put(&[(&layout::blob(digest), &bytes)])?;
            Ok(digest)
        })
        .await
    }

    /// Lets layers and configurations be read through the repository. All of an image's cost little more
    /// than one.
    pub async fn link_blobs(
        &self,
        repository: &ImageRepository,
        digests: Vec<Digest>,
    ) -> Result<(), StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| {
            condemned::spare(backend, digests.iter().copied())?;
            let links =
                digests.iter().map(|&digest| (layout::layer_link(&repository, digest), digest.to_string()));
            let links: Vec<_> = links.collect();
            let objects: Vec<_> = links.iter().map(|(key, link)| (key, link.as_bytes())).collect();
            backend.put(&objects)
        })
        .await
    }

    /// The bytes of a small one, such as a configuration, if this repository links it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when they do not match the digest; [`StoreError::Manifest`] when there are more
    /// than `most` of them.
    pub async fn read_blob(
        &self,
        repository: &ImageRepository,
        digest: Digest,
        most: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let link = layout::layer_link(repository, digest);
        self.blocking(move |backend| {
            let key = layout::blob(digest);
            let size = match backend.size(&link)? {
                Some(_) => backend.size(&key)?,
                None => None,
            };
            let Some(size) = size else { return Ok(None) };
            if size > most {
                let reason = format!("it is {size} bytes long; at most {most} are read");
                return Err(StoreError::Manifest { digest, reason });
            }
            match backend.read(&key)? {
                Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Corrupt { digest }),
                found => Ok(found),
            }
        })
        .await
    }

    /// A layer or configuration, if this repository links it.
    pub async fn blob(
        &self,
        repository: &ImageRepository,
        digest: Digest,
    ) -> Result<Option<Blob>, StoreError> {
        let link = layout::layer_link(repository, digest);
        self.blocking(move |backend| {
            if backend.size(&link)?.is_none() {
                return Ok(None);
            }
            backend.served(&layout::blob(digest))
        })
        .await
    }
}
