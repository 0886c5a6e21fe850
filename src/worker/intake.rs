//! Intake: slots that take deliveries, one each at a time, while the engine answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::delivery::Handler;
use crate::build::docker::DockerEngine;
use crate::queue::{Queue, Subscription};

/// How often the engine is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// The pause before a slot subscribes again after its consumer ended or could not begin; it doubles
/// with each failure in a row.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest such pause.
const RESUBSCRIBE_AT_MOST: Duration = Duration::from_secs(10);

/// What is wrong with the engine, as it changes.
type EngineFault = watch::Receiver<Option<String>>;

/// Watches the engine. Without one, nothing can be wrong with it.
pub fn watch_engine(
    engine: Option<DockerEngine>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> EngineFault {
    let waiting = engine.is_some().then(|| "not asked yet".to_owned());
    let (fault, watched) = watch::channel(waiting);
    if let Some(engine) = engine {
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(probe_for_ever(engine, fault)).await;
        });
    }
    watched
}

async fn probe_for_ever(engine: DockerEngine, fault: watch::Sender<Option<String>>) {
    let mut known: Option<bool> = None;
    loop {
        let found = engine.answers().await.err().map(|error| error.to_string());
        let healthy = found.is_none();
        if known != Some(healthy) {
            match &found {
                None => tracing::info!("the Docker engine answers"),
                Some(error) => tracing::warn!(error, "the Docker engine does not answer; taking no events"),
            }
            known = Some(healthy);
        }
        fault.send_if_modified(|now| {
            let changed = *now != found;
            *now = found;
            changed
        });
        tokio::time::sleep(PROBE).await;
    }
}

/// Waits for the engine to be as asked; for ever once nobody watches it any more.
async fn until(engine: &mut EngineFault, state: impl FnMut(&Option<String>) -> bool) {
    if engine.wait_for(state).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the slots share.
#[derive(Clone)]
pub struct Intake {
    handler: Arc<Handler>,
    engine: EngineFault,
    drain: CancellationToken,
    /// Slots that are subscribed, building or waiting.
    subscribed: Arc<AtomicUsize>,
}

impl Intake {
    pub fn new(handler: Arc<Handler>, engine: EngineFault, drain: CancellationToken) -> Self {
        Self { handler, engine, drain, subscribed: Arc::default() }
    }

    pub fn queue(&self) -> &Queue {
        &self.handler.queue
    }

    /// What is wrong with the engine.
    pub fn engine_fault(&self) -> Option<String> {
        self.engine.borrow().clone()
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
                until(&mut self.engine, Option::is_none).await;
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

    /// Takes deliveries until the subscription ends, the engine is away, or the worker drains. Whatever
    /// was delivered and not begun goes back to the queue when the subscription is dropped.
    async fn consume(&mut self, mut subscription: Subscription) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = self.drain.cancelled() => return,
                () = until(&mut self.engine, Option::is_some) => return,
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
