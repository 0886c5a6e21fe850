//! Manifests by tag and by digest, byte for byte as they were published.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use moka::sync::Cache;
use oci_spec::image::MediaType;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::RegistryError;
use super::identity::Identity;
use super::router::Registry;
use super::scope::Scope;
use crate::publish::name::{ImageName, ImageRepository};
use crate::store::digest::Digest;

/// GET and HEAD `/v2/<name>/manifests/<reference>` (OCI distribution specification 1.1, end-3).
///
/// `Accept` is not looked at. A manifest exists in one form only; the specification asks for 200 when
/// it exists, and a client that cannot read it sees so by its media type. (CNCF Distribution answers
/// 404 to a client that does not list the type, which its users take for a missing image.)
pub(super) async fn manifest(
    State(registry): State<Registry>,
    scope: Scope,
    request: HeaderMap,
) -> Result<Response, RegistryError> {
    let reference = Reference::parse(&scope.target)?;
    let repository = scope.repository.ok_or(RegistryError::ManifestUnknown)?;
    let digest = find(&registry, &repository, reference).await?.ok_or(RegistryError::ManifestUnknown)?;
    let identity = Identity::of(digest);
    if let Some(short) = identity.precondition(&request)? {
        return Ok(short);
    }
    let manifest = registry.manifests.read(&registry, &repository, digest).await?;
    let kind = [(header::CONTENT_TYPE, manifest.media_type)];
    Ok((identity.headers(), kind, Body::from(manifest.bytes)).into_response())
}

/// Bytes of memory for manifests that were served: some 10,000 of usual ones.
const MEMORY: u64 = 32 << 20;

/// Manifests that were served, each compared with its digest when it was read: no other bytes can ever have it. Whether
/// a repository links one, and it is in the store, is looked at each time.
#[derive(Debug, Clone)]
pub(super) struct Manifests(Cache<Digest, Manifest>);

#[derive(Debug, Clone)]
struct Manifest {
    bytes: Bytes,
    media_type: HeaderValue,
}

impl Default for Manifests {
    fn default() -> Self {
        let weigh =
            |_: &Digest, manifest: &Manifest| u32::try_from(manifest.bytes.len() + 256).unwrap_or(u32::MAX);
        Self(Cache::builder().weigher(weigh).max_capacity(MEMORY).build())
    }
}

impl Manifests {
    /// One that was found to be there, and readable through this repository.
    async fn read(
        &self,
        registry: &Registry,
        repository: &ImageRepository,
        digest: Digest,
    ) -> Result<Manifest, RegistryError> {
        if let Some(manifest) = self.0.get(&digest) {
            return Ok(manifest);
        }
        let bytes = registry.store.manifest(repository, digest).await?;
        // Collected since it was found.
        let bytes = bytes.ok_or(RegistryError::ManifestUnknown)?;
        let manifest = Manifest { media_type: media_type(&bytes), bytes };
        self.0.insert(digest, manifest.clone());
        Ok(manifest)
    }
}

/// What stands behind `/manifests/`.
enum Reference {
    Digest(Digest),
    Tag(String),
}

impl Reference {
    fn parse(text: &str) -> Result<Self, RegistryError> {
        match text.contains(':') {
            true => text.parse().map(Self::Digest).map_err(|_| RegistryError::DigestInvalid),
            false => Ok(Self::Tag(text.to_owned())),
        }
    }
}

/// The manifest that a reference names in this repository.
async fn find(
    registry: &Registry,
    repository: &ImageRepository,
    reference: Reference,
) -> Result<Option<Digest>, RegistryError> {
    match reference {
        Reference::Digest(digest) => {
            Ok(registry.store.has_manifest(repository, digest).await?.then_some(digest))
        }
        Reference::Tag(tag) => {
            // What is no tag by the grammar names nothing.
            let Ok(tag) = tag.parse() else { return Ok(None) };
            let name = ImageName { repository: repository.clone(), tag };
            Ok(registry.store.tagged_manifest(&name).await?)
        }
    }
}

/// The media type that the manifest gives itself; the specification lets it be left out. Of what is no JSON object, or
/// names a type that no header can have, that of any bytes: it is what its digest says, and nothing more is known.
pub(super) fn media_type(bytes: &[u8]) -> HeaderValue {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
    }
    let of = |kind: Kind| {
        let media_type = kind.media_type.unwrap_or_else(|| match kind.manifests {
            Some(_) => MediaType::ImageIndex.to_string(),
            None => MediaType::ImageManifest.to_string(),
        });
        HeaderValue::try_from(media_type).ok()
    };
    let kind = serde_json::from_slice(bytes).ok().and_then(of);
    kind.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}
