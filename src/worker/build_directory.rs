//! Build directories, `<data_dir>/builds/<id>/`: what the worker knows of a build, through crashes.
//!
//! ```text
//! <data_dir>/                 0700
//!   lock                      held by the one process that uses the directory
//!   builds/<id>/
//!     event.json              the event, byte for byte
//!     state.json              attempt and stage
//!     log.ndjson              the log of this attempt; log.<n>.ndjson are those of earlier ones
//!     outcome.json            the final result event, once there is one
//!     spool/                  what this attempt spools; gone with it
//!   mirrors/                  bare git mirrors (source)
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::event::deploy::BuildId;
use crate::event::result::ResultEvent;
use crate::store::digest::Digest;

/// The data directory, locked for this process.
#[derive(Debug)]
pub struct DataDirectory {
    root: PathBuf,
    _lock: File,
}

impl DataDirectory {
    /// Creates the directory if it is missing and takes its lock.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let directory = || format!("worker.data_dir {}", root.display());
        private_directory(&root.join("builds")).with_context(directory)?;
        private_directory(&root.join("mirrors")).with_context(directory)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(root.join("lock"))
            .with_context(directory)?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => anyhow::anyhow!(
                "{} is in use by another BuildGrid process; give each worker a data_dir of its own, or use `buildgrid enqueue` where a worker runs",
                root.display()
            ),
            fs::TryLockError::Error(error) => anyhow::Error::from(error).context(directory()),
        })?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    /// The directory of a build, whether it exists or not.
    pub fn build(&self, id: &BuildId) -> BuildDirectory {
        BuildDirectory { path: self.root.join("builds").join(id.as_str()) }
    }

    /// Removes what a crash left behind (spools), and the directories whose build ended longer than
    /// `keep` ago. Says how many builds had not ended. Blocking.
    pub fn sweep(&self, keep: Duration, running: impl Fn(&str) -> bool) -> anyhow::Result<usize> {
        let builds = self.root.join("builds");
        let mut interrupted = 0;
        for entry in fs::read_dir(&builds).with_context(|| builds.display().to_string())? {
            let entry = entry?;
            if running(&entry.file_name().to_string_lossy()) {
                continue;
            }
            let directory = BuildDirectory { path: entry.path() };
            directory.clear_spool().with_context(|| entry.path().display().to_string())?;
            match directory.ended() {
                Some(at) if at.elapsed().unwrap_or_default() > keep => {
                    directory.remove().with_context(|| format!("remove {}", entry.path().display()))?
                }
                Some(_) => {}
                None if age(&entry.path()) > keep => directory.remove()?,
                None => interrupted += 1,
            }
        }
        Ok(interrupted)
    }
}

/// The directory of one build.
#[derive(Debug, Clone)]
pub struct BuildDirectory {
    path: PathBuf,
}

/// What the directory already says about an event. The answer to "may this build begin?".
#[derive(Debug)]
pub enum Known {
    Nothing,
    /// An earlier attempt was made and did not come to an end.
    Unfinished,
    /// It ended; this is what was said of it.
    Ended(Box<ResultEvent>),
    /// The id belongs to another event.
    Conflict,
}

/// How far a build is, for whoever looks after a crash.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildState {
    pub attempt: u32,
    pub stage: String,
}

impl BuildDirectory {
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log.ndjson")
    }

    /// Compares the event with what is kept of its id. Blocking.
    pub fn look(&self, body: Digest) -> anyhow::Result<Known> {
        let Some(event) = read_if_there(&self.path.join("event.json"))? else { return Ok(Known::Nothing) };
        if Digest::of(&event) != body {
            return Ok(Known::Conflict);
        }
        match read_if_there(&self.path.join("outcome.json"))? {
            None => Ok(Known::Unfinished),
            Some(bytes) => {
                let outcome = serde_json::from_slice(&bytes)
                    .with_context(|| format!("read {}", self.path.join("outcome.json").display()))?;
                Ok(Known::Ended(Box::new(outcome)))
            }
        }
    }

    /// Makes the directory ready for an attempt: keeps the event, sets an earlier attempt's log
    /// aside, and gives an empty spool. Blocking.
    pub fn begin(&self, event: &[u8], attempt: u32) -> anyhow::Result<PathBuf> {
        let context = || self.path.display().to_string();
        private_directory(&self.path).with_context(context)?;
        if !self.path.join("event.json").exists() {
            self.write("event.json", event, true).with_context(context)?;
            // The directory's own name must survive, too, or the outcome would be lost with it.
            self.path.parent().map_or(Ok(()), sync_directory).with_context(context)?;
        }
        let log = self.log_path();
        if log.exists() {
            let aside = (1..).map(|n| self.path.join(format!("log.{n}.ndjson"))).find(|path| !path.exists());
            fs::rename(&log, aside.expect("numbers do not end")).with_context(context)?;
        }
        self.note(&BuildState { attempt, stage: "claimed".to_owned() });
        self.clear_spool().with_context(context)?;
        let spool = self.path.join("spool");
        private_directory(&spool).with_context(context)?;
        Ok(spool)
    }

    /// Notes how far the build is. A hint for recovery, so that a failure is logged and no more.
    pub fn note(&self, state: &BuildState) {
        let written = serde_json::to_vec(state)
            .map_err(io::Error::other)
            .and_then(|bytes| self.write("state.json", &bytes, false));
        if let Err(error) = written {
            tracing::warn!(%error, path = %self.path.display(), "cannot note the build's state");
        }
    }

    /// Keeps the final result, durably: after this, the build has ended. Blocking.
    pub fn end(&self, outcome: &ResultEvent) -> anyhow::Result<()> {
        let bytes = serde_json::to_vec(outcome).context("write the outcome")?;
        self.write("outcome.json", &bytes, true)
            .with_context(|| format!("write {}", self.path.join("outcome.json").display()))
    }

    pub fn clear_spool(&self) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(self.path.join("spool")))
    }

    fn ended(&self) -> Option<SystemTime> {
        fs::metadata(self.path.join("outcome.json")).and_then(|file| file.modified()).ok()
    }

    fn remove(&self) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(&self.path))
    }

    /// Writes a file so that a reader sees the old or the new content, never a part; with
    /// `durably`, it is on disk under its name when this returns.
    fn write(&self, name: &str, bytes: &[u8], durably: bool) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}.new"));
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        if durably {
            file.sync_all()?;
        }
        fs::rename(&temporary, self.path.join(name))?;
        if durably { sync_directory(&self.path) } else { Ok(()) }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn age(path: &Path) -> Duration {
    let modified = fs::metadata(path).and_then(|entry| entry.modified());
    modified.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default()
}

fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::deploy::DeployEvent;

    const EVENT: &[u8] = br#"{"version":1,"id":"b-1","namespace":"smoke","app":"web",
        "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{}}"#;

    fn event() -> DeployEvent {
        DeployEvent::parse(EVENT).unwrap().0
    }

    #[test]
    fn is_locked_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        let first = DataDirectory::open(&root).unwrap();
        let refused = DataDirectory::open(&root).unwrap_err().to_string();
        assert!(refused.contains("in use") && refused.contains("data_dir"), "{refused}");
        for path in [root.clone(), root.join("builds"), root.join("mirrors")] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
        drop(first);
        DataDirectory::open(&root).unwrap();
    }

    #[test]
    fn knows_what_became_of_an_id() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path()).unwrap();
        let event = event();
        let directory = data.build(&event.id);
        assert!(matches!(directory.look(event.body).unwrap(), Known::Nothing));
        let spool = directory.begin(EVENT, 1).unwrap();
        fs::write(spool.join("export.tar"), "left by a crash").unwrap();
        fs::write(directory.log_path(), "{}\n").unwrap();
        assert!(matches!(directory.look(event.body).unwrap(), Known::Unfinished));
        assert!(matches!(directory.look(Digest::of(b"another")).unwrap(), Known::Conflict));

        let spool = directory.begin(EVENT, 2).unwrap();
        assert_eq!(fs::read_dir(spool).unwrap().count(), 0);
        assert!(!directory.log_path().exists(), "the first attempt's log was set aside");
        assert_eq!(fs::read_to_string(directory.path.join("log.1.ndjson")).unwrap(), "{}\n");

        assert_eq!(data.sweep(Duration::from_secs(60), |_| false).unwrap(), 1);
        let result = ResultEvent::rejected(event.identity(), 2, "no", "worker-1");
        directory.end(&result).unwrap();
        let Known::Ended(kept) = directory.look(event.body).unwrap() else { panic!("it has ended") };
        assert_eq!((kept.id, kept.state, kept.reason), (result.id, result.state, result.reason));
        assert_eq!(data.sweep(Duration::from_secs(60), |_| false).unwrap(), 0);
        assert!(directory.path.exists());
        data.sweep(Duration::ZERO, |_| false).unwrap();
        assert!(!directory.path.exists(), "it was kept long enough");
    }
}
