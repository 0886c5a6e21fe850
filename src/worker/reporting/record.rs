//! `report.json`: what is to be told of one attempt, and how much of it the timeline service has.
//!
//! It is written before it is told, so that a process that is killed leaves to the next one what is to
//! be done. The log itself stands beside it, in `log.ndjson`.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::event::result::{ResultEvent, State};
use crate::timeline::entry::timestamp;
use crate::timeline::protocol::{AttemptId, AttemptState, CommitInfo, LogSum, StageTime};
use crate::worker::build_directory::{BuildDirectory, read_if_there};

/// One attempt, as it is to be told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub attempt: AttemptId,
    /// Counts the attempts at the event, from 1.
    pub number: u32,
    pub worker: String,
    pub requeue: Option<String>,
    /// Whether the service knows the attempt. Until then it is claimed late.
    pub claimed: bool,
    /// The stages, as they were entered.
    pub stages: Vec<StageTime>,
    /// How many of them the service has been told.
    pub told: usize,
    pub commit: Option<CommitInfo>,
    /// How it ended; none while it runs, and for ever where a crash cut it short.
    pub end: Option<End>,
    /// Nothing more is told, for this reason.
    pub closed: Option<Closed>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    pub state: AttemptState,
    #[serde(with = "timestamp")]
    pub at: OffsetDateTime,
    /// The result event; none for an attempt that was given back.
    pub result: Option<Box<ResultEvent>>,
}

/// Why nothing more is told of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "lowercase")]
pub enum Closed {
    /// The service has the end and the whole log, and the log's checksum is this.
    Confirmed { log: LogSum },
    /// The service has all that a crash has left of it.
    Sent,
    /// Another attempt has taken its place; the service takes nothing more of this one.
    Fenced,
    /// The service refuses it for good.
    Refused { reason: String },
}

impl End {
    pub fn of(result: ResultEvent) -> Self {
        let state = match result.state {
            State::Started | State::Retrying => AttemptState::Retrying,
            State::Published => AttemptState::Published,
            State::Failed => AttemptState::Failed,
            State::Rejected => AttemptState::Rejected,
            State::Cancelled => AttemptState::Cancelled,
        };
        let at = result.finished_at.unwrap_or_else(OffsetDateTime::now_utc);
        Self { state, at, result: Some(Box::new(result)) }
    }

    /// Given back to the queue.
    pub fn released() -> Self {
        Self { state: AttemptState::Released, at: OffsetDateTime::now_utc(), result: None }
    }
}

/// Where the record of an attempt and its log lie: those of the last attempt, or of one set aside.
#[derive(Debug, Clone)]
pub struct AttemptFiles {
    pub directory: BuildDirectory,
    number: Option<u64>,
}

impl AttemptFiles {
    /// Those of the directory's last attempt.
    pub fn last(directory: BuildDirectory) -> Self {
        Self { directory, number: None }
    }

    /// All that there are. Blocking.
    pub fn all(directory: &BuildDirectory) -> anyhow::Result<Vec<Self>> {
        let read = || format!("read {}", directory.path().display());
        let mut files = Vec::new();
        for entry in fs::read_dir(directory.path()).with_context(read)? {
            let name = entry.with_context(read)?.file_name().to_string_lossy().into_owned();
            let number = match name.strip_prefix("report.").and_then(|rest| rest.strip_suffix("json")) {
                Some("") => None,
                Some(number) => match number.trim_end_matches('.').parse() {
                    Ok(number) => Some(number),
                    Err(_) => continue,
                },
                None => continue,
            };
            files.push(Self { directory: directory.clone(), number });
        }
        Ok(files)
    }

    pub fn log(&self) -> PathBuf {
        match self.number {
            None => self.directory.log_path(),
            Some(number) => self.directory.path().join(format!("log.{number}.ndjson")),
        }
    }

    fn report(&self) -> String {
        match self.number {
            None => "report.json".to_owned(),
            Some(number) => format!("report.{number}.json"),
        }
    }

    /// The record, if there is one. An attempt that has ended without saying so, since the process was
    /// killed in between, has the build's outcome for its end. Blocking.
    pub fn read(&self) -> anyhow::Result<Option<Record>> {
        let path = self.directory.path().join(self.report());
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let mut record: Record =
            serde_json::from_slice(&bytes).with_context(|| format!("read {}", path.display()))?;
        if record.end.is_none() && self.number.is_none() {
            let of_it =
                |result: &ResultEvent| result.attempt == record.number && result.worker == record.worker;
            record.end = self.directory.outcome()?.filter(of_it).map(End::of);
        }
        Ok(Some(record))
    }
}

/// Whether something in the directory is still to be told. Blocking.
pub fn is_unconfirmed(directory: &BuildDirectory) -> bool {
    let open = |files: AttemptFiles| matches!(files.read(), Ok(Some(Record { closed: None, .. })));
    AttemptFiles::all(directory).is_ok_and(|all| all.into_iter().any(open))
}

/// Whether the service has all that is in the directory: the end and the log of every attempt. Blocking.
pub fn is_confirmed(directory: &BuildDirectory) -> bool {
    let has_it = |files: &AttemptFiles| {
        let closed = files.read().ok().flatten().and_then(|record| record.closed);
        matches!(closed, Some(Closed::Confirmed { .. } | Closed::Sent))
    };
    AttemptFiles::all(directory)
        .is_ok_and(|all| all.iter().any(|files| files.number.is_none()) && all.iter().all(has_it))
}

/// A record in memory and on disk, changed by the one who builds and the one who tells.
pub struct Journal {
    pub files: AttemptFiles,
    record: watch::Sender<Record>,
    /// Whether the file may be written: it may until it gets another name.
    writing: Mutex<bool>,
}

impl Journal {
    /// Nothing is written before the first change.
    pub fn new(files: AttemptFiles, record: Record) -> Arc<Self> {
        Arc::new(Self { files, record: watch::Sender::new(record), writing: Mutex::new(true) })
    }

    pub fn record(&self) -> Record {
        self.record.borrow().clone()
    }

    /// Told of every change.
    pub fn watch(&self) -> watch::Receiver<Record> {
        self.record.subscribe()
    }

    /// Changes the record in memory; the next [`change`](Self::change) writes it.
    pub fn remember(&self, change: impl FnOnce(&mut Record)) {
        self.record.send_modify(change);
    }

    /// Changes the record and writes it. One that cannot be written is told with what is in memory.
    pub async fn change(self: &Arc<Self>, durably: bool, change: impl FnOnce(&mut Record) + Send + 'static) {
        let journal = self.clone();
        let written = tokio::task::spawn_blocking(move || journal.write(durably, change)).await;
        if let Err(error) = written.map_err(anyhow::Error::from).flatten() {
            let path = self.files.directory.path().display();
            tracing::warn!(error = format!("{error:#}"), %path, "cannot keep what is to be told of the attempt");
        }
    }

    /// Leaves the file as it is from now on: a change that was under way, or comes later, is not written.
    /// Blocking.
    pub fn retire(&self) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    fn write(&self, durably: bool, change: impl FnOnce(&mut Record)) -> anyhow::Result<()> {
        // Written in the order of the changes; a panic in between leaves the older file whole.
        let may_write = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.record.send_modify(change);
        if !*may_write {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&*self.record.borrow())?;
        self.files.directory.write(&self.files.report(), &bytes, durably)?;
        Ok(())
    }
}
