//! The build context: a tar stream to upload to an engine, and afterwards the reason for its end; or its files, one
//! by one.

use std::future::Future;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Poll, ready};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::archive;
use super::config::SourceConfig;
use super::error::SourceError;
use super::files::{ContextFiles, Large, Recipe};
use super::libgit2;
use super::tree::Plan;
use super::walk::too_many_files;

/// The size of the stream's pieces, in bytes, and how many may wait for the engine: 1 MiB in all.
const PIECE: usize = 64 << 10;
const WAITING: usize = 16;

/// A build context that is ready to be sent.
pub struct Context {
    /// The Dockerfile, relative to the context.
    pub dockerfile: String,
    /// What stands in the Dockerfile.
    pub text: Vec<u8>,
    pub(super) plan: Plan,
    pub(super) recipe: Recipe,
}

/// The tar, in pieces. If the context cannot be made whole, the last item is an error; the stream
/// never ends as if it were whole. Dropping it ends the work.
pub struct ContextStream(mpsc::Receiver<io::Result<Bytes>>);

/// Why the stream ended: awaited, it gives the summary of a whole context or what stood in its way,
/// [`SourceError::Cancelled`] if the stream was dropped before its end.
pub struct ContextOutcome(oneshot::Receiver<Result<ContextSummary, SourceError>>);

/// What a context consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContextSummary {
    /// Files, folders and symbolic links.
    pub files: u64,
    /// The files' content, in bytes.
    pub bytes: u64,
}

impl ContextSummary {
    /// Counts one more file, folder or link.
    pub(super) fn count(&mut self, config: &SourceConfig) -> Result<(), SourceError> {
        self.files += 1;
        match self.files > config.max_files {
            true => Err(too_many_files("the build context has too many files and folders", config.max_files)),
            false => Ok(()),
        }
    }

    /// Adds the content of a file.
    pub(super) fn add(&mut self, bytes: u64, config: &SourceConfig) -> Result<(), SourceError> {
        self.bytes += bytes;
        match self.bytes > config.max_context.0 {
            true => Err(SourceError::TooLarge {
                what: "the build context".to_owned(),
                limit: config.max_context,
                key: Some("max_context"),
                remedy: "; list in .dockerignore what the build does not need",
            }),
            false => Ok(()),
        }
    }
}

impl Context {
    /// All of it, as a tar.
    pub fn tar(self) -> (ContextStream, ContextOutcome) {
        let plan = self.plan;
        stream(move |out| archive::write(&plan, out))
    }

    /// File by file, of which the engine says which it uses, if it is so large; itself if not, or where a name is not
    /// UTF-8, which only a tar can carry.
    pub async fn files(self, from: Large) -> Result<Result<ContextFiles, Self>, SourceError> {
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        let work = move || match ContextFiles::can_carry(&self.plan, from, &stop)? {
            true => Ok(Ok(ContextFiles::new(self.recipe))),
            false => Ok(Err(self)),
        };
        libgit2::blocking(work).await
    }
}

/// Runs `write` on a blocking thread, which waits whenever the stream's reader is slower.
fn stream(
    write: impl FnOnce(&mut dyn Write) -> Result<ContextSummary, SourceError> + Send + 'static,
) -> (ContextStream, ContextOutcome) {
    let (pieces, stream) = mpsc::channel(WAITING);
    let (done, outcome) = oneshot::channel();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _span = span.entered();
        let mut out = Pieces { pieces, piece: BytesMut::new(), finished: false };
        let result = write(&mut out).and_then(|summary| match out.finish() {
            Ok(()) => Ok(summary),
            Err(_) => Err(SourceError::Cancelled),
        });
        // Nobody may care for the outcome.
        let _ = done.send(result);
    });
    (ContextStream(stream), ContextOutcome(outcome))
}

impl Stream for ContextStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

impl Future for ContextOutcome {
    type Output = Result<ContextSummary, SourceError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        // Without a sender the writer has panicked or the runtime is shutting down.
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or(Err(SourceError::Cancelled)))
    }
}

/// The writing end of a [`ContextStream`].
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: BytesMut,
    finished: bool,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = self.piece.split().freeze();
        self.pieces.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.send()?;
        self.finished = true;
        Ok(())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pieces.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if !self.finished {
            // Also when the writer has panicked: an engine must not take half a context for a whole one.
            let _ = self.pieces.blocking_send(Err(io::Error::other("the build context is not whole")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn gives_the_bytes_and_the_outcome() {
        let content: Vec<u8> = (0..3 * PIECE + 17).map(|n| n as u8).collect();
        let sent = content.clone();
        let context = stream(move |out| {
            out.write_all(&sent).unwrap();
            Ok(ContextSummary { files: 1, bytes: 2 })
        });
        let (stream, outcome) = context;
        let pieces: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE));
        assert_eq!(pieces.concat(), content);
        assert_eq!(outcome.await, Ok(ContextSummary { files: 1, bytes: 2 }));
    }

    #[tokio::test]
    async fn never_ends_as_if_it_were_whole() {
        let failing = stream(|out| {
            out.write_all(b"x").unwrap();
            Err(SourceError::BadSubmodule { path: "lib".into(), reason: "x".into() })
        });
        let panicking = stream(|_| panic!("as the test wants it"));
        for (context, expected) in [
            (failing, SourceError::BadSubmodule { path: "lib".into(), reason: "x".into() }),
            (panicking, SourceError::Cancelled),
        ] {
            let (stream, outcome) = context;
            let items: Vec<_> = stream.collect().await;
            assert!(items.last().unwrap().is_err());
            assert_eq!(outcome.await, Err(expected));
        }
    }

    #[tokio::test]
    async fn a_dropped_stream_ends_the_work() {
        let context = stream(|out| {
            loop {
                out.write_all(&[0; PIECE]).map_err(|_| SourceError::Cancelled)?;
            }
        });
        let (mut stream, outcome) = context;
        stream.next().await.unwrap().unwrap();
        drop(stream);
        assert_eq!(outcome.await, Err(SourceError::Cancelled));
    }
}
