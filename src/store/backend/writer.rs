//! A blob on its way into the store: digested in passing, invisible until it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};
use std::sync::Arc;

use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use super::super::condemned;
use super::super::digest::{Digest, Digesting};
use super::super::error::StoreError;
use super::super::layout;
use super::batch::{Batch, sync_file, written_in_place};
use super::directory::{Directory, Temporary};
use crate::telemetry::pulse::Pulse;

/// Bytes collected for one write to the file.
const BUFFER: usize = 128 * 1024;
/// Bytes copied at a time by the system.
const PIECE: u64 = 32 << 20;

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
        place(&self.directory, Temporary { file, path: self.path }, digest)?;
        Ok((digest, length))
    }

    fn failed(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), StoreError::io("write", &self.path, error))
    }
}

/// Makes a blob of what is left of `source`, if it has the digest `expected`; answers which it has. The bytes do not come
/// through this process, and are shared with the source where the file system can do that (copy_file_range(2)); what
/// is compared is the copy. `pulse` beats meanwhile.
pub(in crate::store) fn take(
    directory: &Directory,
    source: &File,
    expected: Digest,
    pulse: &Pulse,
    cancel: &CancellationToken,
) -> io::Result<Digest> {
    let mut file = directory.temporary().map_err(of_store)?;
    let failed = |error| of_store(StoreError::io("write", &file.path, error));
    let goes_on = || match cancel.is_cancelled() {
        true => Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled")),
        false => {
            pulse.beat();
            Ok(())
        }
    };
    // The system does not say at which end it failed. A disk without space is ours for sure; where another fault of ours
    // is taken for the source's, it is met again on the next way.
    let either = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem => {
            failed(error)
        }
        _ => error,
    };
    while io::copy(&mut source.take(PIECE), &mut file.file).map_err(either)? > 0 {
        goes_on()?;
    }
    let mut copy = Digesting::new(File::open(&file.path).map_err(failed)?);
    while io::copy(&mut (&mut copy).take(PIECE), &mut io::sink()).map_err(failed)? > 0 {
        goes_on()?;
    }
    let (digest, _, _) = copy.finish();
    if digest == expected {
        place(directory, file, digest).map_err(of_store)?;
    }
    Ok(digest)
}

fn of_store(error: StoreError) -> io::Error {
    io::Error::other(error)
}

/// Makes a written file durable and visible as the blob `digest`.
fn place(directory: &Directory, file: Temporary, digest: Digest) -> Result<(), StoreError> {
    let key = layout::blob(digest);
    sync_file(&file)?;
    condemned::spare(directory, [digest])?;
    directory.with_known_directories(|| {
        let mut batch = Batch::new(directory);
        let path = batch.make_parent(&key)?;
        batch.place(&file, &path)?;
        batch.sync()
    })?;
    written_in_place(file);
    Ok(())
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer).map_err(|error| self.failed(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.failed(error))
    }
}
