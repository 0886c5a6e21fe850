//! Intake: slots that take deliveries, one each at a time, while every gate is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::delivery::Handler;
use super::gate::{Gate, Keeper, all_open, any_closed};
use crate::build::docker::DockerEngine;
use crate::queue::{Queue, Subscription};

/// How often the engine is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// The pause before a slot subscribes again after its consumer ended or could not begin; it doubles
/// with each failure in a row.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest such pause.
const RESUBSCRIBE_AT_MOST: Duration = Duration::from_secs(10);

/// A gate that is closed while the engine does not answer. Without one, nothing can be wrong with it.
pub fn watch_engine(engine: Option<DockerEngine>, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> Gate {
    let waiting = engine.is_some().then(|| "not asked yet".to_owned());
    let (keeper, gate) = Gate::new("engine", waiting);
    if let Some(engine) = engine {
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(probe_for_ever(engine, keeper)).await;
        });
    }
    gate
}

async fn probe_for_ever(engine: DockerEngine, keeper: Keeper) {
    let mut is_first = true;
    loop {
        let found = engine.answers().await.err().map(|error| error.to_string());
        let turned = keeper.set(found.clone());
        match found {
            None if turned => tracing::info!("the Docker engine answers"),
            Some(error) if turned || is_first => {
                tracing::warn!(error, "the Docker engine does not answer; taking no events");
            }
            _ => {}
        }
        is_first = false;
        tokio::time::sleep(PROBE).await;
    }
}

/// What the slots share.
#[derive(Clone)]
pub struct Intake {
    handler: Arc<Handler>,
    gates: Vec<Gate>,
    drain: CancellationToken,
    /// Slots that are subscribed, building or waiting.
    subscribed: Arc<AtomicUsize>,
}

impl Intake {
    pub fn new(handler: Arc<Handler>, gates: Vec<Gate>, drain: CancellationToken) -> Self {
        Self { handler, gates, drain, subscribed: Arc::default() }
    }

    pub fn queue(&self) -> &Queue {
        &self.handler.queue
    }

    /// What can stop it.
    pub fn gates(&self) -> &[Gate] {
        &self.gates
    }

    /// Why no events are taken, if none are.
    pub fn fault(&self) -> Option<String> {
        if self.drain.is_cancelled() {
            return Some("draining: running builds go on, no event is taken".to_owned());
        }
        match self.subscribed.load(Ordering::Relaxed) {
            0 => Some("no slot is subscribed; the log says why".to_owned()),
            _ => None,
        }
    }

    /// One slot: a channel of its own, one delivery at a time, until the drain.
    pub async fn slot(mut self) {
        let drain = self.drain.clone();
        let mut pause = RESUBSCRIBE;
        while !drain.is_cancelled() {
            let subscription = async {
                all_open(&mut self.gates).await;
                self.handler.queue.subscribe().await
            };
            match drain.run_until_cancelled(subscription).await {
                None => return,
                Some(Ok(subscription)) => {
                    pause = RESUBSCRIBE;
                    self.subscribed.fetch_add(1, Ordering::Relaxed);
                    self.consume(subscription).await;
                    self.subscribed.fetch_sub(1, Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, retry_s = pause.as_secs(), "cannot subscribe; trying again");
                }
            }
            drain.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = RESUBSCRIBE_AT_MOST.min(pause * 2);
        }
    }

    /// Takes deliveries until the subscription ends, a gate closes, or the worker drains. Whatever
    /// was delivered and not begun goes back to the queue when the subscription is dropped.
    async fn consume(&mut self, mut subscription: Subscription) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                () = any_closed(&mut self.gates) => return,
                delivery = subscription.next() => delivery,
            };
            let Some(delivery) = delivery else {
                tracing::warn!("the broker ended the subscription; subscribing again");
                return;
            };
            metrics::gauge!("buildgrid_slots_busy").increment(1);
            self.handler.handle(delivery).await;
            metrics::gauge!("buildgrid_slots_busy").decrement(1);
        }
    }
}
