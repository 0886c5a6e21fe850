//! A blob on its way into the store: digested in passing, invisible until it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use tempfile::TempPath;

use super::super::digest::{Digest, Digesting};
use super::super::error::StoreError;
use super::super::layout;
use super::batch::{Batch, sync_file, written_in_place};
use super::directory::{Directory, Temporary};

/// Bytes collected for one write to the file.
const BUFFER: usize = 128 * 1024;

/// Takes the bytes of a blob whose digest is known only at its end. It blocks: use it on a blocking
/// thread. Dropped without [`commit`](Self::commit), it leaves nothing behind.
///
/// A write that fails answers an `io::Error` around a [`StoreError`], with path and remedy.
pub struct BlobWriter {
    directory: Arc<Directory>,
    file: Digesting<BufWriter<File>>,
    path: TempPath,
}

impl BlobWriter {
    pub(in crate::store) fn new(directory: Arc<Directory>) -> Result<Self, StoreError> {
        let Temporary { file, path } = directory.temporary()?;
        Ok(Self { directory, file: Digesting::new(BufWriter::with_capacity(BUFFER, file)), path })
    }

    /// Makes the blob durable and visible under its digest, which is answered with its length in
    /// bytes. It takes the place of one that the store has already: where that one is whole, the two are
    /// the same, and where the disk has damaged it, this mends it.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let (digest, length, file) = self.file.finish();
        let file =
            file.into_inner().map_err(|error| StoreError::io("write", &self.path, error.into_parts().0))?;
        let file = Temporary { file, path: self.path };
        let key = layout::blob(digest);
        sync_file(&file)?;
        self.directory.with_known_directories(|| {
            let mut batch = Batch::new(&self.directory);
            let path = batch.make_parent(&key)?;
            batch.place(&file, &path)?;
            batch.sync()
        })?;
        written_in_place(file);
        Ok((digest, length))
    }

    fn failed(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), StoreError::io("write", &self.path, error))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer).map_err(|error| self.failed(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.failed(error))
    }
}
