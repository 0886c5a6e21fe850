//! Build directories, `<data_dir>/builds/<id>/`: what the worker knows of a build, through crashes.
//!
//! ```text
//! <data_dir>/                 0700
//!   lock                      held by the one process that uses the directory
//!   builds/<id>/
//!     event.json              the event, byte for byte
//!     state.json              the last attempt and how far it came
//!     log.ndjson              the log of this attempt; log.<n>.ndjson are those of earlier ones
//!     outcome.json            the final result event, once there is one; outcome.<n>.json are those
//!                             before the event was requeued out of the dead letters
//!     requeued                the last requeue that was obeyed
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
use crate::event::result::{Kind, ResultEvent};
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

    /// Removes what a crash left behind, and says how many builds have no outcome. For the start,
    /// when nothing runs. Blocking.
    pub fn recover(&self) -> anyhow::Result<usize> {
        let mut unfinished = 0;
        for directory in self.builds()? {
            if let Err(error) = directory.clear_spool() {
                tracing::warn!(path = %directory.path.display(), %error, "cannot remove the spool of an earlier attempt");
            }
            unfinished += usize::from(directory.ended().is_none());
        }
        Ok(unfinished)
    }

    /// Removes the directories in which nothing has happened for longer than `keep`. One that cannot
    /// be removed is told and left. Blocking.
    pub fn sweep(&self, keep: Duration, running: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        for directory in self.builds()? {
            let id = directory.path.file_name().unwrap_or_default().to_string_lossy();
            let since = directory.ended().unwrap_or_else(|| modified(&directory.path));
            if running(&id) || since.elapsed().unwrap_or_default() <= keep {
                continue;
            }
            if let Err(error) = directory.remove() {
                tracing::warn!(path = %directory.path.display(), %error, "cannot remove an old build directory");
            }
        }
        Ok(())
    }

    fn builds(&self) -> anyhow::Result<Vec<BuildDirectory>> {
        let builds = self.root.join("builds");
        let entries = fs::read_dir(&builds).and_then(|entries| {
            entries.map(|entry| entry.map(|entry| BuildDirectory { path: entry.path() })).collect()
        });
        entries.with_context(|| format!("read {}", builds.display()))
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
    /// An earlier attempt was made, which is not the end of it: it was interrupted, or is to be
    /// tried again. The next one has this number at least.
    Unfinished {
        next_attempt: u32,
    },
    /// It ended; this is what was said of it.
    Ended(Box<ResultEvent>),
    /// The id belongs to another event.
    Conflict,
}

/// The last attempt, and how far it came.
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildState {
    pub attempt: u32,
    /// A stage of the pipeline, `claimed` before it, or [`BuildState::RETRYING`].
    pub stage: String,
}

impl BuildState {
    /// The attempt has ended, by no fault of the build, and another one is to follow.
    pub const RETRYING: &str = "retrying";
}

impl BuildDirectory {
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log.ndjson")
    }

    /// Whether an event of this id has been here.
    pub fn exists(&self) -> bool {
        self.path.join("event.json").exists()
    }

    /// Compares the event with what is kept of its id. `requeue` is the name of the operator's wish
    /// that the event be tried again, if it was taken out of the dead letters. Blocking.
    pub fn look(&self, body: Digest, requeue: Option<&str>) -> anyhow::Result<Known> {
        let Some(event) = read_if_there(&self.path.join("event.json"))? else { return Ok(Known::Nothing) };
        if Digest::of(&event) != body {
            return Ok(Known::Conflict);
        }
        let Some(outcome) = read_if_there(&self.path.join("outcome.json"))? else {
            let state = read_if_there(&self.path.join("state.json"))?
                .and_then(|bytes| serde_json::from_slice::<BuildState>(&bytes).ok());
            // Attempts are counted by id and not by message: an event that was published twice has
            // no more of them.
            let next_attempt = state.map_or(1, |state| match state.stage.as_str() {
                BuildState::RETRYING => state.attempt.saturating_add(1),
                _ => state.attempt,
            });
            return Ok(Known::Unfinished { next_attempt });
        };
        let outcome: ResultEvent = serde_json::from_slice(&outcome)
            .with_context(|| format!("read {}", self.path.join("outcome.json").display()))?;
        let may_change = matches!(outcome.kind, Some(Kind::Infrastructure | Kind::Event));
        if let Some(requeue) = requeue.filter(|_| may_change)
            && self.reopen(requeue)?
        {
            return Ok(Known::Unfinished { next_attempt: 1 });
        }
        Ok(Known::Ended(Box::new(outcome)))
    }

    /// Sets the outcome aside, so that the event is tried again; once for each requeue, since the
    /// message of a requeue may come more than once.
    fn reopen(&self, requeue: &str) -> anyhow::Result<bool> {
        let noted = self.path.join("requeued");
        if read_if_there(&noted)?.is_some_and(|noted| noted == requeue.as_bytes()) {
            return Ok(false);
        }
        let context = || format!("open {} again", self.path.display());
        ignore_missing(fs::remove_file(self.path.join("state.json"))).with_context(context)?;
        fs::rename(self.path.join("outcome.json"), self.free_name("outcome", "json"))
            .with_context(context)?;
        self.write("requeued", requeue.as_bytes(), true).with_context(context)?;
        Ok(true)
    }

    /// The first of `<name>.1.<extension>`, `<name>.2.<extension>`, … that is not taken.
    fn free_name(&self, name: &str, extension: &str) -> PathBuf {
        (1_u64..)
            .map(|n| self.path.join(format!("{name}.{n}.{extension}")))
            .find(|path| !path.exists())
            .expect("numbers do not end")
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
            fs::rename(&log, self.free_name("log", "ndjson")).with_context(context)?;
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
        // There was no room for it when the build began, or somebody has removed it meanwhile.
        private_directory(&self.path).with_context(|| self.path.display().to_string())?;
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

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path).and_then(|entry| entry.modified()).unwrap_or_else(|_| SystemTime::now())
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
#[path = "build_directory_tests.rs"]
mod tests;
