//! Blobs: layers and configurations, only through a repository that links them.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, header};

use super::content;
use super::error::RegistryError;
use super::identity::Identity;
use super::range::{Asked, asked};
use super::router::Registry;
use super::scope::Scope;
use crate::serving::FileSender;
use crate::store::digest::Digest;
use crate::store::{BlobSource, StoredObject};

/// How long a client that is sent to the object store may take until it asks there.
const REDIRECTED: Duration = Duration::from_secs(300);

/// GET and HEAD `/v2/<name>/blobs/<digest>` (OCI distribution specification 1.1, end-2), with one
/// range where asked for; several ranges are answered with the whole.
pub(super) async fn blob(
    State(registry): State<Registry>,
    sender: Option<Extension<FileSender>>,
    scope: Scope,
    method: Method,
    request: HeaderMap,
) -> Result<Response, RegistryError> {
    let digest: Digest = scope.target.parse().map_err(|_| RegistryError::DigestInvalid)?;
    let repository = scope.repository.ok_or(RegistryError::BlobUnknown)?;
    let blob = registry.store.blob(&repository, digest).await?.ok_or(RegistryError::BlobUnknown)?;
    let identity = Identity::of(digest);
    if let Some(short) = identity.precondition(&request)? {
        return Ok(short);
    }
    // A range is one of GET's alone (RFC 9110, 14.2).
    let asked = match method == Method::GET && identity.allows_range(&request) {
        true => asked(&request, blob.size),
        false => Asked::Whole,
    };
    let (status, range, of) = match asked {
        Asked::Whole => (StatusCode::OK, 0..blob.size, None),
        Asked::Part(range) => {
            let of = format!("bytes {}-{}/{}", range.start, range.end - 1, blob.size);
            (StatusCode::PARTIAL_CONTENT, range, Some(of))
        }
        Asked::Beyond => return Err(RegistryError::RangeInvalid { length: blob.size }),
    };
    let length = range.end - range.start;
    let body = match method {
        Method::HEAD => Body::empty(),
        _ if length == 0 => Body::empty(),
        _ => match blob.source {
            BlobSource::File(path) => content::of_file(path, range, sender.as_deref()).await?,
            BlobSource::Object(object) if registry.config.redirect => {
                return elsewhere(&identity, &object).await;
            }
            BlobSource::Object(object) => content::of_object(&object, range).await?,
        },
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let of = of.map(|of| [(header::CONTENT_RANGE, of)]);
    Ok((status, identity.headers(), headers, of, body).into_response())
}

/// Sends the client to the object store, with an address that is good for a while. It asks there for the range itself.
async fn elsewhere(identity: &Identity, object: &StoredObject) -> Result<Response, RegistryError> {
    let address = object.signed_url(REDIRECTED).await?;
    let headers = [
        (header::LOCATION, address.to_string()),
        // It ends, and whoever has it can read the blob.
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
    ];
    Ok((StatusCode::TEMPORARY_REDIRECT, identity.headers(), headers).into_response())
}
