//! The sink: the end of a build's log into which every stage writes. What stands at the other end is
//! the build directory, which numbers the entries and keeps them.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::entry::Stream;

/// Entries on their way to the build directory. When the disk is slower than the build, the build
/// waits: a bounded channel, because a log line is never dropped to save time.
const CAPACITY: usize = 1024;

/// The longest text of one entry, in bytes; a longer line is split at a character's edge.
pub const MAX_TEXT: usize = 64 * 1024;

/// A line that has no number yet.
#[derive(Debug)]
pub struct Line {
    pub at: OffsetDateTime,
    pub stream: Stream,
    pub step: Option<Arc<str>>,
    pub text: String,
}

/// A handle to write a build's log; clones write to the same log.
#[derive(Clone, Debug)]
pub struct LogSink {
    lines: mpsc::Sender<Line>,
}

impl LogSink {
    /// A sink and the receiver of its lines, which come in the order in which they were written.
    pub fn channel() -> (Self, mpsc::Receiver<Line>) {
        let (lines, receiver) = mpsc::channel(CAPACITY);
        (Self { lines }, receiver)
    }

    /// Writes a line of BuildGrid's own.
    pub async fn status(&self, text: impl Into<String>) {
        self.write(Stream::Status, None, text.into()).await;
    }

    /// Writes a line of a step's output, in pieces if it is longer than [`MAX_TEXT`].
    pub async fn write(&self, stream: Stream, step: Option<Arc<str>>, text: String) {
        for line in split(stream, step, text) {
            // The receiver lives as long as the build; a line after its end has no log to go to.
            let _ = self.lines.send(line).await;
        }
    }

    /// As [`status`](Self::status), for code on a blocking thread.
    pub fn blocking_status(&self, text: impl Into<String>) {
        for line in split(Stream::Status, None, text.into()) {
            let _ = self.lines.blocking_send(line);
        }
    }
}

fn split(stream: Stream, step: Option<Arc<str>>, mut text: String) -> Vec<Line> {
    let at = OffsetDateTime::now_utc();
    let mut lines = Vec::with_capacity(1);
    while text.len() > MAX_TEXT {
        let edge = text.floor_char_boundary(MAX_TEXT);
        let rest = text.split_off(edge);
        lines.push(Line { at, stream, step: step.clone(), text });
        text = rest;
    }
    lines.push(Line { at, stream, step, text });
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn splits_long_lines_between_characters() {
        let (sink, mut lines) = LogSink::channel();
        let text = "é".repeat(MAX_TEXT);
        sink.write(Stream::Stdout, None, text.clone()).await;
        drop(sink);
        let mut joined = String::new();
        while let Some(line) = lines.recv().await {
            assert!(line.text.len() <= MAX_TEXT);
            joined.push_str(&line.text);
        }
        assert_eq!(joined, text);
    }
}
