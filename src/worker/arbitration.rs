//! Between the claim in this process and the build: where there is a timeline service, it says which
//! worker builds.

use std::time::Duration;

use time::OffsetDateTime;

use super::claims::{Running, Settled};
use super::delivery::{GaveUp, Handler};
use super::ends::Found;
use super::reporting::{Permission, Record, Wish};
use super::settling::{Verdict, gave_up, log_outcome};
use crate::event::deploy::DeployEvent;
use crate::event::result::State;
use crate::pipeline::Outcome;
use crate::queue::Delivery;

impl Handler {
    /// Asks the timeline service, where there is one, whether this worker is the one to build it.
    pub(super) async fn arbitrate(
        &self,
        delivery: &Delivery,
        event: &DeployEvent,
        running: Running,
        number: u32,
    ) -> Result<Settled, GaveUp> {
        let cancel = self.abort.child_token();
        let Some(reporting) = &self.reporting else {
            return Box::pin(self.run(delivery, event, running, number, cancel, None)).await;
        };
        let directory = self.data.build(&event.id);
        let wish = Wish {
            event,
            body: &delivery.body,
            worker: &self.place.worker,
            number,
            requeue: delivery.requeue(),
            directory: &directory,
        };
        match reporting.claim(&wish).await {
            Permission::Go(record) => {
                let telling = reporting.tell(&event.id, directory.clone(), *record, cancel.clone());
                return Box::pin(self.run(delivery, event, running, number, cancel, Some(&telling))).await;
            }
            Permission::Wait(reason) => {
                let copied = self.queue.publish_retry(delivery, delivery.attempt, &reason, &self.give_up);
                let delay = copied.await.map_err(|error| gave_up(&error))?;
                let delay_s = delay.as_secs();
                // Said once: a thousand that wait would fill the log.
                match delivery.reason() {
                    None => tracing::info!(reason, delay_s, "not to be built now; asking again and again"),
                    Some(_) => tracing::debug!(reason, delay_s, "still not to be built; asking again later"),
                }
            }
            Permission::Done(result) => {
                tracing::info!(state = %result.state, "built already, says the timeline service; the result is sent again");
                self.publish(&result).await?;
            }
            // What a worker that could not ask the service has made of it meanwhile is told late.
            Permission::Cancelled(_) if self.has_other_end(delivery, event).await => {
                let record = Record::of(&wish);
                let telling = reporting.tell(&event.id, directory.clone(), record, cancel.clone());
                return Box::pin(self.run(delivery, event, running, number, cancel, Some(&telling))).await;
            }
            Permission::Cancelled(reason) => {
                let report = self.report(event, number, OffsetDateTime::now_utc());
                log_outcome(&Outcome::Cancelled, event, Duration::ZERO);
                let mut result = report.ended(&Outcome::Cancelled);
                result.reason = reason.or(result.reason);
                let result = self.keep(delivery, event, result).await?;
                self.settle(delivery, &report, Verdict::Tell(result), None).await?;
            }
            Permission::Conflict => drop(self.conflict(delivery, event).await?),
        }
        running.settle(Settled::Dealt);
        Ok(Settled::Dealt)
    }

    /// Whether the event has ended, and not by a cancel.
    async fn has_other_end(&self, delivery: &Delivery, event: &DeployEvent) -> bool {
        matches!(self.end_elsewhere(delivery, event).await, Found::Ended(end) if end.state != State::Cancelled)
    }
}
