//! Tells the timeline service of one attempt: the claim if it was missed, the stages, the log, the end.
//!
//! Every step is decided by what the record and the log file say and what the service has, so that the
//! same code serves an attempt that runs, one that was told half, and one that a crash has left. A step
//! whose answer was lost is done again: the service takes each line and each state once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::interrupt::{Cause, Interrupt};
use super::log_file::{BATCH, Batch, LogFile};
use super::presence::Presence;
use super::record::{Closed, Journal, Record};
use super::spool::Spool;
use super::steps::on_disk;
use crate::event::deploy::BuildId;
use crate::timeline::client::{CallError, Lines, TimelineClient};
use crate::timeline::protocol::{ProblemCode, RENEW};

/// How long the first unsent line waits for others.
const COLLECT: Duration = Duration::from_millis(100);
/// The pauses after calls in vain: from the first to the longest, each up to twice as long by jitter. A cancel
/// is heard of within seconds of the service's return.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_AT_MOST: Duration = Duration::from_secs(3);
/// The longest pause that the service may ask for: half a lease.
const ASKED_AT_MOST: Duration = Duration::from_secs(15);

/// Who writes the attempt that is told.
pub struct Writer {
    /// The length of the log, in bytes; closed once the log is whole.
    pub length: watch::Receiver<u64>,
    /// Cancelled when the attempt is over, whether it has said how it ended or not.
    pub gone: CancellationToken,
}

impl Writer {
    /// Of an attempt that an earlier process has made.
    pub fn of_the_past() -> Self {
        let gone = CancellationToken::new();
        gone.cancel();
        Self { length: watch::channel(0).1, gone }
    }
}

/// How far a reporter is, for the metrics: when the oldest line was written that the service lacks.
pub type Oldest = Arc<Mutex<Option<OffsetDateTime>>>;

pub struct Reporter {
    pub id: BuildId,
    pub client: TimelineClient,
    pub presence: Arc<Presence>,
    pub spool: Arc<Spool>,
    pub journal: Arc<Journal>,
    pub writer: Writer,
    pub interrupt: Interrupt,
    pub oldest: Oldest,
    /// Cancelled when the process ends: what cannot be told at once is left to the next one.
    pub finish: CancellationToken,
}

/// Where a reporter stands in the log.
pub(super) struct Position {
    pub log: LogFile,
    /// Read, and not known to be stored.
    pub pending: Option<Batch>,
    /// When the service last heard of the attempt.
    pub said: Instant,
}

impl Position {
    /// The seq of the first line that is not known to be stored.
    pub(super) fn unsent(&self) -> u64 {
        self.pending.as_ref().map_or(self.log.seq(), |batch| batch.first)
    }
}

pub(super) enum Step {
    /// There may be more to tell.
    Next,
    /// The service knows the attempt now; nothing of it is told yet.
    Claimed,
    /// All is told until something changes.
    Idle,
    Closed(Closed),
}

pub(super) enum Trouble {
    Call(CallError),
    /// The service cannot take it now.
    Later(String),
    Disk(anyhow::Error),
}

/// What becomes of a trouble.
enum Resolved {
    /// The next step does what was missed; the pause before it is for one that mends nothing.
    Mended,
    /// After this time at least, the same again.
    Later(Duration),
    Closed(Closed),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Disk(error)
    }
}

impl Reporter {
    /// Tells all there is. Ends when nothing more is to be told, or the process ends. Dropping it loses
    /// nothing.
    pub async fn run(self) {
        let log = LogFile::new(self.journal.files.log());
        let mut at = Position { log, pending: None, said: Instant::now() };
        let mut record = self.journal.watch();
        let mut waits = backoff();
        loop {
            // Before it is read: what comes meanwhile is a change.
            record.mark_unchanged();
            let trouble = match self.step(&mut at).await {
                Ok(Step::Closed(closed)) => return self.close(closed).await,
                Ok(Step::Next) => {
                    waits = backoff();
                    continue;
                }
                // A service that forgets it again at once is not to be asked without a pause.
                Ok(Step::Claimed) => continue,
                // Nothing will come any more, and nothing has come during the step.
                Ok(Step::Idle) if self.finish.is_cancelled() && !record.has_changed().unwrap_or(false) => {
                    return;
                }
                Ok(Step::Idle) => {
                    waits = backoff();
                    self.idle(&at, &mut record).await;
                    continue;
                }
                Err(trouble) => trouble,
            };
            let wait = waits.next().unwrap_or(AGAIN_AT_MOST);
            match self.resolve(trouble, &mut at).await {
                Resolved::Mended => tokio::time::sleep(wait).await,
                Resolved::Later(asked) => {
                    let wait = wait.max(asked.min(ASKED_AT_MOST));
                    if self.finish.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                        return;
                    }
                }
                Resolved::Closed(closed) => return self.close(closed).await,
            }
        }
    }

    /// Does the one thing that comes next.
    async fn step(&self, at: &mut Position) -> Result<Step, Trouble> {
        // In this order: after the end, and after its writer, the log grows no more.
        let is_over = self.writer.gone.is_cancelled();
        let record = self.journal.record();
        if at.pending.is_none() {
            at.pending = on_disk(&mut at.log, LogFile::next).await?;
        }
        self.note_oldest(at.pending.as_ref().map(|batch| batch.since));
        if !record.claimed {
            return self.claim(&record, at).await;
        }
        if let Some(stage) = record.stages.get(record.told) {
            return self.tell_stage(&record, stage, at).await;
        }
        if let Some(batch) = &at.pending {
            let (first, is_full) = (batch.first, batch.is_full);
            let progress = self.append(&record, batch.lines.clone(), at).await?;
            self.go_to(progress.next_seq, at).await?;
            if at.unsent() == first {
                return Err(Trouble::Later("it took none of the lines".to_owned()));
            }
            // Lines that come one by one are collected; those that are there already are not waited for.
            let at_once = is_full || is_over || record.end.is_some() || self.finish.is_cancelled();
            return Ok(if at_once { Step::Next } else { Step::Idle });
        }
        if let Some(end) = &record.end {
            return self.tell_end(&record, end, at).await;
        }
        if is_over {
            return Ok(Step::Closed(Closed::Sent));
        }
        if at.said.elapsed() >= RENEW {
            let nothing = Lines::compress(b"")?;
            self.append(&record, nothing, at).await?;
        }
        Ok(Step::Idle)
    }

    /// What a step in vain means.
    async fn resolve(&self, trouble: Trouble, at: &mut Position) -> Resolved {
        let error = match trouble {
            Trouble::Call(error) if error.is_transient() => {
                return Resolved::Later(error.retry_after().unwrap_or_default());
            }
            Trouble::Call(error) => error,
            Trouble::Later(reason) => {
                tracing::debug!(reason, "the timeline service takes nothing of the attempt yet");
                return Resolved::Later(Duration::ZERO);
            }
            Trouble::Disk(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "what is to be told cannot be read; trying again"
                );
                return Resolved::Later(AGAIN_AT_MOST);
            }
        };
        match (error.code(), error.problem().and_then(|problem| problem.next_seq)) {
            (Some(ProblemCode::Fenced), _) => {
                self.interrupt(Cause::Fenced);
                Resolved::Closed(Closed::Fenced)
            }
            (Some(ProblemCode::UnknownAttempt), _) => {
                tracing::info!(
                    "the timeline service does not know the attempt; it is told from its beginning"
                );
                self.journal.change(false, |record| (record.claimed, record.told) = (false, 0)).await;
                Resolved::Mended
            }
            (Some(ProblemCode::Gap | ProblemCode::Incomplete), Some(next)) => {
                at.pending = None;
                match on_disk(&mut at.log, move |log| log.seek(next)).await {
                    Ok(()) => Resolved::Mended,
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "the log cannot be read; trying again");
                        Resolved::Later(AGAIN_AT_MOST)
                    }
                }
            }
            _ => Resolved::Closed(Closed::Refused { reason: error.to_string() }),
        }
    }

    /// Waits for something to tell, for the time to renew the lease, or for the process to end.
    async fn idle(&self, at: &Position, record: &mut watch::Receiver<Record>) {
        let (mut length, sent) = (self.writer.length.clone(), at.log.offset());
        let wake = async {
            tokio::select! {
                () = self.writer.gone.cancelled() => return,
                _ = record.changed() => return,
                () = tokio::time::sleep_until(at.said + RENEW) => return,
                Ok(_) = length.wait_for(|&length| length > sent) => {}
            }
            tokio::select! {
                () = self.writer.gone.cancelled() => {}
                _ = record.changed() => {}
                () = tokio::time::sleep(COLLECT) => {}
                Ok(_) = length.wait_for(|&length| length >= sent + BATCH as u64) => {}
            }
        };
        self.finish.run_until_cancelled(wake).await;
    }

    /// Notes when the oldest line was written that the service lacks.
    fn note_oldest(&self, since: Option<OffsetDateTime>) {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    async fn close(&self, closed: Closed) {
        self.note_oldest(None);
        self.spool.forget(self.journal.record().attempt);
        match &closed {
            Closed::Confirmed { log } => {
                tracing::debug!(lines = log.count, "the timeline service has the whole log")
            }
            Closed::Sent => {
                tracing::debug!("the timeline service has what an earlier process has left of the log")
            }
            Closed::Fenced => {
                tracing::info!("the timeline service takes no more of an attempt that another one replaces")
            }
            Closed::Refused { reason } => tracing::error!(
                reason,
                "the timeline service refuses what is told of the attempt; its log stays in the build directory"
            ),
        }
        self.journal.change(true, |record| record.closed = Some(closed)).await;
    }
}

fn backoff() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(AGAIN)
        .with_max_delay(AGAIN_AT_MOST)
        .with_jitter()
        .without_max_times()
        .build()
}
