//! The image's way off the engine: `docker save` into a file of the spool directory.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use bollard::Docker;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

use super::archive::{self, Index};
use super::built;
use super::engine::DockerEngine;
use super::failure;
use super::watch::{Pulse, Silent};
use crate::build::engine::{BuildError, BuiltImage};
use crate::telemetry::pulse as telemetry;
use crate::timeline::sink::LogSink;

/// Bytes gathered before they are written to the spool file.
const WRITE_BUFFER: usize = 256 * 1024;

/// Exports the image `tag` to `spool`, from where the answer's layers are read. `pulse` beats meanwhile.
pub(super) async fn export(
    engine: &DockerEngine,
    tag: &str,
    spool: &Path,
    log: &LogSink,
    cancel: &CancellationToken,
    pulse: &telemetry::Pulse,
) -> Result<BuiltImage, BuildError> {
    let begun = Instant::now();
    let transport = engine.transport();
    // Severed at the end of this function, also when its future is dropped.
    let _sever = transport.severed.clone().drop_guard();
    let docker = engine.docker(transport, engine.longest_build());
    // The engine writes all of it to a file of its own first, in silence.
    let alive = Pulse { of_run: pulse.clone(), ..engine.pulse() };
    let archive = pieces(docker, tag.to_owned(), alive).take_until(cancel.clone().cancelled_owned());
    let path = spool.join("export.tar");
    let pulse = pulse.clone();
    let spooled = tokio::task::spawn_blocking(move || {
        let source = pulse.reading(SyncIoBridge::new(StreamReader::new(Box::pin(archive))));
        let (file, index) = spool_to(source, &path)?;
        let size = file.metadata()?.len();
        Ok::<_, io::Error>((archive::image(file, &index)?, size))
    });
    let spooled = spooled.await.map_err(|error| failed(tag, &error))?;
    if cancel.is_cancelled() {
        return Err(BuildError::Cancelled);
    }
    let (image, size) = spooled.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => BuildError::Infrastructure(format!(
            "no space is left for the image on the worker; free space there (worker.data_dir): {error}"
        )),
        _ => failed(tag, &error),
    })?;
    let size = bytesize::ByteSize::b(size);
    log.status(format!("image of {size} taken from the engine in {:.1} s", begun.elapsed().as_secs_f64()))
        .await;
    Ok(image)
}

fn failed(tag: &str, error: &dyn std::fmt::Display) -> BuildError {
    // Of an image without layers (moby, image/tarexport/save.go).
    if error.to_string().contains("empty export - not implemented") {
        return built::without_layers();
    }
    failure::said(format!("export {tag} from the docker engine: {error}"))
}

fn pieces(docker: Docker, tag: String, pulse: Pulse) -> impl Stream<Item = io::Result<Bytes>> + Send {
    async_stream::stream! {
        let mut archive = Box::pin(docker.export_image(&tag));
        loop {
            match pulse.next(&mut archive).await {
                Ok(Some(Ok(piece))) => yield Ok(piece),
                Ok(Some(Err(error))) => yield Err(io::Error::other(error)),
                Ok(None) => break,
                Err(Silent) => {
                    yield Err(io::Error::new(io::ErrorKind::TimedOut, "the engine has stopped answering"));
                    break;
                }
            }
        }
    }
}

/// Writes `source` to a new file at `path` while finding out what is where in it. The file has no
/// name any more when this returns: it vanishes with its handle, also in a crash.
fn spool_to(source: impl Read, path: &Path) -> io::Result<(File, Index)> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::options().read(true).write(true).create_new(true).open(path).map_err(named)?;
    std::fs::remove_file(path).map_err(named)?;
    let file = BufWriter::with_capacity(WRITE_BUFFER, file);
    let mut spooling = Spooling { source, file, path: path.to_owned() };
    let index = Index::read(&mut spooling)?;
    // What follows the archive's end mark is padding; read, so that the engine can finish.
    io::copy(&mut spooling, &mut io::sink())?;
    let file = spooling.file.into_inner().map_err(|error| named(error.into_error()))?;
    Ok((file, index))
}

/// Keeps a copy of what is read.
struct Spooling<R> {
    source: R,
    file: BufWriter<File>,
    path: PathBuf,
}

impl<R: Read> Read for Spooling<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.file
            .write_all(&buffer[..count])
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_no_name_behind() {
        let spool = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        archive.append_data(&mut header, "file", &b"{}"[..]).unwrap();
        let archive = [archive.into_inner().unwrap(), vec![0; 9000]].concat();
        let (file, _) = spool_to(&archive[..], &spool.path().join("export.tar")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), archive.len() as u64);
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_the_file_that_cannot_be_written() {
        let error = spool_to(&b""[..], Path::new("/nonexistent/export.tar")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/export.tar: "), "{error}");
    }
}
