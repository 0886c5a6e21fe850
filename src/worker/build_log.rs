//! The build's log on disk, `log.ndjson`: the truth about what a build wrote.
//!
//! One writer for each build takes the lines in the order in which they were written, numbers them,
//! appends them and shows them to whoever looks on. It runs on a blocking thread; lines wait for the
//! disk, never the other way round. Whoever sends the log to the timeline service reads the file, and is
//! told how long it is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::timeline::entry::LogEntry;
use crate::timeline::mask::Mask;
use crate::timeline::sink::{Line, LogSink};

/// Lines written with one call, at most. Each batch is visible to readers at once.
const BATCH: usize = 256;
/// The longest time for which a line is in the file, but not on disk for certain.
const SYNC: Duration = Duration::from_secs(1);

/// Shown every entry after it was appended; called on a blocking thread.
pub type Mirror = Arc<dyn Fn(&LogEntry) + Send + Sync>;

/// A log that is being written. It ends when every clone of its sink is dropped.
pub struct BuildLog {
    writer: JoinHandle<io::Result<u64>>,
    path: PathBuf,
    length: watch::Receiver<u64>,
}

impl BuildLog {
    /// Starts a new log at `path`, which must not exist yet.
    pub fn start(path: &Path, server: &str, mirror: Mirror) -> io::Result<(Self, LogSink)> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        let (sink, lines) = LogSink::channel(Mask::none());
        let (server, span) = (server.to_owned(), tracing::Span::current());
        let (written, length) = watch::channel(0);
        let writer = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            write(file, lines, &server, &mirror, &written)
        });
        Ok((Self { writer, path: path.to_owned(), length }, sink))
    }

    /// How many bytes of the file can be read, as they become more.
    pub fn length(&self) -> watch::Receiver<u64> {
        self.length.clone()
    }

    /// Waits until every line is on disk, durably, and says how many there are. All sinks must have
    /// been dropped. A disk that was full in between is an error: the log is not whole.
    pub async fn finish(self) -> io::Result<u64> {
        let written = self.writer.await.map_err(io::Error::other)?;
        written
            .map_err(|error| io::Error::new(error.kind(), format!("write {}: {error}", self.path.display())))
    }
}

fn write(
    mut file: File,
    mut lines: mpsc::Receiver<Line>,
    server: &str,
    mirror: &Mirror,
    written: &watch::Sender<u64>,
) -> io::Result<u64> {
    let mut seq = 0;
    let mut fault = None;
    let mut unsynced: Option<Instant> = None;
    let (mut batch, mut bytes) = (Vec::with_capacity(BATCH), Vec::new());
    loop {
        match next(&mut lines, &mut batch, unsynced.map(|since| SYNC.saturating_sub(since.elapsed()))) {
            Some(0) => break,
            Some(_) => {}
            None => {
                fault = fault.or(file.sync_data().err());
                unsynced = None;
                continue;
            }
        }
        let entries: Vec<LogEntry> =
            batch.drain(..).zip(seq..).map(|(line, seq)| entry(line, seq, server)).collect();
        seq += entries.len() as u64;
        bytes.clear();
        for entry in &entries {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
        }
        // After a fault the lines are still taken, so that the build does not wait for ever; what
        // was lost is told at the end.
        if fault.is_none() {
            fault = file.write_all(&bytes).err();
        }
        if fault.is_none() {
            written.send_modify(|length| *length += bytes.len() as u64);
            unsynced.get_or_insert_with(Instant::now);
        }
        entries.iter().for_each(|entry| mirror(entry));
        metrics::counter!("buildgrid_log_entries_total").increment(entries.len() as u64);
    }
    match fault {
        Some(error) => Err(error),
        None => file.sync_data().map(|()| seq),
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

fn entry(line: Line, seq: u64, server: &str) -> LogEntry {
    LogEntry {
        seq,
        at: line.at,
        stream: line.stream,
        step: line.step.map(|step| step.to_string()),
        server: server.to_owned(),
        service: None,
        pod: None,
        text: line.text,
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
        let (log, sink) = BuildLog::start(&path, "worker-1", mirror).unwrap();
        for n in 0..3000 {
            sink.write(Stream::Stdout, Some("[1/1] RUN seq"), &format!("line {n}")).await;
        }
        drop(sink);
        let length = log.length();
        assert_eq!(log.finish().await.unwrap(), 3000);
        assert_eq!(*length.borrow(), std::fs::metadata(&path).unwrap().len());
        let text = std::fs::read_to_string(&path).unwrap();
        let read: Vec<LogEntry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for (n, entry) in read.iter().enumerate() {
            assert_eq!((entry.seq, entry.text.as_str()), (n as u64, format!("line {n}").as_str()));
        }
        assert_eq!(shown.lock().unwrap().len(), 3000);
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_does_not_stop_the_build() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        // A device that is always full stands where the log would be.
        let (sink, lines) = LogSink::channel(Mask::none());
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let nothing: Mirror = Arc::new(|_| ());
        let (written, length) = watch::channel(0);
        let writer = tokio::task::spawn_blocking(move || write(full, lines, "worker-1", &nothing, &written));
        let log = BuildLog { writer, path, length };
        for _ in 0..3000 {
            sink.status("line").await;
        }
        drop(sink);
        let error = log.finish().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
