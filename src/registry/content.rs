//! The bytes of blobs, as bodies: from a file or an object, and logged where they end too early, which the client sees as a
//! cut alone.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_stream::try_stream;
use axum::body::Body;
use bytes::Bytes;
use futures::Stream;
use rustix::buffer::spare_capacity;
use tokio::fs::File;

use super::error::RegistryError;
use crate::serving::{FilePart, FileSender};
use crate::store::StoredObject;

/// Bytes read from the disk at once, by a blocking thread, where the kernel does not send the file by itself: each pull
/// by TLS holds as many, and the way to that thread costs as much as half of them do.
const CHUNK: usize = 256 * 1024;

/// A part of a file: sent by the kernel where the connection allows it.
pub(super) async fn of_file(
    path: PathBuf,
    range: Range<u64>,
    sender: Option<&FileSender>,
) -> Result<Body, RegistryError> {
    let file = File::open(&path).await.map_err(|error| unserved(&path, &error))?;
    let file = Arc::new(file.into_std().await);
    let length = range.end - range.start;
    if let Some(sender) = sender {
        return Ok(Body::new(sender.body(FilePart { file, path, offset: range.start, length })));
    }
    Ok(Body::from_stream(whole(Source::File(path), length, chunks(file, range))))
}

/// Reads into memory that goes out as it is. (A `tokio::fs::File` reads into memory of its own, and copies.)
fn chunks(file: Arc<std::fs::File>, range: Range<u64>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut at = range.start;
        while at < range.end {
            let most = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            let file = file.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = Vec::with_capacity(most);
                rustix::io::pread(&*file, spare_capacity(&mut bytes), at)?;
                bytes.truncate(most);
                io::Result::Ok(Bytes::from(bytes))
            });
            let bytes = read.await.map_err(io::Error::other)??;
            if bytes.is_empty() {
                break;
            }
            at += bytes.len() as u64;
            yield bytes;
        }
    }
}

/// A part of an object.
pub(super) async fn of_object(object: &StoredObject, range: Range<u64>) -> Result<Body, RegistryError> {
    let length = range.end - range.start;
    let content = object.read(range).await?.ok_or(RegistryError::BlobUnknown)?;
    Ok(Body::from_stream(whole(Source::Object(object.place().to_owned()), length, content)))
}

/// What a body is read from.
enum Source {
    File(PathBuf),
    Object(PathBuf),
}

impl Source {
    fn short(&self) -> &'static str {
        match self {
            Self::File(_) => "the file is shorter than it was",
            Self::Object(_) => "the object is shorter than it was",
        }
    }

    /// A file in the words of those that the kernel sends.
    fn say(&self, sent: u64, length: u64, error: &io::Error) {
        match self {
            Self::File(path) => tracing::error!(
                path = %path.display(), sent, length, %error,
                "cannot read a file that is being sent; the client is cut off"
            ),
            Self::Object(place) => tracing::error!(
                object = %place.display(), sent, length, %error,
                "cannot read an object that is being sent; the client is cut off; see whether the object store answers, \
                 and whether the object is whole (buildgrid store scrub)"
            ),
        }
    }
}

/// Says where the content ends before all of it is sent. Nothing is said of a client that goes away: then nobody reads on.
fn whole<S: Stream<Item = io::Result<Bytes>> + Send>(
    source: Source,
    length: u64,
    content: S,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    try_stream! {
        let mut sent = 0;
        for await chunk in content {
            let chunk = chunk.inspect_err(|error| source.say(sent, length, error))?;
            sent += chunk.len() as u64;
            yield chunk;
        }
        if sent < length {
            let short = io::Error::new(io::ErrorKind::UnexpectedEof, source.short());
            source.say(sent, length, &short);
            Err(short)?;
        }
    }
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
