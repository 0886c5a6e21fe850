//! The single steps of a reporter, each a call to the timeline service and what its answer changes.

use std::io;

use anyhow::Context;
use time::OffsetDateTime;
use tokio::time::Instant;

use super::interrupt::Cause;
use super::log_file::LogFile;
use super::record::{Closed, End, Record};
use super::reporter::{Position, Reporter, Step, Trouble};
use crate::timeline::client::{CallError, Lines};
use crate::timeline::protocol::{
    AttemptState, Claim, ClaimAnswer, ProblemCode, Progress, StageTime, StateReport,
};
use crate::worker::build_directory::read_if_there;

impl Reporter {
    /// Claims an attempt that has begun without an answer, or that the service has lost.
    pub(super) async fn claim(&self, record: &Record, at: &mut Position) -> Result<Step, Trouble> {
        let event = self.journal.files.directory.path().join("event.json");
        let event = tokio::task::spawn_blocking(move || read_if_there(&event));
        let Some(event) = event.await.context("read the event")?? else {
            let reason = "its event.json is gone".to_owned();
            return Ok(Step::Closed(Closed::Refused { reason }));
        };
        let claim = Claim {
            event: String::from_utf8_lossy(&event).into_owned(),
            worker: record.worker.clone(),
            attempt: record.attempt,
            number: record.number,
            requeue: record.requeue.clone(),
            // Whatever this process has not told yet of an earlier attempt is to be taken as well.
            replaces: None,
            late: true,
        };
        let refused = match self.call(at, self.client.claim(&self.id, &claim)).await? {
            ClaimAnswer::Go { next_seq } => {
                self.journal.change(false, |record| record.claimed = true).await;
                self.go_to(next_seq, at).await?;
                return Ok(Step::Claimed);
            }
            ClaimAnswer::Wait { reason } => return Err(Trouble::Later(reason)),
            ClaimAnswer::Done { .. } => "the build has ended with another attempt",
            ClaimAnswer::Cancelled { .. } => {
                self.interrupt(Cause::Cancelled);
                "the build was cancelled before the service heard of the attempt"
            }
            ClaimAnswer::Conflict => "the id belongs to another event there",
        };
        Ok(Step::Closed(Closed::Refused { reason: refused.to_owned() }))
    }

    pub(super) async fn tell_stage(
        &self,
        record: &Record,
        stage: &StageTime,
        at: &mut Position,
    ) -> Result<Step, Trouble> {
        let told = self.report(record, stage.state, stage.at, at, |report| report).await;
        match told {
            Err(error) if error.is_transient() || error.code().is_some() => return Err(error.into()),
            // The log and the end are worth more than one stage's time.
            Err(error) => tracing::warn!(%error, stage = stage.state.as_str(), "a stage cannot be told"),
            Ok(progress) => self.go_to(progress.next_seq, at).await?,
        }
        self.journal.change(false, |record| record.told += 1).await;
        Ok(Step::Next)
    }

    pub(super) async fn tell_end(
        &self,
        record: &Record,
        end: &End,
        at: &mut Position,
    ) -> Result<Step, Trouble> {
        let log = at.log.sum();
        let with_end = |report| StateReport { result: end.result.clone(), log: Some(log), ..report };
        match self.report(record, end.state, end.at, at, with_end).await {
            Ok(_) => Ok(Step::Closed(Closed::Confirmed { log })),
            Err(error) => {
                let lacks_nothing =
                    error.problem().is_some_and(|problem| problem.next_seq >= Some(log.count));
                match error.code() {
                    Some(ProblemCode::Gap | ProblemCode::Incomplete) if lacks_nothing => {
                        Ok(Step::Closed(Closed::Refused { reason: error.to_string() }))
                    }
                    _ => Err(error.into()),
                }
            }
        }
    }

    async fn report(
        &self,
        record: &Record,
        state: AttemptState,
        entered: OffsetDateTime,
        at: &mut Position,
        add: impl FnOnce(StateReport) -> StateReport,
    ) -> Result<Progress, CallError> {
        let commit = record.commit.clone();
        let report = add(StateReport { state, at: entered, commit, result: None, log: None });
        let progress = self.call(at, self.client.report(&self.id, record.attempt, &report)).await?;
        self.obey(progress);
        Ok(progress)
    }

    pub(super) async fn append(
        &self,
        record: &Record,
        lines: Lines,
        at: &mut Position,
    ) -> Result<Progress, CallError> {
        let progress = self.call(at, self.client.append(&self.id, record.attempt, lines)).await?;
        self.obey(progress);
        Ok(progress)
    }

    async fn call<T>(
        &self,
        at: &mut Position,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let called = call.await;
        self.presence.note(&called);
        if called.is_ok() {
            at.said = Instant::now();
        }
        called
    }

    fn obey(&self, progress: Progress) {
        if progress.cancel {
            self.interrupt(Cause::Cancelled);
        }
    }

    /// Stops the attempt, if it still runs.
    pub(super) fn interrupt(&self, cause: Cause) {
        let runs = !self.writer.gone.is_cancelled() && self.journal.record().end.is_none();
        if runs && self.interrupt.stop(cause) {
            match cause {
                Cause::Cancelled => tracing::info!("the build is cancelled"),
                Cause::Fenced => tracing::warn!("another worker has taken over the build; giving it back"),
            }
        }
    }

    /// Goes on where the service wants: all before `stored` is there.
    pub(super) async fn go_to(&self, stored: u64, at: &mut Position) -> Result<(), Trouble> {
        if at.unsent() != stored {
            at.pending = None;
            if at.log.seq() != stored {
                on_disk(&mut at.log, move |log| log.seek(stored)).await?;
            }
        }
        if at.pending.is_none() {
            self.spool.confirmed(self.journal.record().attempt, at.log.offset());
        }
        Ok(())
    }
}

/// Reads the log on a blocking thread.
pub(super) async fn on_disk<T: Send + 'static>(
    log: &mut LogFile,
    read: impl FnOnce(&mut LogFile) -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let mut taken = log.take();
    let (returned, read) = tokio::task::spawn_blocking(move || {
        let read = read(&mut taken);
        (taken, read)
    })
    .await
    .context("read the log")?;
    *log = returned;
    read.context("read the log")
}
