//! Intake: slots that take deliveries, one each at a time, while every gate is open.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::board::{Board, OnSlot, Slot};
use super::delivery::Handler;
use super::gate::{Gate, Keeper, all_open, any_closed};
use crate::build::docker::DockerEngine;
use crate::config::Live;
use crate::queue::{Queue, Subscription};

/// How often the engine is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// The pause before a slot subscribes again after its consumer ended or could not begin; it doubles
/// with each failure in a row.
const RESUBSCRIBE: Duration = Duration::from_secs(1);
/// The longest such pause.
const RESUBSCRIBE_AT_MOST: Duration = Duration::from_secs(10);
/// Deliveries that wait for a running build without keeping a slot; each has a channel. More wait in slots.
const ATTACHED: usize = 64;

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
    /// The handler of the deliveries that come from now on.
    handler: watch::Receiver<Arc<Handler>>,
    gates: Vec<Gate>,
    drain: CancellationToken,
    /// One for each delivery that may wait outside the slots.
    places: Arc<Semaphore>,
}

/// Why a slot takes nothing from its subscription any more.
enum Left {
    /// It has ended, a gate has closed, or the worker drains.
    Over,
    /// Its channel is kept by a delivery that waits for a running build.
    Attached,
}

impl Intake {
    pub fn new(handler: watch::Receiver<Arc<Handler>>, gates: Vec<Gate>, drain: CancellationToken) -> Self {
        Self { handler, gates, drain, places: Arc::new(Semaphore::new(ATTACHED)) }
    }

    fn handler(&self) -> Arc<Handler> {
        self.handler.borrow().clone()
    }

    pub fn queue(&self) -> Queue {
        self.handler().queue.clone()
    }

    pub fn board(&self) -> Board {
        self.handler().board.clone()
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
        if self.board().count(&[Slot::Waiting, Slot::Building]) > 0 {
            return None;
        }
        let queue = (!self.queue().status().is_ready()).then_some("queue");
        let closed = self.gates.iter().filter(|gate| gate.fault().is_some()).map(|gate| gate.name);
        let held: Vec<_> = queue.into_iter().chain(closed).collect();
        Some(match held.is_empty() {
            true => "no slot is subscribed; the log says why".to_owned(),
            false => format!("no slot is subscribed, because of: {}", held.join(", ")),
        })
    }

    /// As many slots as are configured, now and after a reload, until the drain: one that is too many ends once
    /// its build has.
    pub async fn slots(self, mut live: Live) {
        let (mut tasks, mut running, mut fault) = (JoinSet::new(), Vec::new(), None);
        loop {
            let slots = live.now().worker.slots;
            metrics::gauge!("buildgrid_slots_total").set(slots as f64);
            // One too many that still builds takes the place of a new one until it has ended.
            while running.len() < slots && tasks.len() < slots {
                let drain = self.drain.child_token();
                tasks.spawn(Self { drain: drain.clone(), ..self.clone() }.slot());
                running.push(drain);
            }
            running.drain(slots.min(running.len())..).for_each(|surplus: CancellationToken| surplus.cancel());
            tokio::select! {
                () = live.changed() => {}
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    // The others are to end well.
                    Some(Err(error)) => {
                        tracing::error!(%error, "a slot ended although it must not; stopping");
                        self.drain.cancel();
                        fault = Some(error);
                    }
                },
            }
        }
        if let Some(panicked) = fault.and_then(|error| error.try_into_panic().ok()) {
            std::panic::resume_unwind(panicked);
        }
    }

    /// One slot: a channel of its own, one delivery at a time, until the drain; and then until the
    /// deliveries that it has attached to running builds are settled.
    async fn slot(mut self) {
        let mut attached = JoinSet::new();
        self.take(&mut attached).await;
        while attached.join_next().await.is_some() {}
    }

    async fn take(&mut self, attached: &mut JoinSet<()>) {
        let (drain, at) = (self.drain.clone(), self.board().slot());
        let mut pause = RESUBSCRIBE;
        while !drain.is_cancelled() {
            let subscription = async {
                at.is(Slot::Held);
                all_open(&mut self.gates).await;
                at.is(Slot::Subscribing);
                self.queue().subscribe().await
            };
            match drain.run_until_cancelled(subscription).await {
                None => return,
                Some(Ok(subscription)) => {
                    pause = RESUBSCRIBE;
                    let left = self.consume(subscription, &at, attached).await;
                    while attached.try_join_next().is_some() {}
                    if matches!(left, Left::Attached) {
                        continue;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, retry_s = pause.as_secs(), "cannot subscribe; trying again");
                }
            }
            at.is(Slot::Held);
            drain.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = RESUBSCRIBE_AT_MOST.min(pause * 2);
        }
    }

    /// Takes deliveries until the subscription ends, a gate closes, the worker drains, or one has attached
    /// to a running build. Whatever was delivered and not begun goes back to the queue when the
    /// subscription is dropped.
    async fn consume(
        &mut self,
        mut subscription: Subscription,
        at: &OnSlot,
        attached: &mut JoinSet<()>,
    ) -> Left {
        loop {
            at.is(Slot::Waiting);
            let delivery = tokio::select! {
                biased;
                () = self.drain.cancelled() => return Left::Over,
                () = any_closed(&mut self.gates) => return Left::Over,
                delivery = subscription.next() => delivery,
            };
            let Some(delivery) = delivery else {
                tracing::warn!("the broker ended the subscription; subscribing again");
                return Left::Over;
            };
            at.is(Slot::Building);
            metrics::gauge!("buildgrid_slots_busy").increment(1);
            let waiting = self.handler().handle(delivery).await;
            metrics::gauge!("buildgrid_slots_busy").decrement(1);
            // A build that outlives the broker's acknowledgement timeout is delivered again each time: if the
            // slots waited for its end, it would have them all.
            match (waiting, self.places.clone().try_acquire_owned()) {
                (None, _) => {}
                (Some(waiting), Ok(place)) => {
                    attached.spawn(async move {
                        metrics::gauge!("buildgrid_deliveries_attached").increment(1);
                        waiting.settle().await;
                        metrics::gauge!("buildgrid_deliveries_attached").decrement(1);
                        drop(place);
                    });
                    return Left::Attached;
                }
                (Some(waiting), Err(_)) => waiting.settle().await,
            }
        }
    }
}
