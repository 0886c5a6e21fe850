//! What an attempt that runs says of itself, for its reporter to tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::interrupt::{Cause, Interrupt};
use super::record::{AttemptFiles, End, Journal, Record};
use super::reporter::Writer;
use super::reporting::Reporting;
use super::spool::SpoolShare;
use crate::event::deploy::BuildId;
use crate::event::result::ResultEvent;
use crate::pipeline::Stage;
use crate::timeline::protocol::{AttemptState, CommitInfo, StageTime};
use crate::worker::build_directory::BuildDirectory;

/// The running attempt's side. Dropping it without an end leaves the end unknown.
pub struct Telling {
    reporting: Arc<Reporting>,
    id: BuildId,
    journal: Arc<Journal>,
    interrupt: Interrupt,
    /// Whether it has files of its own.
    begun: AtomicBool,
    gone: CancellationToken,
    _gone: DropGuard,
}

impl Telling {
    pub(super) fn new(
        reporting: Arc<Reporting>,
        id: BuildId,
        directory: BuildDirectory,
        record: Record,
        token: CancellationToken,
    ) -> Self {
        let gone = CancellationToken::new();
        Self {
            reporting,
            id,
            journal: Journal::new(AttemptFiles::last(directory), record),
            interrupt: Interrupt::new(token),
            begun: AtomicBool::new(false),
            _gone: gone.clone().drop_guard(),
            gone,
        }
    }

    /// Ends what is being told of earlier attempts, whose files are about to get other names.
    pub async fn make_room(&self) {
        self.reporting.pause(&self.id).await;
    }

    /// What its log may take while the service does not have it.
    pub fn spool(&self) -> SpoolShare {
        self.reporting.spool.share(self.journal.record().attempt)
    }

    /// Begins to tell of the attempt, whose log grows to `length`, and goes on with earlier ones.
    pub async fn begin(&self, length: watch::Receiver<u64>) {
        // Before this attempt has files of its own, which are not to be taken for an earlier one's.
        self.reporting.resume(&self.journal.files.directory).await;
        self.begun.store(true, Ordering::Relaxed);
        self.journal.change(false, |_| ()).await;
        let writer = Writer { length, gone: self.gone.clone() };
        self.reporting.follow(self.id.clone(), self.journal.clone(), writer, self.interrupt.clone());
    }

    pub fn entered(&self, stage: Stage) -> impl Future<Output = ()> + Send + use<> {
        let state = match stage {
            Stage::Fetching => AttemptState::Fetching,
            Stage::Building => AttemptState::Building,
            Stage::Publishing => AttemptState::Publishing,
        };
        let entered = StageTime { state, at: OffsetDateTime::now_utc() };
        let journal = self.journal.clone();
        async move { journal.change(false, |record| record.stages.push(entered)).await }
    }

    /// Keeps what the commit says of itself, for the next stage's report.
    pub fn fetched(&self, commit: CommitInfo) {
        self.journal.remember(|record| record.commit = Some(commit));
    }

    /// Tells how it ended. The first end stands.
    pub async fn ended(&self, result: &ResultEvent) {
        self.end(End::of(result.clone())).await;
    }

    /// Tells that it was given back to the queue, unless it has ended.
    pub async fn released(&self) {
        self.end(End::released()).await;
    }

    /// An attempt that could not begin has nothing to tell; the service learns it from the next one, or
    /// from its lease.
    async fn end(&self, end: End) {
        if !self.begun.load(Ordering::Relaxed) {
            return self.reporting.resume(&self.journal.files.directory).await;
        }
        self.journal.change(true, |record| _ = record.end.get_or_insert(end)).await;
    }

    /// Why the service has stopped the attempt, if it has.
    pub fn cause(&self) -> Option<Cause> {
        self.interrupt.cause()
    }
}
