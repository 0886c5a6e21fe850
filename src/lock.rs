//! What one process uses at a time: a file that it holds a lock on, and in which it leaves its number, so that
//! one that comes too late can say whose it is.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Why a lock was not taken.
#[derive(Debug)]
pub enum NotTaken {
    Held(Holder),
    Failed(io::Error),
}

/// The process that holds a lock, where its number could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "another BuildGrid process (pid {pid})"),
            None => f.write_str("another BuildGrid process"),
        }
    }
}

/// Takes the lock at `path`, and makes its file if it is missing. It is held until the file is dropped, or the
/// process ends in whatever way.
pub fn take(path: &Path) -> Result<File, NotTaken> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let mut file = opened.map_err(NotTaken::Failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(NotTaken::Held(Holder(number(path)))),
        Err(TryLockError::Error(error)) => return Err(NotTaken::Failed(error)),
    }
    // A courtesy: a full disk must not keep the process from its start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// The process that has written its number, if it is still there.
pub fn holder(path: &Path) -> Option<u32> {
    number(path).filter(|pid| Path::new("/proc").join(pid.to_string()).exists())
}

fn number(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_late_learns_who_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path), None);
        let lock = take(&path).unwrap();
        let NotTaken::Held(found) = take(&path).unwrap_err() else { panic!("it is held") };
        let us = std::process::id();
        assert_eq!(found.to_string(), format!("another BuildGrid process (pid {us})"));
        assert_eq!(holder(&path), Some(us));
        std::fs::write(&path, "").unwrap();
        let NotTaken::Held(found) = take(&path).unwrap_err() else { panic!("it is held") };
        assert_eq!(found.to_string(), "another BuildGrid process");
        drop(lock);
        drop(take(&path).unwrap());
        std::fs::write(&path, u32::MAX.to_string()).unwrap();
        assert_eq!(holder(&path), None, "the kernel gives out no such number");
    }
}
