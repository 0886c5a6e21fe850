//! The bytes of a blob, wherever it is.

use std::path::Path;

use buildgrid::store::{Blob, BlobSource};
use futures::TryStreamExt as _;

pub async fn bytes_of(blob: &Blob) -> Vec<u8> {
    match &blob.source {
        BlobSource::File(path) => std::fs::read(path).unwrap(),
        BlobSource::Object(object) => {
            let stream = object.read(0..blob.size).await.unwrap().expect("it is there");
            stream.try_collect::<Vec<_>>().await.unwrap().concat()
        }
    }
}

/// The file that it is.
pub fn file_of(blob: &Blob) -> &Path {
    match &blob.source {
        BlobSource::File(path) => path,
        BlobSource::Object(object) => panic!("{object:?} is no file"),
    }
}
