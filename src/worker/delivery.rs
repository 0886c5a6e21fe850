//! From a delivery to its ack: claim, attempt, settle. What happens to a delivery is decided here
//! and nowhere else.
//!
//! Everything is written before it is acked: the outcome into the build directory, the result event
//! (or the copy for a retry queue or the dead letters) to the broker and confirmed, and only then the
//! ack. A crash in between repeats a step, and consumers tell repeats by id, attempt and state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::attempt::{Attempt, Place};
use super::build_directory::{BuildDirectory, DataDirectory};
use super::claims::{Claim, Claims, Running, Settled, attached};
use super::report::Report;
use crate::event::deploy::{DeployEvent, Rejected};
use crate::event::result::ResultEvent;
use crate::pipeline::{Outcome, Pipeline};
use crate::queue::amqp::{Ack, Broker, BrokerError, Delivery};

/// The pause before an outcome that could not be kept (a full disk) is written again.
const KEEP_AGAIN: Duration = Duration::from_secs(5);

/// What handles deliveries; shared by all slots.
pub struct Handler {
    pub place: Place,
    pub max_attempts: u32,
    pub broker: Broker,
    pub data: Arc<DataDirectory>,
    pub claims: Claims,
    pub pipeline: Pipeline,
    /// Cancelled when running builds are to be given back to the queue.
    pub abort: CancellationToken,
}

/// The broker was away until the worker was told to stop: nothing was acked.
struct GaveUp;

impl Handler {
    /// Deals with one delivery to its end.
    pub async fn handle(&self, delivery: Delivery) {
        let settled = match DeployEvent::parse(&delivery.body) {
            Err(rejected) => self.refuse(&delivery, rejected).await,
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
        match settled {
            Ok(Settled::Dealt) => match delivery.ack().await {
                Ack::Done => {}
                Ack::Lost => tracing::info!(
                    "the broker took the delivery back meanwhile; it will come again and be answered with the outcome"
                ),
            },
            Ok(Settled::GivenUp) | Err(GaveUp) => delivery.release().await,
        }
    }

    /// An event that cannot be read: kept with the reason, and told to its sender if one is named.
    async fn refuse(&self, delivery: &Delivery, rejected: Rejected) -> Result<Settled, GaveUp> {
        let identity = rejected.identity;
        tracing::warn!(
            reason = %rejected.reason,
            build_id = identity.as_ref().map(|identity| identity.id.as_str()),
            bytes = delivery.body.len(),
            "event rejected and dead-lettered"
        );
        count("rejected", "event");
        self.dead_letter(delivery, &rejected.reason).await?;
        if let Some(identity) = identity {
            let result =
                ResultEvent::rejected(*identity, delivery.attempt, &rejected.reason, &self.place.worker);
            self.publish(&result).await?;
        }
        Ok(Settled::Dealt)
    }

    async fn deal(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        ignored: Vec<String>,
    ) -> Result<Settled, GaveUp> {
        if !ignored.is_empty() {
            tracing::info!(
                fields = ignored.join(", "),
                "the event has fields that this version does not know; ignored"
            );
        }
        match self.claims.claim(event).await {
            Ok(Claim::Go(running)) => Box::pin(self.run(delivery, event, running)).await,
            Ok(Claim::Attach(settled)) => {
                tracing::info!("delivered again while it is being built; waiting for that build's end");
                Ok(attached(settled).await)
            }
            Ok(Claim::Done(result)) => {
                tracing::info!(state = %result.state, "delivered again after its end; the result is sent again");
                self.publish(&result).await.map(|()| Settled::Dealt)
            }
            Ok(Claim::Conflict) => {
                // No result event: the id is the first event's, whose results must stand.
                let reason = format!("the id {} belongs to another event, with another body", event.id);
                tracing::warn!(reason, "event rejected and dead-lettered");
                count("rejected", "event");
                self.dead_letter(delivery, &reason).await.map(|()| Settled::Dealt)
            }
            Err(error) => {
                let reason = format!("the build directory cannot be read: {error:#}");
                let started_at = OffsetDateTime::now_utc();
                let report = self.report(event, delivery, started_at);
                self.settle(delivery, &report, Outcome::Infrastructure(reason)).await
            }
        }
    }

    /// Makes one attempt and settles it.
    async fn run(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        running: Running,
    ) -> Result<Settled, GaveUp> {
        let (started, started_at) = (Instant::now(), OffsetDateTime::now_utc());
        let report = self.report(event, delivery, started_at);
        if let (1, Some(waited)) = (delivery.attempt, delivery.waited()) {
            metrics::histogram!("buildgrid_queue_wait_seconds").record(waited);
        }
        tracing::info!(attempt = delivery.attempt, "build started");
        let attempt = Attempt {
            event,
            body: &delivery.body,
            number: delivery.attempt,
            directory: self.directory(event),
            place: &self.place,
            cancel: &self.abort,
        };
        // The build does not wait for a broker that is away; the result event does.
        let start = report.started();
        let (told, outcome) = tokio::join!(self.publish(&start), attempt.run(&self.pipeline));
        told?;
        if outcome == Outcome::Cancelled && self.abort.is_cancelled() {
            tracing::warn!("build stopped and given back to the queue");
            return Ok(Settled::GivenUp);
        }
        log_outcome(&outcome, event, started.elapsed());
        let settled = self.settle(delivery, &report, outcome).await?;
        running.settle(settled);
        Ok(settled)
    }

    /// Writes down and tells what came of an attempt, up to but without the ack.
    async fn settle(
        &self,
        delivery: &Delivery,
        report: &Report<'_>,
        outcome: Outcome,
    ) -> Result<Settled, GaveUp> {
        let next = delivery.attempt.saturating_add(1);
        if let Outcome::Infrastructure(reason) = &outcome {
            if next <= self.max_attempts {
                let delay = self
                    .broker
                    .publish_retry(delivery, next, reason, &self.abort)
                    .await
                    .map_err(|error| gave_up(&error))?;
                tracing::info!(attempt = next, delay_s = delay.as_secs(), "will be tried again");
                count("retrying", "infrastructure");
                self.publish(&report.retrying(reason.clone())).await?;
                return Ok(Settled::Dealt);
            }
            let reason = format!("gave up after {} attempts: {reason}", delivery.attempt);
            self.dead_letter(delivery, &reason).await?;
        }
        if let Outcome::Rejected(reason) = &outcome {
            self.dead_letter(delivery, reason).await?;
        }
        let result = report.ended(&outcome);
        count(result.state.as_str(), result.kind.map_or("none", |kind| kind.as_str()));
        self.keep(self.directory(report.event), &result).await?;
        self.publish(&result).await?;
        Ok(Settled::Dealt)
    }

    /// Keeps the result in the build directory; waits for room where there is none.
    async fn keep(&self, directory: BuildDirectory, result: &ResultEvent) -> Result<(), GaveUp> {
        let result = Arc::new(result.clone());
        loop {
            let (directory, kept) = (directory.clone(), result.clone());
            let written = tokio::task::spawn_blocking(move || directory.end(&kept)).await;
            match written.map_err(anyhow::Error::from).and_then(|written| written) {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "the outcome cannot be kept; trying again");
                }
            }
            tokio::select! {
                () = self.abort.cancelled() => return Err(GaveUp),
                () = tokio::time::sleep(KEEP_AGAIN) => {}
            }
        }
    }

    async fn publish(&self, result: &ResultEvent) -> Result<(), GaveUp> {
        self.broker.publish_result(result, &self.abort).await.map_err(|error| gave_up(&error))
    }

    async fn dead_letter(&self, delivery: &Delivery, reason: &str) -> Result<(), GaveUp> {
        self.broker.dead_letter(delivery, reason, &self.abort).await.map_err(|error| gave_up(&error))
    }

    fn directory(&self, event: &DeployEvent) -> BuildDirectory {
        self.data.build(&event.id)
    }

    fn report<'a>(
        &'a self,
        event: &'a DeployEvent,
        delivery: &Delivery,
        started_at: OffsetDateTime,
    ) -> Report<'a> {
        Report {
            event,
            attempt: delivery.attempt,
            worker: &self.place.worker,
            registry_host: &self.place.registry_host,
            started_at,
        }
    }
}

fn gave_up(error: &BrokerError) -> GaveUp {
    tracing::warn!(%error, "stopped while the broker was away; the event will be delivered again");
    GaveUp
}

fn count(outcome: &'static str, kind: &'static str) {
    metrics::counter!("buildgrid_builds_total", "outcome" => outcome, "kind" => kind).increment(1);
}

/// One line for the operator, whatever came of the build.
fn log_outcome(outcome: &Outcome, event: &DeployEvent, elapsed: Duration) {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match outcome {
        Outcome::Published(image) => tracing::info!(
            image = %event.image(), digest = %image.digest, size = image.size, reused = image.reused, elapsed_ms,
            "image published"
        ),
        Outcome::Failed(failure) => {
            tracing::info!(reason = failure.reason, step = failure.step, elapsed_ms, "build failed");
        }
        Outcome::Rejected(reason) => tracing::warn!(reason, "event rejected and dead-lettered"),
        Outcome::Cancelled => tracing::info!(elapsed_ms, "build cancelled"),
        Outcome::Infrastructure(reason) => {
            tracing::warn!(reason, elapsed_ms, "infrastructure failed, not the build")
        }
    }
}
