//! From a delivery to its ack: claim, attempt, settle. What happens to a delivery is decided here
//! and, where another worker may have the build, in `arbitration`; what is kept and told of its end, in `settling`.
//!
//! Everything is written before it is acked: the outcome into the build directory, the result event
//! (or the copy for a retry queue or the dead letters) to the broker and confirmed, and only then the
//! ack. A crash in between repeats a step, and consumers tell repeats by id, attempt and state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt::{Attempt, Place};
use super::board::Board;
use super::build_directory::DataDirectory;
use super::claims::{Claim, Claims, Running, Settled, attached};
use super::ends::{Ends, Found};
use super::report::Report;
use super::reporting::{Cause, Reporting, Telling};
use super::settling::{Verdict, count, log_outcome, tell};
use crate::event::deploy::{DeployEvent, Rejected};
use crate::event::result::ResultEvent;
use crate::pipeline::{Outcome, Pipeline};
use crate::queue::{Ack, Delivery, Queue};

/// Ignored fields that are named in the log; an event may have thousands.
const NAMED_FIELDS: usize = 20;

/// What handles deliveries; shared by all slots. After a reload there is a new one, for the deliveries that
/// come from then on.
#[derive(Clone)]
pub struct Handler {
    pub place: Place,
    pub max_attempts: u32,
    pub queue: Queue,
    pub data: Arc<DataDirectory>,
    pub claims: Claims,
    /// How events ended, as the other workers know it.
    pub ends: Ends,
    /// The line to the timeline service, if there is one.
    pub reporting: Option<Arc<Reporting>>,
    pub pipeline: Pipeline,
    pub board: Board,
    /// Cancelled when running builds are to be given back to the queue.
    pub abort: CancellationToken,
    /// Cancelled when nothing more is to be told to a broker that is away; after `abort` at the latest.
    pub give_up: CancellationToken,
}

/// The broker was away until the worker was told to stop: nothing was acked.
pub(super) struct GaveUp;

/// What comes next for a delivery.
enum Next {
    Settle(Settled),
    /// Wait for the end of the build that runs already.
    Attach(watch::Receiver<Option<Settled>>),
}

/// A delivery of a build that runs in this process already: it is settled as that build's own is.
pub struct Attached {
    delivery: Delivery,
    settled: watch::Receiver<Option<Settled>>,
}

impl Attached {
    /// Waits for the build's end, for as long as the delivery can be settled: one whose channel is gone comes again,
    /// and that one waits in its place.
    pub async fn settle(self) {
        let Self { delivery, settled } = self;
        let settled = tokio::select! {
            settled = attached(settled) => settled,
            () = delivery.lost() => return,
        };
        settle(delivery, settled).await;
    }
}

impl Handler {
    /// Deals with one delivery to its end, unless it is one of a build that runs already: that one's end
    /// need not be waited for in a slot.
    pub async fn handle(&self, delivery: Delivery) -> Option<Attached> {
        let next = match DeployEvent::parse(&delivery.body) {
            Err(rejected) => self.refuse(&delivery, rejected).await.map(Next::Settle),
            Ok((event, ignored)) => {
                let span = tracing::info_span!(
                    "build",
                    build_id = %event.id,
                    namespace = %event.namespace,
                    app = %event.app,
                    repo = %event.repository,
                    commit = %event.commit,
                );
                // Boxed: the whole way of a build is a large future, and this is its root.
                Box::pin(self.deal(&delivery, &event, ignored)).instrument(span).await
            }
        };
        match next {
            Ok(Next::Attach(settled)) => return Some(Attached { delivery, settled }),
            Ok(Next::Settle(settled)) => settle(delivery, settled).await,
            Err(GaveUp) => settle(delivery, Settled::GivenUp).await,
        }
        None
    }

    /// An event that cannot be read: kept with the reason, and told to its sender if one is named.
    async fn refuse(&self, delivery: &Delivery, rejected: Rejected) -> Result<Settled, GaveUp> {
        let identity = rejected.identity;
        tracing::warn!(
            reason = %rejected.reason,
            build_id = identity.as_ref().map(|identity| identity.id.as_str()),
            bytes = delivery.body.len(),
            "event rejected; it goes to the dead letters"
        );
        self.dead_letter(delivery, &rejected.reason).await?;
        // Under an id that is another event's, a result would read as that one's end.
        if let Some(identity) = identity.filter(|identity| !self.claims.knows(&identity.id)) {
            let result =
                ResultEvent::rejected(*identity, delivery.attempt, &rejected.reason, &self.place.worker);
            self.publish(&result).await?;
        }
        count("rejected", "event");
        Ok(Settled::Dealt)
    }

    async fn deal(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        ignored: Vec<String>,
    ) -> Result<Next, GaveUp> {
        if !ignored.is_empty() {
            let (count, first) = (ignored.len(), &ignored[..ignored.len().min(NAMED_FIELDS)]);
            tracing::info!(
                count,
                fields = first.join(", "),
                "the event has fields that this version does not know; ignored"
            );
        }
        let settled = match self.claims.claim(event, delivery.attempt, delivery.requeue()).await {
            Ok(Claim::Go { running, attempt }) => {
                Box::pin(self.arbitrate(delivery, event, running, attempt)).await
            }
            Ok(Claim::Attach(settled)) => {
                tracing::info!("delivered again while it is being built; waiting for that build's end");
                return Ok(Next::Attach(settled));
            }
            Ok(Claim::Done(result)) => {
                tracing::info!(state = %result.state, "delivered again after its end; the result is sent again");
                self.publish(&result).await.map(|()| Settled::Dealt)
            }
            Ok(Claim::Conflict) => self.conflict(delivery, event).await,
            Err(error) => {
                let outcome =
                    Outcome::Infrastructure(format!("the build directory cannot be read: {error:#}"));
                log_outcome(&outcome, event, Duration::ZERO);
                let report = self.report(event, delivery.attempt, OffsetDateTime::now_utc());
                let verdict = self.judge(&report, &outcome);
                self.settle(delivery, &report, verdict, None).await
            }
        };
        settled.map(Next::Settle)
    }

    /// No result event: the id is the first event's, whose results must stand.
    pub(super) async fn conflict(&self, delivery: &Delivery, event: &DeployEvent) -> Result<Settled, GaveUp> {
        let reason = format!("the id {} belongs to another event, with another body", event.id);
        tracing::warn!(reason, "event rejected; it goes to the dead letters");
        self.dead_letter(delivery, &reason).await?;
        count("rejected", "event");
        Ok(Settled::Dealt)
    }

    /// Makes one attempt and settles it.
    pub(super) async fn run(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        running: Running,
        number: u32,
        cancel: CancellationToken,
        telling: Option<&Telling>,
    ) -> Result<Settled, GaveUp> {
        let settled = Box::pin(self.attempt(delivery, event, number, &cancel, telling)).await;
        if settled.is_err()
            && let Some(telling) = telling
        {
            telling.released().await;
        }
        // Only now: what comes next of this id finds everything written.
        running.settle(*settled.as_ref().unwrap_or(&Settled::GivenUp));
        settled
    }

    async fn attempt(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        number: u32,
        cancel: &CancellationToken,
        telling: Option<&Telling>,
    ) -> Result<Settled, GaveUp> {
        let (started, started_at) = (Instant::now(), OffsetDateTime::now_utc());
        let report = self.report(event, number, started_at);
        let on_board = self.board.attempt(&event.id);
        let attempt = Attempt {
            event,
            body: &delivery.body,
            number,
            directory: self.data.build(&event.id),
            place: &self.place,
            cancel,
            telling,
            on_board: Some(&on_board),
        };
        match self.end_elsewhere(delivery, event).await {
            Found::Nothing => {}
            Found::Ended(result) => return self.answer(delivery, &report, *result, &attempt).await,
            Found::Conflict => {
                if let Some(telling) = telling {
                    telling.released().await;
                }
                return self.conflict(delivery, event).await;
            }
        }
        if let (1, Some(waited)) = (number, delivery.waited()) {
            metrics::histogram!("buildgrid_queue_wait_seconds").record(waited);
        }
        tracing::info!(attempt = number, "build started");
        let build = async {
            let mut outcome = attempt.run(&self.pipeline).await;
            on_board.settles();
            let cancelled = telling.and_then(Telling::cause) == Some(Cause::Cancelled);
            if cancelled && matches!(outcome, Outcome::Infrastructure(_)) {
                // Nobody wants it tried again.
                outcome = Outcome::Cancelled;
            }
            if outcome == Outcome::Cancelled && !cancelled {
                tracing::warn!("build stopped and given back to the queue");
                return Err(GaveUp);
            }
            log_outcome(&outcome, event, started.elapsed());
            Ok(match self.judge(&report, &outcome) {
                Verdict::Tell(result) => {
                    let result = self.keep(delivery, event, result).await?;
                    tell(telling, &result).await;
                    Verdict::Tell(result)
                }
                verdict => verdict,
            })
        };
        // The build does not wait for a broker that is away; the result events do.
        let start = report.started();
        let (told, verdict) = tokio::join!(self.publish(&start), build);
        let verdict = verdict?;
        told?;
        self.settle(delivery, &report, verdict, telling).await
    }

    /// How the event has ended with another worker. Where the store cannot say, publishing finds out.
    pub(super) async fn end_elsewhere(&self, delivery: &Delivery, event: &DeployEvent) -> Found {
        self.ends.find(event, delivery.requeue()).await.unwrap_or_else(|error| {
            let error = format!("{error:#}");
            tracing::warn!(error, "cannot learn from the store whether the event has ended already");
            Found::Nothing
        })
    }

    /// Ends an attempt as another worker has ended the event, unbuilt.
    async fn answer(
        &self,
        delivery: &Delivery,
        report: &Report<'_>,
        result: ResultEvent,
        attempt: &Attempt<'_>,
    ) -> Result<Settled, GaveUp> {
        tracing::info!(state = %result.state, worker = result.worker, "ended already, says the store; the result is sent again");
        attempt.leave(&result).await;
        let result = self.keep(delivery, report.event, result).await?;
        tell(attempt.telling, &result).await;
        self.settle(delivery, report, Verdict::Tell(result), attempt.telling).await
    }

    pub(super) fn report<'a>(
        &'a self,
        event: &'a DeployEvent,
        attempt: u32,
        started_at: OffsetDateTime,
    ) -> Report<'a> {
        Report {
            event,
            attempt,
            worker: &self.place.worker,
            registry_host: &self.place.registry_host,
            timeline: self.place.timeline.as_deref(),
            started_at,
        }
    }
}

/// The last step for a delivery.
async fn settle(delivery: Delivery, settled: Settled) {
    match settled {
        Settled::Dealt => match delivery.ack().await {
            Ack::Done => {}
            Ack::Lost => tracing::info!(
                "the broker took the delivery back meanwhile; it will come again and be answered with the outcome"
            ),
        },
        Settled::GivenUp => delivery.release().await,
    }
}
