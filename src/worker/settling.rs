//! From an outcome to all that is kept and told of it, up to but without the ack.

use std::time::Duration;

use super::build_directory::BuildState;
use super::claims::Settled;
use super::delivery::{GaveUp, Handler};
use super::report::Report;
use super::reporting::Telling;
use crate::build::engine::BuildFailure;
use crate::event::deploy::DeployEvent;
use crate::event::result::ResultEvent;
use crate::pipeline::Outcome;
use crate::queue::{Delivery, QueueError};

/// The pause before an outcome that could not be kept (a full disk) is written again.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What an outcome asks for.
pub(super) enum Verdict {
    /// The last word: kept already, to be told.
    Tell(ResultEvent),
    /// Another attempt, after a while.
    Retry { reason: String },
    /// The dead letters, for this reason; then the last word.
    Bury { reason: String, result: ResultEvent },
}

impl Handler {
    /// What becomes of an event whose attempt ended like this.
    pub(super) fn judge(&self, report: &Report<'_>, outcome: &Outcome) -> Verdict {
        match outcome {
            Outcome::Infrastructure(reason) if report.attempt < self.max_attempts => {
                Verdict::Retry { reason: reason.clone() }
            }
            Outcome::Infrastructure(reason) => Verdict::Bury {
                reason: format!("gave up after {} attempts: {reason}", report.attempt),
                result: report.ended(outcome),
            },
            Outcome::Rejected(reason) => {
                Verdict::Bury { reason: reason.clone(), result: report.ended(outcome) }
            }
            Outcome::Published(_) | Outcome::Failed(_) | Outcome::Cancelled => {
                Verdict::Tell(report.ended(outcome))
            }
        }
    }

    /// Tells what came of an attempt and, where it is not kept yet, keeps it; up to but without the
    /// ack. What must not be lost comes before what would hide it: the dead letter before the outcome,
    /// and the copy for the retry queue last, since an abort before it gives back the original.
    pub(super) async fn settle(
        &self,
        delivery: &Delivery,
        report: &Report<'_>,
        verdict: Verdict,
        telling: Option<&Telling>,
    ) -> Result<Settled, GaveUp> {
        match verdict {
            Verdict::Tell(result) => {
                self.publish(&result).await?;
                count_result(&result);
            }
            Verdict::Bury { reason, result } => {
                self.dead_letter(delivery, &reason).await?;
                let result = self.keep(delivery, report.event, result).await?;
                tell(telling, &result).await;
                self.publish(&result).await?;
                count_result(&result);
            }
            Verdict::Retry { reason } => {
                let retrying = report.retrying(reason.clone());
                tell(telling, &retrying).await;
                self.publish(&retrying).await?;
                let next = report.attempt.saturating_add(1);
                let state = BuildState::new(report.attempt, BuildState::RETRYING);
                let directory = self.data.build(&report.event.id);
                let noted = tokio::task::spawn_blocking(move || directory.note(&state)).await;
                noted.unwrap_or_else(|error| tracing::error!(%error, "cannot note the build's state"));
                let copied = self.queue.publish_retry(delivery, next, &reason, &self.give_up).await;
                let delay = copied.map_err(|error| gave_up(&error))?;
                tracing::info!(attempt = next, delay_s = delay.as_secs(), "will be tried again");
                count("retrying", "infrastructure");
            }
        }
        Ok(Settled::Dealt)
    }

    /// Keeps the event's end, in the store for all workers and in the build directory, and answers with the one
    /// that stands: another worker may have come to its own first. Waits for room where there is none.
    pub(super) async fn keep(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        result: ResultEvent,
    ) -> Result<ResultEvent, GaveUp> {
        loop {
            // A store that hangs does not hold up the end of the process.
            let kept = self.abort.run_until_cancelled(self.try_keep(delivery, event, result.clone())).await;
            match kept.ok_or(GaveUp)? {
                Ok(kept) => {
                    if kept != result {
                        tracing::warn!(
                            state = %kept.state, worker = kept.worker,
                            "another worker has ended the event meanwhile; its end stands"
                        );
                    }
                    return Ok(kept);
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the outcome cannot be kept; trying again");
                }
            }
            if self.abort.run_until_cancelled(tokio::time::sleep(KEEP_AGAIN)).await.is_none() {
                return Err(GaveUp);
            }
        }
    }

    async fn try_keep(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        result: ResultEvent,
    ) -> anyhow::Result<ResultEvent> {
        // The store first: what stands in the build directory is sent as the end.
        let kept = self.ends.settle(event, delivery.requeue(), result).await?;
        let (directory, body, end) = (self.data.build(&event.id), delivery.body.clone(), kept.clone());
        tokio::task::spawn_blocking(move || directory.end(&body, &end)).await??;
        Ok(kept)
    }

    pub(super) async fn publish(&self, result: &ResultEvent) -> Result<(), GaveUp> {
        self.queue.publish_result(result, &self.give_up).await.map_err(|error| gave_up(&error))
    }

    pub(super) async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), GaveUp> {
        self.queue.dead_letter(delivery, reason, &self.give_up).await.map_err(|error| gave_up(&error))
    }
}

/// Tells the timeline service how an attempt ended, now or later: nothing waits for it.
pub(super) async fn tell(telling: Option<&Telling>, result: &ResultEvent) {
    if let Some(telling) = telling {
        telling.ended(result).await;
    }
}

pub(super) fn gave_up(error: &QueueError) -> GaveUp {
    tracing::warn!(%error, "stopped while the broker was away; the event will be delivered again");
    GaveUp
}

fn count_result(result: &ResultEvent) {
    count(result.state.as_str(), result.kind.map_or("none", |kind| kind.as_str()));
}

pub(super) fn count(outcome: &'static str, kind: &'static str) {
    metrics::counter!("buildgrid_builds_total", "outcome" => outcome, "kind" => kind).increment(1);
}

/// One line for the operator, whatever came of the build.
pub(super) fn log_outcome(outcome: &Outcome, event: &DeployEvent, elapsed: Duration) {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Published(image) => tracing::info!(
            image = %event.image(), digest = %image.digest, size = image.size, reused = image.reused, elapsed_ms,
            "image published"
        ),
        Outcome::Failed(failure) => {
            let BuildFailure { reason, step, location, advice, .. } = failure;
            tracing::info!(reason, step, location, advice, elapsed_ms, "build failed");
        }
        Outcome::Rejected(reason) => tracing::warn!(reason, "event rejected; it goes to the dead letters"),
        Outcome::Cancelled => tracing::info!(elapsed_ms, "build cancelled"),
        Outcome::Infrastructure(reason) => {
            tracing::warn!(reason, elapsed_ms, "infrastructure failed, not the build")
        }
    }
}
