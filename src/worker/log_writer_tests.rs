//! Tests of what is kept of a log: its bounds, full disks, and the marks where lines are missing.

use super::*;
use crate::worker::reporting::Spool;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::Command;

const NO_LIMITS: LogLimits = LogLimits { max_log: u64::MAX, spool: None };

fn writer(path: &Path, limits: LogLimits) -> LogWriter {
    let file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    LogWriter::new(file, path.to_owned(), "worker-1", limits)
}

fn line(stream: Stream, step: Option<&str>, text: String) -> Line {
    Line { at: OffsetDateTime::now_utc(), stream, step: step.map(Into::into), text }
}

fn output(n: usize) -> Line {
    line(Stream::Stdout, Some("[1/1] RUN make"), format!("{n} {}", "x".repeat(100)))
}

fn own(text: &str) -> Line {
    line(Stream::Status, None, text.to_owned())
}

/// The lines of a log, which must be whole and numbered without a gap.
fn read(path: &Path) -> Vec<LogEntry> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "half a line is at the end");
    let entries: Vec<LogEntry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(entries.iter().zip(0..).all(|(entry, seq)| entry.seq == seq));
    entries
}

/// The marks, each with how many lines it says are missing.
fn marks(entries: &[LogEntry]) -> Vec<(u64, &str)> {
    let mark = |entry: &'_ LogEntry| entry.stream == Stream::Status && entry.text.contains(" missing here: ");
    let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
    entries
        .iter()
        .filter(|entry| mark(entry))
        .map(|entry| (number(&entry.text), entry.text.as_str()))
        .collect()
}

fn outputs(entries: &[LogEntry]) -> u64 {
    entries.iter().filter(|entry| entry.stream == Stream::Stdout).count() as u64
}

#[test]
fn a_log_that_is_too_long_says_how_much_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.ndjson");
    let mut writer = writer(&path, LogLimits { max_log: 1 << 20, spool: None });
    for batch in 0..100 {
        let shown = writer.write((0..100).map(|n| output(batch * 100 + n)));
        assert_eq!(shown.len(), 100, "all are shown");
    }
    writer.write([line(Stream::Status, Some("[1/1] RUN make"), "done in 1.0 s".to_owned())].into_iter());
    writer.write([own("publishing")].into_iter());
    writer.write([own("published")].into_iter());
    let kept = writer.finish();
    assert_eq!(writer.length(), std::fs::metadata(&path).unwrap().len());
    assert!((1 << 20..(1 << 20) + STEPS_RESERVE).contains(&writer.length()));
    let entries = read(&path);
    assert_eq!((kept.lines, kept.missing), (entries.len() as u64, 10_000 - outputs(&entries)));
    let marks = marks(&entries);
    assert_eq!((marks.len(), marks[0].0), (1, kept.missing), "{marks:?}");
    assert!(marks[0].1.contains("worker.max_log (1.0 MiB)") && marks[0].1.contains("kB)"), "{}", marks[0].1);
    let last: Vec<&str> = entries.iter().rev().take(4).map(|entry| entry.text.as_str()).collect();
    assert_eq!(last, ["published", "publishing", marks[0].1, "done in 1.0 s"]);
    let length = std::fs::metadata(&path).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&length) * 512 < length.len() + (64 << 10),
        "nothing is reserved"
    );
}

#[test]
fn a_full_spool_has_room_again_when_the_service_has_taken_something() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.ndjson");
    let spool = Spool::new(2 << 20);
    let (old, new) =
        (crate::timeline::protocol::AttemptId::generate(), crate::timeline::protocol::AttemptId::generate());
    spool.wait_for(old, 1 << 20);
    let mut writer = writer(&path, LogLimits { max_log: u64::MAX, spool: Some(spool.share(new)) });
    writer.write((0..5000).map(output));
    let missing = 5000 - outputs(&read(&path));
    assert!((1..5000).contains(&missing), "{missing}");
    spool.forget(old);
    assert!(writer.try_again().is_some());
    std::thread::sleep(TRY_AGAIN);
    writer.catch_up();
    assert_eq!(writer.try_again(), None);
    writer.write((0..10).map(output));
    assert_eq!(writer.finish(), Kept { lines: 5000 - missing + 1 + 10, missing });
    let entries = read(&path);
    let marks = marks(&entries);
    assert_eq!((marks.len(), marks[0].0), (1, missing));
    assert!(marks[0].1.contains("worker.max_spool (2.0 MiB)"), "{}", marks[0].1);
    assert_eq!(entries[entries.len() - 11].text, marks[0].1, "it stands where they are missing");
}

/// A small file system in memory, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        as_root(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "buildgrid-test"], folder.path());
        Self(folder)
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut ballast = OpenOptions::new().create(true).append(true).open(self.ballast()).unwrap();
        while ballast.write(&[7; 4096]).is_ok() {}
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        as_root(&["umount"], self.0.path());
    }
}

fn as_root(command: &[&str], path: &Path) {
    use std::os::unix::fs::MetadataExt;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let words: Vec<&str> =
        ["sudo", "-n"].into_iter().skip(if is_root { 2 } else { 0 }).chain(command.iter().copied()).collect();
    let done = Command::new(words[0]).args(&words[1..]).arg(path).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn on_a_full_disk_its_own_lines_get_in_and_output_goes_on_when_there_is_room() {
    let disk = SmallDisk::mount("8m");
    let path = disk.0.path().join("log.ndjson");
    let mut writer = writer(&path, NO_LIMITS);
    writer.write((0..100).map(output));
    disk.fill();
    for batch in 0..200 {
        writer.write((0..100).map(|n| output(batch * 100 + n)));
    }
    writer.write([own("the stage is over")].into_iter());
    let entries = read(&path);
    assert_eq!(entries.last().unwrap().text, "the stage is over");
    let first = marks(&entries)[0];
    assert_eq!(first.0, 20_100 - outputs(&entries));
    assert!(
        first.1.contains("No space left on device") && first.1.contains("worker.data_dir"),
        "{}",
        first.1
    );

    writer.write((0..7).map(output));
    disk.free();
    std::thread::sleep(TRY_AGAIN);
    writer.catch_up();
    writer.write((0..3).map(output));
    let kept = writer.finish();
    assert_eq!(kept.missing, first.0 + 7);
    let entries = read(&path);
    assert_eq!(
        (kept.lines, writer.length()),
        (entries.len() as u64, std::fs::metadata(&path).unwrap().len())
    );
    assert_eq!(marks(&entries).iter().map(|mark| mark.0).collect::<Vec<_>>(), [first.0, 7]);
    assert_eq!(entries[entries.len() - 4].text, marks(&entries)[1].1);
}

#[test]
fn where_nothing_can_be_reserved_no_half_line_stays_and_nothing_own_is_lost() {
    let disk = SmallDisk::mount("1m");
    std::fs::write(disk.ballast(), [7; 64 << 10]).unwrap();
    let path = disk.0.path().join("log.ndjson");
    let mut writer = writer(&path, NO_LIMITS);
    writer.file.set_len(0).unwrap();
    writer.reserved = None;
    for batch in 0..100 {
        writer.write((0..100).map(|n| output(batch * 100 + n)));
    }
    assert_eq!(writer.length(), std::fs::metadata(&path).unwrap().len(), "half a line is taken back");
    let written = outputs(&read(&path));
    assert!((1000..10_000).contains(&written), "{written}");
    disk.fill();
    writer.write((0..40).map(|n| own(&format!("own {n} {}", "x".repeat(200)))));
    std::thread::sleep(TRY_AGAIN);
    writer.catch_up();
    assert!(!writer.owed.is_empty(), "there was no room for all");
    disk.free();
    let kept = writer.finish();
    let entries = read(&path);
    assert_eq!(kept, Kept { lines: entries.len() as u64, missing: 10_000 - written });
    let owns = entries.iter().filter(|entry| entry.text.starts_with("own "));
    assert!(owns.enumerate().all(|(n, entry)| entry.text.starts_with(&format!("own {n} "))));
    assert_eq!(entries.iter().filter(|entry| entry.text.starts_with("own ")).count(), 40);
    assert_eq!(marks(&entries).iter().map(|mark| mark.0).sum::<u64>(), kept.missing);
}

#[test]
fn own_lines_and_marks_keep_their_order_when_a_full_disk_has_room_again() {
    let disk = SmallDisk::mount("1m");
    let path = disk.0.path().join("log.ndjson");
    let mut writer = writer(&path, NO_LIMITS);
    writer.file.set_len(0).unwrap();
    writer.reserved = None;
    disk.fill();
    writer.write((0..5).map(output));
    writer.write([own("first")].into_iter());
    writer.write((0..3).map(output));
    writer.write([own("second")].into_iter());
    assert_eq!(read(&path).len(), 0);
    // Before it is tried again by itself.
    disk.free();
    writer.write([own("third")].into_iter());
    writer.write((0..2).map(output));
    writer.write([own("fourth")].into_iter());
    let kept = writer.finish();
    let entries = read(&path);
    let heads: Vec<&str> = entries.iter().map(|entry| entry.text.split(" (").next().unwrap()).collect();
    let missing = ["5 lines of output", "3 lines of output", "2 lines of output"];
    assert_eq!(heads, [missing[0], "first", missing[1], "second", "third", missing[2], "fourth"]);
    assert_eq!(kept, Kept { lines: 7, missing: 10 });
}

#[test]
fn a_device_that_is_always_full_stops_nothing() {
    let mut writer = writer(Path::new("/dev/full"), NO_LIMITS);
    writer.write((0..3000).map(output));
    writer.write([own("published")].into_iter());
    assert_eq!(writer.finish(), Kept { lines: 0, missing: 3000 });
}

#[test]
fn the_spool_counts_what_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.ndjson");
    let (spool, attempt) = (Spool::new(1 << 20), crate::timeline::protocol::AttemptId::generate());
    let share = spool.share(attempt);
    let mut writer = writer(&path, LogLimits { max_log: u64::MAX, spool: Some(share.clone()) });
    writer.write((0..100).map(output));
    let room = (1 << 20) - writer.length();
    assert!(share.has_room(room) && !share.has_room(room + 1));
}
