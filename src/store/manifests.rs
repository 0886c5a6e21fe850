//! Manifests: blobs that a repository's revision links make readable.

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageManifest};

use super::backend::Backend;
use super::condemned;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use super::tags::tagged;
use crate::publish::name::{ImageName, ImageRepository};

/// The longest manifest, in bytes: what registries commonly take (OCI distribution specification
/// 1.1, "Pushing Manifests", asks for at least 4 MiB).
const MAX_MANIFEST: usize = 4 << 20;

impl Store {
    /// Puts an image manifest and makes it readable by its digest through the repository.
    ///
    /// # Errors
    /// [`StoreError::Manifest`] when it is longer than 4 MiB.
    pub async fn put_manifest(
        &self,
        repository: &ImageRepository,
        bytes: Vec<u8>,
    ) -> Result<Digest, StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| {
            let digest = Digest::of(&bytes);
            if bytes.len() > MAX_MANIFEST {
                let reason =
                    format!("it is {} bytes long; at most {MAX_MANIFEST} can be served", bytes.len());
                return Err(StoreError::Manifest { digest, reason });
            }
            condemned::spare(backend, [digest])?;
            let link = digest.to_string();
            backend.put(&[
                (&layout::blob(digest), &bytes),
                (&layout::revision_link(&repository, digest), link.as_bytes()),
            ])?;
            Ok(digest)
        })
        .await
    }

    /// Whether an image is there with everything that it is made of, as far as sizes tell, and will be for a while.
    pub async fn is_whole(&self, repository: &ImageRepository, digest: Digest) -> Result<bool, StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| match verify_whole(backend, &repository, digest) {
            Ok(()) => Ok(true),
            Err(StoreError::Incomplete { .. } | StoreError::Corrupt { .. } | StoreError::Manifest { .. }) => {
                Ok(false)
            }
            Err(error) => Err(error),
        })
        .await
    }

    /// A manifest as it was put, if this repository links it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the bytes do not match the digest.
    pub async fn manifest(
        &self,
        repository: &ImageRepository,
        digest: Digest,
    ) -> Result<Option<Bytes>, StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| Ok(read(backend, &repository, digest)?.map(Bytes::from))).await
    }

    /// Whether a manifest is there, and this repository links it.
    pub async fn has_manifest(
        &self,
        repository: &ImageRepository,
        digest: Digest,
    ) -> Result<bool, StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| has(backend, &repository, digest)).await
    }

    /// The manifest that a tag names, if it is there and its repository links it.
    pub async fn tagged_manifest(&self, name: &ImageName) -> Result<Option<Digest>, StoreError> {
        let name = name.clone();
        self.blocking(move |backend| {
            let Some(digest) = tagged(backend, &name)? else { return Ok(None) };
            Ok(has(backend, &name.repository, digest)?.then_some(digest))
        })
        .await
    }

    /// The digests of all manifests that this repository links, sorted.
    pub async fn revisions(&self, repository: &ImageRepository) -> Result<Vec<Digest>, StoreError> {
        let links = layout::revision_links(&layout::tree(&repository.to_string()));
        self.blocking(move |backend| {
            let names = backend.list(&links)?;
            Ok(names.iter().filter_map(|hex| Digest::from_hex(hex).ok()).collect())
        })
        .await
    }
}

fn has(backend: &Backend, repository: &ImageRepository, digest: Digest) -> Result<bool, StoreError> {
    let linked = backend.size(&layout::revision_link(repository, digest))?.is_some();
    Ok(linked && backend.size(&layout::blob(digest))?.is_some())
}

fn read(
    backend: &Backend,
    repository: &ImageRepository,
    digest: Digest,
) -> Result<Option<Vec<u8>>, StoreError> {
    if backend.size(&layout::revision_link(repository, digest))?.is_none() {
        return Ok(None);
    }
    match backend.read(&layout::blob(digest))? {
        Some(bytes) if Digest::of(&bytes) != digest => Err(StoreError::Corrupt { digest }),
        found => Ok(found),
    }
}

/// Refuses a manifest unless it and everything that it names can be read through the repository,
/// with the sizes that it states. Nothing of it is removed as garbage for a whole grace from now on.
pub(super) fn verify_whole(
    backend: &Backend,
    repository: &ImageRepository,
    digest: Digest,
) -> Result<(), StoreError> {
    let incomplete = |what| StoreError::Incomplete { manifest: digest, what };
    condemned::spare(backend, [digest])?;
    let bytes = read(backend, repository, digest)?
        .ok_or_else(|| incomplete(format!("the manifest itself, in {repository},")))?;
    let invalid = |reason: String| StoreError::Manifest { digest, reason };
    let manifest: ImageManifest =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let named = |descriptor: &Descriptor| {
        descriptor.digest().to_string().parse::<Digest>().map_err(|error| invalid(error.to_string()))
    };
    let parts = || std::iter::once(manifest.config()).chain(manifest.layers());
    condemned::spare(backend, parts().map(named).collect::<Result<Vec<_>, _>>()?)?;
    for descriptor in parts() {
        let blob = named(descriptor)?;
        if backend.size(&layout::blob(blob))? != Some(descriptor.size()) {
            return Err(incomplete(format!("{blob} with {} bytes", descriptor.size())));
        }
        if backend.size(&layout::layer_link(repository, blob))?.is_none() {
            return Err(incomplete(format!("the link of {blob} in {repository}")));
        }
    }
    Ok(())
}
