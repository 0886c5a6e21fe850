//! The question before an attempt: does another worker build it, or has it ended there? A timeline
//! service that does not answer delays no build: building twice is harmless, not building is not.

use std::sync::Arc;
use std::time::Duration;

use super::record::{AttemptFiles, Record};
use super::reporting::Reporting;
use crate::event::deploy::DeployEvent;
use crate::event::result::ResultEvent;
use crate::timeline::client::CallError;
use crate::timeline::protocol::{AttemptId, Claim, ClaimAnswer};
use crate::worker::build_directory::BuildDirectory;

/// How long a claim waits for its answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a claim waits until an earlier attempt's log is sent, since it fences that attempt.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The answer to a claim.
pub enum Permission {
    /// Build it, as the attempt of this record.
    Go(Box<Record>),
    /// Not now, for this reason.
    Wait(String),
    /// It has ended; this was its result.
    Done(Box<ResultEvent>),
    /// It is not to be built any more, for this reason, if it is not that somebody asked for its end.
    Cancelled(Option<String>),
    /// The id belongs to another event.
    Conflict,
}

/// What is claimed, beside the event.
pub struct Wish<'a> {
    pub event: &'a DeployEvent,
    /// The event's bytes.
    pub body: &'a [u8],
    pub worker: &'a str,
    /// Counts the attempts at the event, from 1.
    pub number: u32,
    pub requeue: Option<&'a str>,
    pub directory: &'a BuildDirectory,
}

impl Reporting {
    /// Asks for permission; answers within a few seconds, and at once while the service is away.
    pub async fn claim(self: &Arc<Self>, wish: &Wish<'_>) -> Permission {
        let mut record = Record::of(wish);
        if self.presence.is_away() {
            return Permission::Go(Box::new(record));
        }
        let id = &wish.event.id;
        let _ = tokio::time::timeout(CATCH_UP, self.caught_up(id)).await;
        let claim = Claim {
            event: String::from_utf8_lossy(wish.body).into_owned(),
            worker: record.worker.clone(),
            attempt: record.attempt,
            number: record.number,
            requeue: record.requeue.clone(),
            replaces: earlier_attempt(wish.directory).await,
            late: false,
        };
        let called = tokio::time::timeout(ANSWER, self.client.claim(id, &claim)).await;
        let called = called.unwrap_or_else(|_| {
            let reason = format!("a claim was not answered within {} s", ANSWER.as_secs());
            Err(CallError::Unreachable { address: self.client.address().to_owned(), reason })
        });
        self.presence.note(&called);
        match called {
            Ok(ClaimAnswer::Go { .. }) => {
                record.claimed = true;
                Permission::Go(Box::new(record))
            }
            Ok(ClaimAnswer::Wait { reason }) => Permission::Wait(reason),
            Ok(ClaimAnswer::Done { result }) => Permission::Done(result),
            Ok(ClaimAnswer::Cancelled { reason }) => Permission::Cancelled(reason),
            Ok(ClaimAnswer::Conflict) => Permission::Conflict,
            Err(error) => {
                if !error.is_transient() {
                    tracing::error!(%error, "the claim is refused; building all the same");
                }
                Permission::Go(Box::new(record))
            }
        }
    }
}

impl Record {
    /// Of an attempt that the service has not been asked about.
    pub fn of(wish: &Wish<'_>) -> Self {
        Self {
            attempt: AttemptId::generate(),
            number: wish.number,
            worker: wish.worker.to_owned(),
            requeue: wish.requeue.map(ToOwned::to_owned),
            claimed: false,
            stages: Vec::new(),
            told: 0,
            commit: None,
            end: None,
            closed: None,
        }
    }
}

/// The last attempt of this data directory. Its process has ended, or this one would not have the
/// directory, and this process runs no id twice.
async fn earlier_attempt(directory: &BuildDirectory) -> Option<AttemptId> {
    let files = AttemptFiles::last(directory.clone());
    let read = tokio::task::spawn_blocking(move || files.read()).await.map_err(anyhow::Error::from);
    match read.flatten() {
        Ok(record) => record.map(|record| record.attempt),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "cannot read what was told of the earlier attempt");
            None
        }
    }
}
