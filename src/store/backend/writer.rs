//! A blob on its way into the store: digested in passing, invisible until it is whole.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek as _, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempPath;
use tokio_util::sync::CancellationToken;

use super::super::condemned;
use super::super::digest::{Digest, Digesting};
use super::super::error::StoreError;
use super::super::layout;
use super::batch::{Batch, sync_file, written_in_place};
use super::directory::{Directory, Temporary};
use super::dispatch::{Backend, of_store};
use super::objects::Objects;
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
    backend: Arc<Backend>,
    file: Digesting<BufWriter<File>>,
    path: Written,
}

/// Where a blob is until it is whole.
enum Written {
    /// Beside its place.
    Temporary(TempPath),
    /// In a file without a name, in this directory of the machine's own.
    Spooled(PathBuf),
}

impl BlobWriter {
    pub(in crate::store) fn new(backend: Arc<Backend>) -> Result<Self, StoreError> {
        let (file, path) = match &*backend {
            Backend::Directory(directory) => {
                let Temporary { file, path } = directory.temporary()?;
                (file, Written::Temporary(path))
            }
            Backend::Objects(objects) => {
                let spool = objects.spool();
                let file = tempfile::tempfile_in(spool).map_err(|error| StoreError::spool(spool, error))?;
                (file, Written::Spooled(spool.to_owned()))
            }
        };
        Ok(Self { backend, file: Digesting::new(BufWriter::with_capacity(BUFFER, file)), path })
    }

    /// Makes the blob durable and visible under its digest, which is answered with its length in
    /// bytes. It takes the place of one that the store has already: where that one is whole, the two are
    /// the same, and where the disk has damaged it, this mends it.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let root = self.backend.root();
        self.commit_while(&|| Ok(())).map_err(|error| match error.downcast::<StoreError>() {
            Ok(error) => error,
            Err(error) => StoreError::io("write", &root, error),
        })
    }

    /// The same. `goes_on` is asked now and then where that takes long, and an error that it answers ends it; all others
    /// are around a [`StoreError`].
    pub fn commit_while(self, goes_on: &dyn Fn() -> io::Result<()>) -> io::Result<(Digest, u64)> {
        let (digest, length, file) = self.file.finish();
        let failed = |error| of_store(self.path.failed(error));
        let mut file = file.into_inner().map_err(|error| failed(error.into_parts().0))?;
        match &*self.backend {
            Backend::Directory(directory) => {
                if let Written::Temporary(path) = self.path {
                    place(directory, &self.backend, Temporary { file, path }, digest).map_err(of_store)?;
                }
            }
            Backend::Objects(objects) => {
                file.rewind().map_err(failed)?;
                let mut source = Spooled { file, path: &self.path };
                let upload = objects.upload(&layout::blob(digest), &mut source, length, goes_on)?;
                condemned::spare(&self.backend, [digest]).map_err(of_store)?;
                upload.complete().map_err(of_store)?;
            }
        }
        Ok((digest, length))
    }
}

/// What was spooled; where it cannot be read again, that is the store's fault.
struct Spooled<'a> {
    file: File,
    path: &'a Written,
}

impl Read for Spooled<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.read(into).map_err(|error| of_store(self.path.failed(error)))
    }
}

impl Written {
    fn failed(&self, error: io::Error) -> StoreError {
        match self {
            Self::Temporary(path) => StoreError::io("write", path, error),
            Self::Spooled(spool) => StoreError::spool(spool, error),
        }
    }
}

/// Makes a blob of what is left of `source`, if it has the digest `expected`; answers which it has. The bytes do not come
/// through this process, and are shared with the source where the file system can do that (copy_file_range(2)); what
/// is compared is the copy. `pulse` beats meanwhile.
pub(in crate::store) fn take(
    backend: &Backend,
    source: &File,
    expected: Digest,
    pulse: &Pulse,
    cancel: &CancellationToken,
) -> io::Result<Digest> {
    let goes_on = || match cancel.is_cancelled() {
        true => Err(io::Error::new(io::ErrorKind::Interrupted, "cancelled")),
        false => {
            pulse.beat();
            Ok(())
        }
    };
    let directory = match backend {
        Backend::Directory(directory) => directory,
        Backend::Objects(objects) => return send(backend, objects, source, expected, &goes_on),
    };
    let mut file = directory.temporary().map_err(of_store)?;
    let failed = |error| of_store(StoreError::io("write", &file.path, error));
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
        place(directory, backend, file, digest).map_err(of_store)?;
    }
    Ok(digest)
}

/// The same into an object store: what is sent is compared, and becomes visible after that.
fn send(
    backend: &Backend,
    objects: &Objects,
    mut source: &File,
    expected: Digest,
    goes_on: &dyn Fn() -> io::Result<()>,
) -> io::Result<Digest> {
    let length = source.metadata()?.len().saturating_sub(source.stream_position()?);
    let mut source = Digesting::new(source);
    let upload = objects.upload(&layout::blob(expected), &mut source, length, goes_on)?;
    let (digest, _, _) = source.finish();
    if digest == expected {
        condemned::spare(backend, [digest]).map_err(of_store)?;
        upload.complete().map_err(of_store)?;
    }
    Ok(digest)
}

/// Makes a written file durable and visible as the blob `digest`.
fn place(
    directory: &Directory,
    backend: &Backend,
    file: Temporary,
    digest: Digest,
) -> Result<(), StoreError> {
    let key = layout::blob(digest);
    sync_file(&file)?;
    condemned::spare(backend, [digest])?;
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

impl BlobWriter {
    fn failed(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), self.path.failed(error))
    }
}
