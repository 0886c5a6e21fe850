//! The sink: the end of a build's log into which every stage writes. What stands at the other end is
//! the build directory, which numbers the entries and keeps them. Nothing goes in that is not masked.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::entry::Stream;
use super::mask::{Mask, Shown};

/// Entries on their way to the build directory. When the disk is slower than the build, the build
/// waits: a bounded channel, because a log line is never dropped to save time.
const CAPACITY: usize = 1024;

/// The longest text of one entry, in bytes; a longer line is split at a character's edge.
pub const MAX_TEXT: usize = 64 * 1024;

/// A line that has no number yet.
#[derive(Debug, Clone)]
pub struct Line {
    pub at: OffsetDateTime,
    pub stream: Stream,
    pub step: Option<Arc<str>>,
    pub text: String,
}

/// A line that may be shown, which the sink stamps with the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub stream: Stream,
    pub step: Option<Arc<str>>,
    pub text: Shown,
}

/// A handle to write a build's log; clones write to the same log.
#[derive(Clone, Debug)]
pub struct LogSink {
    lines: mpsc::Sender<Line>,
    mask: Mask,
    /// When the build last gave a sign of life.
    sign: watch::Sender<Instant>,
}

impl LogSink {
    /// A sink that masks what it is given, and the receiver of its lines, which come in the order in which
    /// they were written.
    pub fn channel(mask: Mask) -> (Self, mpsc::Receiver<Line>) {
        let (lines, receiver) = mpsc::channel(CAPACITY);
        (Self { lines, mask, sign: watch::Sender::new(Instant::now()) }, receiver)
    }

    /// Notes a sign of life, which every line is: a build that is silent for too long is ended.
    pub fn is_alive(&self) {
        self.sign.send_replace(Instant::now());
    }

    /// When the last one was.
    pub fn last_sign(&self) -> Instant {
        *self.sign.borrow()
    }

    /// What must not be shown, for a stage that joins lines out of pieces.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// Writes a line of BuildGrid's own.
    pub async fn status(&self, text: impl AsRef<str>) {
        self.write(Stream::Status, None, text.as_ref()).await;
    }

    /// Writes a whole line of a step's output, in pieces if it is longer than [`MAX_TEXT`].
    pub async fn write(&self, stream: Stream, step: Option<&str>, text: &str) {
        let step = step.map(|step| self.mask.shown(step).as_ref().into());
        self.put(Entry { stream, step, text: self.mask.shown(text) }).await;
    }

    /// Writes a line whose text and step have been masked.
    pub async fn put(&self, entry: Entry) {
        self.is_alive();
        for line in split(entry) {
            // The receiver lives as long as the build; a line after its end has no log to go to.
            let _ = self.lines.send(line).await;
        }
    }

    /// As [`status`](Self::status), for code on a blocking thread.
    pub fn blocking_status(&self, text: impl AsRef<str>) {
        self.is_alive();
        let text = self.mask.shown(text.as_ref());
        for line in split(Entry { stream: Stream::Status, step: None, text }) {
            let _ = self.lines.blocking_send(line);
        }
    }
}

fn split(Entry { stream, step, text }: Entry) -> impl Iterator<Item = Line> {
    let at = OffsetDateTime::now_utc();
    text.split(MAX_TEXT).map(move |text| Line { at, stream, step: step.clone(), text: text.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn splits_long_lines_between_characters() {
        let (sink, mut lines) = LogSink::channel(Mask::none());
        let text = "é".repeat(MAX_TEXT);
        sink.write(Stream::Stdout, None, &text).await;
        drop(sink);
        let mut joined = String::new();
        while let Some(line) = lines.recv().await {
            assert!(line.text.len() <= MAX_TEXT);
            joined.push_str(&line.text);
        }
        assert_eq!(joined, text);
    }

    #[tokio::test]
    async fn masks_and_cleans_what_it_is_given() {
        let mask = Mask::new([("s", &b"hunter2"[..])]).unwrap().0;
        let (sink, mut lines) = LogSink::channel(mask);
        sink.write(Stream::Stderr, Some("[1/2] RUN login hunter2"), "hun\x1b[Kter2\n").await;
        sink.status("cannot reach https://me:pass@host/").await;
        drop(sink);
        let line = lines.recv().await.unwrap();
        assert_eq!((line.step.as_deref(), line.text.as_str()), (Some("[1/2] RUN login ***"), "***\\u{a}"));
        assert_eq!(lines.recv().await.unwrap().text, "cannot reach https://me:***@host/");
    }
}
