//! A log on disk as it is sent: whole lines from wherever the timeline service wants them. The same while
//! the log grows and when it was left by a crash, after which half a line at its end is nobody's. Neither is
//! what a loss of power has left where the last lines were to be: zeros, or a later line without an earlier one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::Deserialize;
use time::OffsetDateTime;

use crate::store::digest::Digesting;
use crate::timeline::client::Lines;
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{LogSum, MAX_APPEND};

/// The size of a batch, in bytes before compression: large enough that a call costs little, small enough to
/// be sent anew.
pub const BATCH: usize = 1 << 20;

/// A log that is read from one end to the other; the lines before the position have been summed up.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    /// The bytes before the position.
    passed: Digesting<io::Sink>,
    offset: u64,
    /// The seq of the line at the position.
    seq: u64,
    /// What stands at the position is no line that was written there.
    is_torn: bool,
}

/// Lines to be sent with one call.
pub struct Batch {
    pub lines: Lines,
    /// The seq of the first line.
    pub first: u64,
    /// When the first line was written.
    pub since: OffsetDateTime,
    /// Whether there are probably more.
    pub is_full: bool,
}

impl LogFile {
    /// A file that is not there yet is an empty log.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, passed: Digesting::new(io::sink()), offset: 0, seq: 0, is_torn: false }
    }

    /// Takes it for another thread; what stays is the log at its beginning.
    pub fn take(&mut self) -> Self {
        let fresh = Self::new(self.path.clone());
        std::mem::replace(self, fresh)
    }

    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The bytes before the position.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What lies before the position; at the end, the whole log.
    pub fn sum(&self) -> LogSum {
        let (checksum, _, _) = self.passed.clone().finish();
        LogSum { count: self.seq, checksum }
    }

    /// The next lines, and moves behind them; none at the end. Blocking.
    pub fn next(&mut self) -> io::Result<Option<Batch>> {
        let first = self.seq;
        let lines = self.lines(u64::MAX)?;
        if lines.is_empty() {
            return Ok(None);
        }
        Ok(Some(Batch {
            first,
            since: written_at(&lines).unwrap_or_else(OffsetDateTime::now_utc),
            is_full: lines.len() >= BATCH / 2,
            lines: Lines::compress(&lines).map_err(io::Error::other)?,
        }))
    }

    /// Moves to a line, or to the end if there are fewer. Blocking.
    pub fn seek(&mut self, seq: u64) -> io::Result<()> {
        if seq < self.seq {
            *self = Self::new(std::mem::take(&mut self.path));
        }
        while self.seq < seq && !self.lines(seq - self.seq)?.is_empty() {}
        Ok(())
    }

    /// Takes whole lines: at most `most`, and of about a batch's size.
    fn lines(&mut self, most: u64) -> io::Result<Vec<u8>> {
        let offset = self.offset;
        let Some(file) = self.open()? else { return Ok(Vec::new()) };
        let mut bytes = vec![0; BATCH];
        let mut filled = 0;
        let whole = loop {
            let read = read_at(file, &mut bytes[filled..], offset + filled as u64)?;
            filled += read;
            let ends = memchr::memchr_iter(b'\n', &bytes[..filled]);
            match ends.take(usize::try_from(most).unwrap_or(usize::MAX)).last() {
                Some(end) => break end + 1,
                // Half a line at the end: still being written, or left by a crash.
                None if filled < bytes.len() => break 0,
                None if bytes.len() >= MAX_APPEND => {
                    let words = format!("a line is longer than {MAX_APPEND} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, words));
                }
                None => bytes.resize(bytes.len() * 2, 0),
            }
        };
        bytes.truncate(whole);
        let sound = sound(&bytes, self.seq);
        if sound < bytes.len() {
            bytes.truncate(sound);
            if !std::mem::replace(&mut self.is_torn, true) {
                let (path, line) =
                    (self.path.display(), self.seq + memchr::memchr_iter(b'\n', &bytes).count() as u64);
                tracing::warn!(%path, line, "the log is torn, as after a loss of power; it is taken up to this line");
            }
        }
        let whole = bytes.len();
        self.seq += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        self.offset += whole as u64;
        self.passed.write_all(&bytes)?;
        Ok(bytes)
    }

    fn open(&mut self) -> io::Result<Option<&File>> {
        if self.file.is_none() {
            self.file = match File::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
        }
        Ok(self.file.as_ref())
    }
}

/// How many bytes of some whole lines, the first of which should have this seq, are what was written.
fn sound(lines: &[u8], first: u64) -> usize {
    let mut end = 0;
    for (line, seq) in lines.split_inclusive(|&byte| byte == b'\n').zip(first..) {
        let begins = line.starts_with(format!("{{\"seq\":{seq},").as_bytes());
        if !begins || !line.ends_with(b"}\n") || memchr::memchr(0, line).is_some() {
            break;
        }
        end += line.len();
    }
    end
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// When the first of some lines was written.
fn written_at(lines: &[u8]) -> Option<OffsetDateTime> {
    #[derive(Deserialize)]
    struct At {
        #[serde(with = "timestamp")]
        at: OffsetDateTime,
    }
    let first = lines.split(|&byte| byte == b'\n').next()?;
    serde_json::from_slice::<At>(first).ok().map(|At { at }| at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::digest::Digest;

    #[test]
    fn gives_whole_lines_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        let mut log = LogFile::new(path.clone());
        assert!(log.next().unwrap().is_none(), "no file, no lines");
        let long = "x".repeat(BATCH + 10);
        let text = format!(
            "{{\"seq\":0,\"at\":\"2026-11-23T10:15:02.123Z\"}}\n{{\"seq\":1,}}\n{{\"seq\":2,\"{long}\"}}\n{{\"seq\":3,}}\n"
        );
        std::fs::write(&path, format!("{text}half")).unwrap();
        let batch = log.next().unwrap().unwrap();
        assert_eq!(timestamp::to_string(batch.since), "2026-11-23T10:15:02.123Z");
        assert_eq!((batch.first, log.seq()), (0, 2));
        assert_eq!(log.next().unwrap().unwrap().first, 2);
        assert_eq!(log.seq(), 4, "a line longer than a batch goes whole");
        assert!(log.next().unwrap().is_none(), "half a line is none");
        let sum = LogSum { count: 4, checksum: Digest::of(text.as_bytes()) };
        assert_eq!((log.sum(), log.offset()), (sum, text.len() as u64));
        log.seek(1).unwrap();
        let first = &text[..text.find("{\"seq\":1").unwrap()];
        assert_eq!((log.seq(), log.sum().checksum), (1, Digest::of(first.as_bytes())));
        log.seek(7).unwrap();
        assert_eq!(log.sum(), sum, "there are no more");
        std::fs::write(&path, format!("{text}{{\"seq\":4,}}\n")).unwrap();
        assert_eq!(log.next().unwrap().unwrap().first, 4, "it grows");
    }

    #[test]
    fn what_a_loss_of_power_has_torn_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.ndjson");
        let text = "{\"seq\":0,}\n{\"seq\":1,}\n";
        for torn in
            ["\0\0\0\0\0\0{\"seq\":3,}\n", "{\"seq\":3,}\n", "{\"seq\":2,\0\0\0\0}\n{\"seq\":3,}\n", "\0\0\0"]
        {
            std::fs::write(&path, format!("{text}{torn}")).unwrap();
            let mut log = LogFile::new(path.clone());
            assert_eq!(log.next().unwrap().unwrap().first, 0);
            assert!(log.next().unwrap().is_none(), "{torn:?}");
            let sum = LogSum { count: 2, checksum: Digest::of(text.as_bytes()) };
            assert_eq!(log.sum(), sum, "{torn:?}");
            log.seek(9).unwrap();
            assert_eq!(log.sum(), sum, "{torn:?}");
        }
    }
}
