//! Build directories, `<data_dir>/builds/<id>/`: what the worker knows of a build, through crashes.
//!
//! ```text
//! <data_dir>/                 0700
//!   lock                      held by the one process that uses the directory; its number stands in it
//!   paused                    while it is there, no event is taken (pause.rs)
//!   builds/<id>/
//!     event.json              the event, byte for byte
//!     state.json              the last attempt, how far it came, and what the engine knows it by
//!     log.ndjson              the log of this attempt; log.<n>.ndjson are those of earlier ones
//!     report.json             what is to be told of this attempt to the timeline service, where there is
//!                             one, and how much of it is (reporting/record.rs); report.<n>.json belongs
//!                             to log.<n>.ndjson
//!     outcome.json            the final result event, once there is one; outcome.<n>.json are those
//!                             before the event was requeued out of the dead letters
//!     requeued                the last requeue that was obeyed
//!     spool/                  what this attempt spools; gone with it
//!   mirrors/                  bare git mirrors (source)
//! ```
//!
//! The files are journal and spool in one: what the timeline service has not confirmed is read from
//! them, by the process that wrote it or by the next one.

use std::borrow::Cow;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::build::docker::EngineBuildId;
use crate::event::deploy::BuildId;
use crate::event::result::ResultEvent;
use crate::lock::{self, Holder, NotTaken};
use crate::store::digest::Digest;

const LOCK: &str = "lock";
/// How the name of a file ends that is being written; it begins with a dot.
const UNFINISHED: &str = ".new";

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
        let lock = lock::take(&root.join(LOCK)).map_err(|error| match error {
            NotTaken::Held(holder) => anyhow::anyhow!(
                "{} is in use by {holder}; give each worker a data_dir of its own, or use `buildgrid enqueue` where a worker runs",
                root.display()
            ),
            NotTaken::Failed(error) => anyhow::Error::from(error).context(directory()),
        })?;
        Ok(Self { root: root.to_owned(), _lock: lock })
    }

    /// The process that uses the directory at `root`, if one does. Blocking.
    pub fn user(root: &Path) -> anyhow::Result<Option<Holder>> {
        let path = root.join(LOCK);
        lock::holder(&path).with_context(|| format!("look whether {} is held", path.display()))
    }

    pub fn mirrors(&self) -> PathBuf {
        self.root.join("mirrors")
    }

    /// The directory of a build, whether it exists or not.
    pub fn build(&self, id: &BuildId) -> BuildDirectory {
        BuildDirectory { path: self.root.join("builds").join(id.as_str()) }
    }

    /// Removes what a crash left behind in the directory, and says what it left elsewhere. For the
    /// start, when nothing runs. Blocking.
    pub fn recover(&self) -> anyhow::Result<Left> {
        let mut left = Left::default();
        for directory in self.builds()? {
            if let Err(error) = directory.clear_unfinished() {
                tracing::warn!(path = %directory.path.display(), %error, "cannot remove what a crash has left half written");
            }
            if let Err(error) = directory.clear_spool() {
                tracing::warn!(path = %directory.path.display(), %error, "cannot remove the spool of an earlier attempt");
            }
            if let Err(error) = directory.finish_setting_aside() {
                tracing::warn!(path = %directory.path.display(), %error, "cannot set an earlier attempt's log aside");
            }
            if !directory.has_ended() {
                left.unfinished += 1;
                left.on_engine.extend(directory.state().and_then(|state| state.engine_build));
            }
        }
        Ok(left)
    }

    /// The directories of all builds. Blocking.
    pub fn builds(&self) -> anyhow::Result<Vec<BuildDirectory>> {
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
    /// What the engine knows the build by, from the moment on when it may have heard of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_build: Option<EngineBuildId>,
}

/// What the processes before this one have left unfinished.
#[derive(Debug, Default)]
pub struct Left {
    /// Builds without an outcome.
    pub unfinished: usize,
    /// What may still be on the engine: builds that run, and images that nobody will fetch.
    pub on_engine: Vec<EngineBuildId>,
}

impl BuildState {
    /// The attempt has ended, by no fault of the build, and another one is to follow.
    pub const RETRYING: &str = "retrying";

    pub fn new(attempt: u32, stage: &str) -> Self {
        Self { attempt, stage: stage.to_owned(), engine_build: None }
    }
}

impl BuildDirectory {
    /// The id of the build that it belongs to.
    pub fn id(&self) -> Cow<'_, str> {
        self.path.file_name().unwrap_or_default().to_string_lossy()
    }

    pub fn log_path(&self) -> PathBuf {
        self.path.join("log.ndjson")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
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
        let Some(outcome) = self.outcome()? else {
            let state = self.state();
            // Attempts are counted by id and not by message: an event that was published twice has
            // no more of them.
            let next_attempt = state.map_or(1, |state| match state.stage.as_str() {
                BuildState::RETRYING => state.attempt.saturating_add(1),
                _ => state.attempt,
            });
            return Ok(Known::Unfinished { next_attempt });
        };
        if let Some(requeue) = requeue.filter(|_| outcome.may_change())
            && self.reopen(requeue)?
        {
            return Ok(Known::Unfinished { next_attempt: 1 });
        }
        Ok(Known::Ended(Box::new(outcome)))
    }

    /// How far the last attempt came, as far as that was noted.
    fn state(&self) -> Option<BuildState> {
        let bytes = read_if_there(&self.path.join("state.json")).ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What was said of the build's end, if it has ended. Blocking.
    pub fn outcome(&self) -> anyhow::Result<Option<ResultEvent>> {
        let path = self.path.join("outcome.json");
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).with_context(|| format!("read {}", path.display()))
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
        let free = self.free_number(&["outcome.{}.json"]);
        fs::rename(self.path.join("outcome.json"), self.path.join(format!("outcome.{free}.json")))
            .with_context(context)?;
        self.write("requeued", requeue.as_bytes(), true).with_context(context)?;
        Ok(true)
    }

    /// The first number that none of the names has, in which it stands for `{}`.
    fn free_number(&self, names: &[&str]) -> u64 {
        let is_free =
            |n: &u64| names.iter().all(|name| !self.path.join(name.replace("{}", &n.to_string())).exists());
        (1_u64..).find(is_free).expect("numbers do not end")
    }

    /// Sets an earlier attempt's log and report aside, under one number.
    fn set_aside(&self) -> io::Result<()> {
        let free = self.free_number(&["log.{}.ndjson", "report.{}.json"]);
        let aside = |name: &str, aside: String| {
            ignore_missing(fs::rename(self.path.join(name), self.path.join(aside)))
        };
        // In this order, which `finish_setting_aside` knows.
        aside("report.json", format!("report.{free}.json"))?;
        aside("log.ndjson", format!("log.{free}.ndjson"))
    }

    /// Brings a log to its report after a crash between the two renames of `set_aside`.
    fn finish_setting_aside(&self) -> io::Result<()> {
        let log = self.log_path();
        if self.path.join("report.json").exists() || !log.exists() {
            return Ok(());
        }
        let aside = |n: u64| self.path.join(format!("log.{n}.ndjson"));
        let reported = |n: u64| self.path.join(format!("report.{n}.json")).exists();
        let mut numbers = (1_u64..).take_while(|&n| reported(n) || aside(n).exists());
        match numbers.find(|&n| !aside(n).exists()) {
            Some(n) => fs::rename(log, aside(n)),
            None => Ok(()),
        }
    }

    /// Keeps the event, once.
    fn keep_event(&self, event: &[u8]) -> anyhow::Result<()> {
        let context = || self.path.display().to_string();
        private_directory(&self.path).with_context(context)?;
        if !self.path.join("event.json").exists() {
            self.write("event.json", event, true).with_context(context)?;
            // The directory's own name must survive, too, or the outcome would be lost with it.
            self.path.parent().map_or(Ok(()), sync_directory).with_context(context)?;
        }
        Ok(())
    }

    /// Makes the directory ready for an attempt: keeps the event, sets an earlier attempt's log and
    /// report aside, and gives an empty spool. Blocking.
    pub fn begin(&self, event: &[u8], attempt: u32) -> anyhow::Result<PathBuf> {
        let context = || self.path.display().to_string();
        self.keep_event(event)?;
        self.set_aside().with_context(context)?;
        self.note(&BuildState::new(attempt, "claimed"));
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
    pub fn end(&self, event: &[u8], outcome: &ResultEvent) -> anyhow::Result<()> {
        // It has ended without a beginning, or somebody has removed the directory meanwhile.
        self.keep_event(event)?;
        let bytes = serde_json::to_vec(outcome).context("write the outcome")?;
        self.write("outcome.json", &bytes, true)
            .with_context(|| format!("write {}", self.path.join("outcome.json").display()))
    }

    /// Removes files that `write` had not given their names yet.
    fn clear_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            if name.starts_with(b".") && name.ends_with(UNFINISHED.as_bytes()) {
                ignore_missing(fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    pub fn clear_spool(&self) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(self.path.join("spool")))
    }

    pub fn has_ended(&self) -> bool {
        self.ended().is_some()
    }

    fn ended(&self) -> Option<SystemTime> {
        fs::metadata(self.path.join("outcome.json")).and_then(|file| file.modified()).ok()
    }

    /// How long nothing has happened in it, since its end if it has one.
    pub fn unchanged(&self) -> Duration {
        let since = self.ended().unwrap_or_else(|| modified(&self.path));
        since.elapsed().unwrap_or_default()
    }

    /// Removes it with all that is in it. Blocking.
    pub(super) fn remove(&self) -> io::Result<()> {
        ignore_missing(fs::remove_dir_all(&self.path))
    }

    /// Writes a file so that a reader sees the old or the new content, never a part; with
    /// `durably`, it is on disk under its name when this returns.
    pub(super) fn write(&self, name: &str, bytes: &[u8], durably: bool) -> io::Result<()> {
        let temporary = self.path.join(format!(".{name}{UNFINISHED}"));
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

pub(super) fn read_if_there(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
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
