//! Blobs: layers and configurations, only through a repository that links them.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::error::RegistryError;
use super::identity::Identity;
use super::range::{Asked, asked};
use super::router::Registry;
use super::scope::Scope;
use crate::serving::{FilePart, FileSender};
use crate::store::digest::Digest;
use crate::store::{BlobSource, StoredObject};

/// Bytes read from the disk at once, by a blocking thread, where the kernel does not send the file by itself.
const CHUNK: usize = 128 * 1024;

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
        Asked::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, 0..0, Some(format!("bytes */{}", blob.size))),
    };
    let length = range.end - range.start;
    let body = match method {
        Method::HEAD => Body::empty(),
        _ if length == 0 => Body::empty(),
        _ => match blob.source {
            BlobSource::File(path) => content(path, range, sender.as_deref()).await?,
            BlobSource::Object(object) if registry.config.redirect => {
                return elsewhere(&identity, &object).await;
            }
            BlobSource::Object(object) => {
                let content = object.read(range).await?.ok_or(RegistryError::BlobUnknown)?;
                Body::from_stream(content)
            }
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

/// A part of a file: sent by the kernel where the connection allows it.
async fn content(
    path: PathBuf,
    range: Range<u64>,
    sender: Option<&FileSender>,
) -> Result<Body, RegistryError> {
    let mut file = File::open(&path).await.map_err(|error| unserved(&path, &error))?;
    let length = range.end - range.start;
    if let Some(sender) = sender {
        let file = Arc::new(file.into_std().await);
        return Ok(Body::new(sender.body(FilePart { file, path, offset: range.start, length })));
    }
    file.seek(io::SeekFrom::Start(range.start)).await.map_err(|error| unserved(&path, &error))?;
    Ok(Body::from_stream(whole(path, length, ReaderStream::with_capacity(file.take(length), CHUNK))))
}

/// Logs where a file ends before all of it is sent, or cannot be read on, which the client sees as a cut alone.
fn whole<S: Stream<Item = io::Result<Bytes>> + Send>(
    path: PathBuf,
    length: u64,
    content: S,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut left = length;
        for await chunk in content {
            let chunk = chunk.inspect_err(|error| unfinished(&path, error))?;
            left = left.saturating_sub(chunk.len() as u64);
            yield chunk;
        }
        if left > 0 {
            let short = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was");
            unfinished(&path, &short);
            Err(short)?;
        }
    }
}

/// As where the kernel sends the file.
fn unfinished(path: &Path, error: &io::Error) {
    tracing::error!(path = %path.display(), %error, "cannot read a file that is being sent; the client is cut off");
}

/// What it means that a blob which was there cannot be read.
fn unserved(path: &Path, error: &io::Error) -> RegistryError {
    // Collected as garbage since it was looked up.
    if error.kind() == io::ErrorKind::NotFound {
        return RegistryError::BlobUnknown;
    }
    tracing::error!(path = %path.display(), %error, "cannot read a blob");
    RegistryError::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_there_is_unknown() {
        let of = |kind: io::ErrorKind| unserved(Path::new("data"), &kind.into());
        assert_eq!(of(io::ErrorKind::NotFound), RegistryError::BlobUnknown);
        assert_eq!(of(io::ErrorKind::PermissionDenied), RegistryError::Internal);
    }
}
