//! Blobs: layers and configurations, only through a repository that links them.

use std::io;
use std::path::Path;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use tower_http::services::ServeFile;

use super::error::RegistryError;
use super::identity::Identity;
use super::router::Registry;
use super::scope::Scope;
use crate::store::digest::Digest;

/// Bytes read from the disk at once, by a blocking thread.
const CHUNK: usize = 256 * 1024;

/// GET and HEAD `/v2/<name>/blobs/<digest>` (OCI distribution specification 1.1, end-2), with one
/// range where asked for; several ranges are answered with the whole.
pub(super) async fn blob(
    State(registry): State<Registry>,
    scope: Scope,
    mut request: Request,
) -> Result<Response, RegistryError> {
    let digest: Digest = scope.target.parse().map_err(|_| RegistryError::DigestInvalid)?;
    let repository = scope.repository.ok_or(RegistryError::BlobUnknown)?;
    let blob = registry.store.blob(&repository, digest).await?.ok_or(RegistryError::BlobUnknown)?;
    let identity = Identity::of(digest);
    if let Some(short) = identity.precondition(request.headers())? {
        return Ok(short);
    }
    let in_range = identity.allows_range(request.headers());
    let headers = request.headers_mut();
    if !in_range {
        headers.remove(header::RANGE);
    }
    // Judged above by the digest; the file service would judge by the file's times.
    for judged in
        [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE]
    {
        headers.remove(judged);
    }
    let served = ServeFile::new(&blob.path)
        .with_buf_chunk_size(CHUNK)
        .ignore_multi_range_requests(true)
        .try_call(request)
        .await
        .map_err(|error| {
            tracing::error!(path = %blob.path.display(), %error, "cannot read a blob");
            RegistryError::Internal
        })?;
    if served.status() == StatusCode::NOT_FOUND {
        return Err(unserved(&blob.path, tokio::fs::File::open(&blob.path).await.err()));
    }
    let mut response = served.map(Body::new);
    let headers = response.headers_mut();
    for (name, value) in identity.headers() {
        headers.insert(name, value);
    }
    headers.remove(header::LAST_MODIFIED);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

/// What it means that the file service does not find a blob, where opening it gives `error`: of one
/// that it may not read it says the same.
fn unserved(path: &Path, error: Option<io::Error>) -> RegistryError {
    match error {
        // Collected as garbage since it was looked up, or put back just now.
        None => RegistryError::BlobUnknown,
        Some(error) if error.kind() == io::ErrorKind::NotFound => RegistryError::BlobUnknown,
        Some(error) => {
            tracing::error!(path = %path.display(), %error, "cannot read a blob");
            RegistryError::Internal
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_unknown() {
        let of = |kind: Option<io::ErrorKind>| unserved(Path::new("data"), kind.map(io::Error::from));
        assert_eq!(of(None), RegistryError::BlobUnknown);
        assert_eq!(of(Some(io::ErrorKind::NotFound)), RegistryError::BlobUnknown);
        assert_eq!(of(Some(io::ErrorKind::PermissionDenied)), RegistryError::Internal);
    }
}
