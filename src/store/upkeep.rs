//! What is done to a store beside its use: removing what crashes have left, and measuring it.

use std::fs;
use std::io;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::handle::Store;
use super::layout;

impl Store {
    /// Removes the temporary files that crashes have left, and none that is being written. Of each, `told`
    /// hears its length in bytes, or why it stays. Ends soon after `cancel` is cancelled. Needs no space. Blocking.
    pub fn sweep(
        &self,
        cancel: &CancellationToken,
        told: impl FnMut(&Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        self.directory().sweep(cancel, told)
    }

    /// The length of all blobs together, in bytes; `None` where `cancel` was cancelled before all were seen. Asks
    /// for the length of each: meant for once an hour. Blocking.
    pub fn blob_bytes(&self, cancel: &CancellationToken) -> Result<Option<u64>, StoreError> {
        let blobs = self.directory().path(&layout::blobs());
        let mut bytes = 0_u64;
        for folder in entries(&blobs)? {
            for blob in entries(&folder)? {
                if cancel.is_cancelled() {
                    return Ok(None);
                }
                // One that goes away meanwhile has no length.
                let length = fs::metadata(blob.join("data")).map_or(0, |file| file.len());
                bytes = bytes.saturating_add(length);
            }
        }
        Ok(Some(bytes))
    }
}

/// What lies in a folder; nothing if it is none.
fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>, StoreError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        found => found.map_err(|error| StoreError::io("read", folder, error)),
    }
}
