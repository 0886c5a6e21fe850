//! What one process uses at a time: a file that it holds a lock on, and in which it leaves its number, so that
//! one that comes too late can say whose it is.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Why a lock was not taken.
#[derive(Debug)]
pub enum NotTaken {
    Held(Holder),
    Failed(io::Error),
}

/// The process that holds a lock, where its number could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "another BuildGrid process (pid {pid})"),
            None => f.write_str("another BuildGrid process"),
        }
    }
}

/// How often, and in which distance, a lock that is held is tried: [`holder`] may have it for a moment.
const TRIES: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(20);

/// Takes the lock at `path`, and makes its file if it is missing. It is held until the file is dropped, or the
/// process ends in whatever way. Blocking.
pub fn take(path: &Path) -> Result<File, NotTaken> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    let mut file = opened.map_err(NotTaken::Failed)?;
    let mut tries = 1;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(TRY_AGAIN);
            }
            Err(TryLockError::WouldBlock) => return Err(NotTaken::Held(Holder(number(path)))),
            Err(TryLockError::Error(error)) => return Err(NotTaken::Failed(error)),
        }
    }
    // A courtesy: a full disk must not keep the process from its start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// The process that holds the lock, if one does. The number in the file tells nothing of that: a process that was
/// killed leaves it behind, and the kernel gives it out again. Blocking.
pub fn holder(path: &Path) -> io::Result<Option<Holder>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder(number(path)))),
        Err(TryLockError::Error(error)) => Err(error),
    }
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
        assert_eq!(holder(&path).unwrap(), None);
        let lock = take(&path).unwrap();
        let NotTaken::Held(found) = take(&path).unwrap_err() else { panic!("it is held") };
        let us = std::process::id();
        assert_eq!(found.to_string(), format!("another BuildGrid process (pid {us})"));
        assert_eq!(holder(&path).unwrap(), Some(Holder(Some(us))));
        std::fs::write(&path, "").unwrap();
        let NotTaken::Held(found) = take(&path).unwrap_err() else { panic!("it is held") };
        assert_eq!(found.to_string(), "another BuildGrid process");
        drop(lock);
        drop(take(&path).unwrap());
        std::fs::write(&path, us.to_string()).unwrap();
        assert_eq!(holder(&path).unwrap(), None, "its number stays behind");
    }

    #[test]
    fn who_looks_whether_a_lock_is_held_keeps_nobody_from_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        drop(take(&path).unwrap());
        let looks = File::open(&path).unwrap();
        looks.try_lock_shared().unwrap();
        let looking = std::thread::spawn(move || {
            std::thread::sleep(TRY_AGAIN);
            drop(looks);
        });
        drop(take(&path).unwrap());
        looking.join().unwrap();
    }
}
