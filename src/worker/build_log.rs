//! The build's log on disk, `log.ndjson`: the truth about what a build wrote.
//!
//! One writer for each build takes the lines in the order in which they were written, numbers them,
//! appends them and shows them to whoever looks on. It runs on a blocking thread; lines wait for the
//! disk, never the other way round. A disk that is full, or a log that is too long, costs lines, which
//! `log_writer` counts, and never the build. Whoever sends the log to the timeline service reads the file, and
//! is told how long it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::log_writer::{Kept, LogLimits, LogWriter};
use crate::timeline::entry::LogEntry;
use crate::timeline::mask::Mask;
use crate::timeline::sink::{Line, LogSink};

/// Lines written with one call, at most. Each batch is visible to readers at once.
const BATCH: usize = 256;
/// The longest time for which a line is in the file, but not on disk for certain.
const SYNC: Duration = Duration::from_secs(1);

/// Shown every entry after it was appended; called on a blocking thread. Of one that could not be kept, too:
/// what the program's log has of it may be all that there is.
pub type Mirror = Arc<dyn Fn(&LogEntry) + Send + Sync>;

/// A log that is being written. It ends when every clone of its sink is dropped.
pub struct BuildLog {
    writer: JoinHandle<Kept>,
    length: watch::Receiver<u64>,
}

impl BuildLog {
    /// Starts a new log at `path`, which must not exist yet. Nothing that `mask` knows gets into it.
    pub fn start(
        path: &Path,
        server: &str,
        mirror: Mirror,
        mask: Mask,
        limits: LogLimits,
    ) -> io::Result<(Self, LogSink)> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        let sync = Syncing::new(path, file.try_clone()?);
        let writer = LogWriter::new(file, path.to_owned(), server, limits);
        let (sink, lines) = LogSink::channel(mask);
        let span = tracing::Span::current();
        let (written, length) = watch::channel(0);
        let writer = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            write(writer, sync, lines, &mirror, &written)
        });
        Ok((Self { writer, length }, sink))
    }

    /// How many bytes of the file can be read, as they become more.
    pub fn length(&self) -> watch::Receiver<u64> {
        self.length.clone()
    }

    /// Waits until every line that is kept is on disk, durably. All sinks must have been dropped.
    ///
    /// # Errors
    /// The writer has panicked.
    pub async fn finish(self) -> io::Result<Kept> {
        self.writer.await.map_err(io::Error::other)
    }
}

fn write(
    mut writer: LogWriter,
    mut sync: Syncing,
    mut lines: mpsc::Receiver<Line>,
    mirror: &Mirror,
    written: &watch::Sender<u64>,
) -> Kept {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let due = [sync.due(), writer.try_again()].into_iter().flatten().min();
        match next(&mut lines, &mut batch, due.map(|due| due.saturating_duration_since(Instant::now()))) {
            Some(0) => break,
            Some(_) => {
                let entries = writer.write(batch.drain(..));
                entries.iter().for_each(|entry| mirror(entry));
            }
            None => writer.catch_up(),
        }
        if written.send_if_modified(|length| std::mem::replace(length, writer.length()) != writer.length()) {
            sync.wrote();
        }
        if sync.due().is_some_and(|due| due <= Instant::now()) {
            sync.now();
        }
    }
    let kept = writer.finish();
    sync.now();
    // Last, since a reader may go on with it at once.
    written.send_replace(writer.length());
    kept
}

/// Brings a log to disk, in batches.
struct Syncing {
    file: File,
    /// The log's directory, until its name is on disk there.
    directory: Option<File>,
    since: Option<Instant>,
    has_failed: bool,
}

impl Syncing {
    fn new(path: &Path, file: File) -> Self {
        let directory = path.parent().and_then(|directory| File::open(directory).ok());
        Self { file, directory, since: None, has_failed: false }
    }

    fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + SYNC)
    }

    fn wrote(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// A failure is told once. It concerns a loss of power only: what is in the file can be read.
    fn now(&mut self) {
        self.since = None;
        let synced =
            self.file.sync_data().and_then(|()| self.directory.as_ref().map_or(Ok(()), File::sync_all));
        match synced {
            Ok(()) => self.directory = None,
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!(%error, "a build's log cannot be brought to disk; a loss of power would lose its end");
                }
            }
        }
    }
}

/// Takes the next lines: how many there are, 0 at the end, `None` when none came within `patience`.
fn next(
    lines: &mut mpsc::Receiver<Line>,
    batch: &mut Vec<Line>,
    patience: Option<Duration>,
) -> Option<usize> {
    match patience {
        None => Some(lines.blocking_recv_many(batch, BATCH)),
        // Lines that keep coming must not put off the sync.
        Some(Duration::ZERO) => None,
        Some(patience) => Handle::current()
            .block_on(async { tokio::time::timeout(patience, lines.recv_many(batch, BATCH)).await.ok() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::entry::Stream;
    use std::sync::Mutex;

    #[tokio::test]
    async fn every_line_is_on_disk_in_order_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mirror = shown.clone();
        let mirror: Mirror = Arc::new(move |entry| mirror.lock().unwrap().push(entry.clone()));
        let (log, sink) = BuildLog::start(
            &path,
            "worker-1",
            mirror,
            Mask::none(),
            LogLimits { max_log: u64::MAX, spool: None },
        )
        .unwrap();
        for n in 0..3000 {
            sink.write(Stream::Stdout, Some("[1/1] RUN seq"), &format!("line {n}")).await;
        }
        drop(sink);
        let length = log.length();
        assert_eq!(log.finish().await.unwrap(), Kept { lines: 3000, missing: 0 });
        assert_eq!(*length.borrow(), std::fs::metadata(&path).unwrap().len());
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<LogEntry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (n, entry) in read.iter().enumerate() {
            assert_eq!((entry.seq, entry.text.as_str()), (n as u64, format!("line {n}").as_str()));
        }
        assert_eq!(shown.lock().unwrap().len(), 3000);
    }
}
