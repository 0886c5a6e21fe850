//! Manifests by tag and by digest, byte for byte as they were published.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
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
    let (digest, bytes) =
        find(&registry, repository, reference).await?.ok_or(RegistryError::ManifestUnknown)?;
    let identity = Identity::of(digest);
    if let Some(short) = identity.precondition(&request)? {
        return Ok(short);
    }
    let media_type = media_type(&bytes).ok_or_else(|| {
        tracing::error!(%digest, "a manifest in the store gives no media type that can be served");
        RegistryError::Internal
    })?;
    Ok((identity.headers(), [(header::CONTENT_TYPE, media_type)], Body::from(bytes)).into_response())
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

async fn find(
    registry: &Registry,
    repository: ImageRepository,
    reference: Reference,
) -> Result<Option<(Digest, Bytes)>, RegistryError> {
    let (repository, digest) = match reference {
        Reference::Digest(digest) => (repository, digest),
        Reference::Tag(tag) => {
            // What is no tag by the grammar names nothing.
            let Ok(tag) = tag.parse() else { return Ok(None) };
            let name = ImageName { repository, tag };
            match registry.store.tag(&name).await? {
                Some(digest) => (name.repository, digest),
                None => return Ok(None),
            }
        }
    };
    let bytes = registry.store.manifest(&repository, digest).await?;
    Ok(bytes.map(|bytes| (digest, bytes)))
}

/// The media type that the manifest gives itself; the specification lets it be left out. `None` of what is no JSON
/// object, or names a type that no header can have.
pub(super) fn media_type(bytes: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
        manifests: Option<IgnoredAny>,
    }
    let kind: Kind = serde_json::from_slice(bytes).ok()?;
    let media_type = kind.media_type.unwrap_or_else(|| match kind.manifests {
        Some(_) => MediaType::ImageIndex.to_string(),
        None => MediaType::ImageManifest.to_string(),
    });
    HeaderValue::try_from(media_type).ok()
}
