//! What is kept of a build's log, and how: within bounds, on a disk that may be full.
//!
//! Output that cannot be kept is counted, and the log says in its place how much is missing and why: at
//! the next line of BuildGrid's own, when there is room again, or at the end. BuildGrid's own lines always get
//! in. For them, and for those marks, disk space is reserved ahead of the file's end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};
use time::OffsetDateTime;

use super::reporting::SpoolShare;
use crate::timeline::entry::{LogEntry, Stream};
use crate::timeline::sink::Line;

/// Reserved on disk for what always gets in.
const RESERVE: u64 = 128 << 10;
/// Reserved on disk at a time for the rest.
const STRIDE: u64 = 1 << 20;
/// What the steps' beginnings and ends may take beyond `worker.max_log`.
const STEPS_RESERVE: u64 = 256 << 10;
/// The pause before a full disk or spool is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How much of a log is kept.
#[derive(Clone)]
pub struct LogLimits {
    /// `worker.max_log`, in bytes.
    pub max_log: u64,
    /// What is left of `worker.max_spool`, where there is a timeline service.
    pub spool: Option<SpoolShare>,
}

/// Writes the lines of one log.
pub(super) struct LogWriter {
    file: File,
    path: PathBuf,
    server: String,
    limits: LogLimits,
    /// The seq of the next line.
    seq: u64,
    /// The bytes of whole lines in the file, or about to be written.
    length: u64,
    /// How far the disk has room for certain; `None` where the file system cannot tell.
    reserved: Option<u64>,
    /// Lines about to be written.
    pending: Vec<Pending>,
    bytes: Vec<u8>,
    /// What always gets in and could not be written yet, in its order.
    owed: VecDeque<Owed>,
    /// Output that is missing after all that.
    gap: Option<Gap>,
    /// All lines of output that are missing.
    missing: u64,
    /// The log is as long as it may be.
    is_full: bool,
    /// Disk or spool had no room.
    blocked: Option<Blocked>,
    /// Half a line is at the file's end.
    torn: bool,
}

struct Blocked {
    /// Not tried again before.
    until: Instant,
    reason: String,
}

/// What is written with one call, line by line.
struct Pending {
    what: What,
    /// Where it ends in the bytes.
    end: usize,
}

enum What {
    Owed(Owed),
    Output { text: u64 },
}

enum Owed {
    /// A line of BuildGrid's own.
    Own(Line),
    Mark(Gap),
}

/// Output that is missing at one place.
#[derive(Debug, Clone, Default)]
struct Gap {
    lines: u64,
    bytes: u64,
    reasons: Vec<String>,
}

impl Gap {
    fn words(&self) -> String {
        let (lines, size) = (self.lines, ByteSize(self.bytes).display().si());
        let (line, is) = if lines == 1 { ("line", "is") } else { ("lines", "are") };
        format!("{lines} {line} of output ({size}) {is} missing here: {}", self.reasons.join("; "))
    }

    fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.bytes += other.bytes;
        for reason in other.reasons {
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
    }
}

/// What became of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    /// The lines that are in it.
    pub lines: u64,
    /// The lines of output that are not.
    pub missing: u64,
}

impl LogWriter {
    /// Writes to the end of `file`, which is empty and opened for appending.
    pub(super) fn new(file: File, path: PathBuf, server: &str, limits: LogLimits) -> Self {
        let mut writer = Self {
            file,
            path,
            server: server.to_owned(),
            limits,
            seq: 0,
            length: 0,
            reserved: Some(0),
            pending: Vec::new(),
            bytes: Vec::new(),
            owed: VecDeque::new(),
            gap: None,
            missing: 0,
            is_full: false,
            blocked: None,
            torn: false,
        };
        // A disk that is full already may have room later.
        let _ = writer.reserve(RESERVE);
        writer
    }

    /// How much of the file can be read.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// When something that could not be written is to be tried again.
    pub(super) fn try_again(&self) -> Option<Instant> {
        let waits = !self.owed.is_empty() || self.gap.is_some() && !self.is_full;
        self.blocked.as_ref().filter(|_| waits).map(|blocked| blocked.until)
    }

    /// Writes lines, or notes that they are missing; answers them as entries. A missing one has the seq of the
    /// next.
    pub(super) fn write(&mut self, lines: impl Iterator<Item = Line>) -> Vec<LogEntry> {
        self.catch_up();
        let mut entries = Vec::new();
        for line in lines {
            if let Err(reason) = self.admit(&line) {
                self.miss(1, line.text.len() as u64, reason);
                entries.push(self.entry(line));
                continue;
            }
            if is_own(&line) {
                self.pay();
            }
            // The steps' beginnings and ends go on while output is missing.
            if is_own(&line) || line.stream != Stream::Status {
                self.mark();
            }
            let entry = self.entry(line.clone());
            let what = match is_own(&line) {
                true => What::Owed(Owed::Own(line)),
                false => What::Output { text: line.text.len() as u64 },
            };
            self.add(&entry, what);
            entries.push(entry);
        }
        self.flush();
        entries
    }

    /// Writes what is owed, if there is room by now.
    pub(super) fn catch_up(&mut self) {
        if self.blocked.as_ref().is_some_and(|blocked| blocked.until > Instant::now()) {
            return;
        }
        self.blocked = None;
        self.pay();
        self.flush();
        if self.gap.is_some() && !self.is_full && self.has_room() {
            self.mark();
            self.flush();
        }
    }

    /// Writes what is owed, and how much is missing; frees what was reserved.
    pub(super) fn finish(&mut self) -> Kept {
        self.pay();
        self.mark();
        self.flush();
        let mut lines = 0;
        for owed in std::mem::take(&mut self.owed) {
            match owed {
                Owed::Own(_) => lines += 1,
                Owed::Mark(gap) => self.gap.get_or_insert_default().add(gap),
            }
        }
        if lines > 0 {
            tracing::error!(lines, path = %self.path.display(), "lines of BuildGrid's own could not be written to the build's log");
        }
        if let Some(gap) = &self.gap {
            tracing::error!(
                lines = gap.lines, bytes = gap.bytes, reasons = gap.reasons.join("; "), path = %self.path.display(),
                "lines of output are missing in the build's log, which had no room to say so"
            );
        }
        // Also what a write that failed has left.
        if let Err(error) = self.file.set_len(self.length) {
            tracing::warn!(%error, path = %self.path.display(), "cannot free what was reserved for the build's log");
        }
        Kept { lines: self.seq, missing: self.missing }
    }

    /// Whether a line may be kept, or why not. What always gets in is admitted.
    fn admit(&mut self, line: &Line) -> Result<(), String> {
        if is_own(line) {
            return Ok(());
        }
        let size = size(line);
        let most = match line.stream {
            Stream::Status => self.limits.max_log.saturating_add(STEPS_RESERVE),
            Stream::Stdout | Stream::Stderr if self.is_full => 0,
            Stream::Stdout | Stream::Stderr => self.limits.max_log,
        };
        if self.length + size > most {
            self.is_full = true;
            let limit = ByteSize(self.limits.max_log).display().iec();
            return Err(format!("a build's log is kept up to worker.max_log ({limit})"));
        }
        if let Some(Blocked { reason, .. }) = &self.blocked {
            return Err(reason.clone());
        }
        match &self.limits.spool {
            Some(spool) if !spool.has_room(self.bytes.len() as u64 + size) => Err(spool.full()),
            _ => self.reserve(size + RESERVE).map_err(|error| disk_reason(&error)),
        }
        .inspect_err(|reason| self.block(reason.clone()))
    }

    /// Whether output can go on, worth a mark.
    fn has_room(&mut self) -> bool {
        let room = match &self.limits.spool {
            Some(spool) if !spool.is_free() => Err(spool.full()),
            _ => self.reserve(2 * RESERVE).map_err(|error| disk_reason(&error)),
        };
        room.inspect_err(|reason| self.block(reason.clone())).is_ok()
    }

    fn block(&mut self, reason: String) {
        self.blocked = Some(Blocked { until: Instant::now() + TRY_AGAIN, reason });
    }

    fn miss(&mut self, lines: u64, bytes: u64, reason: String) {
        if self.gap.is_none() && self.owed.is_empty() {
            tracing::warn!(reason, path = %self.path.display(), "output is left out of the build's log");
        }
        metrics::counter!("buildgrid_log_entries_missing_total").increment(lines);
        self.missing += lines;
        self.gap.get_or_insert_default().add(Gap { lines, bytes, reasons: vec![reason] });
    }

    /// Says how much is missing here, if something is.
    fn mark(&mut self) {
        if let Some(gap) = self.gap.take() {
            self.add_owed(Owed::Mark(gap));
        }
    }

    /// What is owed comes before anything that is written after it.
    fn pay(&mut self) {
        for owed in std::mem::take(&mut self.owed) {
            self.add_owed(owed);
        }
    }

    fn add_owed(&mut self, owed: Owed) {
        let line = match &owed {
            Owed::Own(line) => line.clone(),
            Owed::Mark(gap) => {
                Line { at: OffsetDateTime::now_utc(), stream: Stream::Status, step: None, text: gap.words() }
            }
        };
        let entry = self.entry(line);
        self.add(&entry, What::Owed(owed));
    }

    fn entry(&self, line: Line) -> LogEntry {
        LogEntry {
            seq: self.seq,
            at: line.at,
            stream: line.stream,
            step: line.step.map(|step| step.to_string()),
            server: self.server.clone(),
            service: None,
            pod: None,
            text: line.text,
        }
    }

    fn add(&mut self, entry: &LogEntry, what: What) {
        let begin = self.bytes.len();
        if let Err(error) = serde_json::to_writer(&mut self.bytes, entry) {
            // Strings and numbers into memory: there is nothing that could fail.
            tracing::error!(%error, "a line of the build's log cannot be put into JSON");
            self.bytes.truncate(begin);
            return;
        }
        self.bytes.push(b'\n');
        self.pending.push(Pending { what, end: self.bytes.len() });
        self.seq += 1;
        self.length += (self.bytes.len() - begin) as u64;
    }

    /// Writes what is pending. What cannot be written is missing or owed, and the file ends with a whole line.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let (pending, bytes) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.bytes));
        let begin = self.length - bytes.len() as u64;
        let (written, error) = match self.mend(begin) {
            Ok(()) => append(&mut self.file, &bytes),
            Err(error) => (0, Some(error)),
        };
        let whole = pending.partition_point(|line| line.end <= written);
        let end = whole.checked_sub(1).map_or(0, |last| pending[last].end);
        metrics::counter!("buildgrid_log_entries_total").increment(whole as u64);
        if let Some(spool) = &self.limits.spool {
            spool.add(end as u64);
        }
        if let Some(error) = error {
            self.length = begin + end as u64;
            self.seq -= (pending.len() - whole) as u64;
            self.torn |= written > end;
            let _ = self.mend(self.length);
            let reason = disk_reason(&error);
            self.block(reason.clone());
            let later = self.gap.take();
            for line in pending.into_iter().skip(whole) {
                match line.what {
                    What::Owed(Owed::Mark(gap)) => self.gap.get_or_insert_default().add(gap),
                    What::Owed(own) => {
                        self.owed.extend(self.gap.take().map(Owed::Mark));
                        self.owed.push_back(own);
                    }
                    What::Output { text } => self.miss(1, text, reason.clone()),
                }
            }
            if let Some(later) = later {
                self.gap.get_or_insert_default().add(later);
            }
        }
        self.bytes = bytes;
        self.bytes.clear();
    }

    /// Takes half a line away from the file's end.
    fn mend(&mut self, length: u64) -> io::Result<()> {
        if self.torn {
            self.file.set_len(length)?;
            self.torn = false;
            self.reserved = self.reserved.map(|_| length);
        }
        Ok(())
    }

    /// Makes sure that so many bytes more can be written. The file keeps its length.
    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let Some(reserved) = self.reserved else { return Ok(()) };
        let wanted = self.length + bytes;
        if wanted <= reserved {
            return Ok(());
        }
        let ahead = |end: u64| {
            retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, reserved, end - reserved))
        };
        let (end, got) = match ahead(wanted + STRIDE) {
            Err(Errno::NOSPC | Errno::DQUOT) => (wanted, ahead(wanted)),
            got => (wanted + STRIDE, got),
        };
        match got {
            Ok(()) => self.reserved = Some(end),
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO)) => return Err(error.into()),
            // What this file system cannot promise is seen when it is written.
            Err(_) => self.reserved = None,
        }
        Ok(())
    }
}

/// BuildGrid's own words on the build: few, and its reader needs them most.
fn is_own(line: &Line) -> bool {
    line.stream == Stream::Status && line.step.is_none()
}

/// About how many bytes a line takes in the file.
fn size(line: &Line) -> u64 {
    const FIELDS: usize = 160;
    (FIELDS + line.text.len() + line.step.as_ref().map_or(0, |step| step.len())) as u64
}

fn disk_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            format!("the disk of worker.data_dir was full ({error}); free space on it")
        }
        _ => format!("the disk of worker.data_dir failed ({error})"),
    }
}

/// Writes to the end of a file; how many bytes were written, and why not all.
fn append(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
