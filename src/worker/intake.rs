//! Intake: slots that take deliveries, one each at a time, while the engine answers.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::delivery::Handler;
use crate::build::docker::DockerEngine;
use crate::queue::amqp::Subscription;

/// How often the engine is asked whether it is there.
const PROBE: Duration = Duration::from_secs(5);
/// The pause before a slot subscribes again after its consumer ended or could not begin.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// Watches the engine; the value is what is wrong with it. Without an engine nothing can be wrong.
pub fn watch_engine(
    engine: Option<DockerEngine>,
    stop: &CancellationToken,
) -> watch::Receiver<Option<String>> {
    let waiting = engine.is_some().then(|| "not asked yet".to_owned());
    let (fault, watched) = watch::channel(waiting);
    if let Some(engine) = engine {
        tokio::spawn(stop.clone().run_until_cancelled_owned(probe_for_ever(engine, fault)));
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
                None => {
                    tracing::info!("the Docker engine answers");
                    // A worker that was killed may have left images behind on it.
                    if let Err(error) = engine.sweep().await {
                        tracing::warn!(%error, "cannot remove what earlier builds left on the Docker engine");
                    }
                }
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

/// One slot: a channel of its own, one delivery at a time, until `drain`.
pub async fn slot(
    handler: Arc<Handler>,
    mut engine: watch::Receiver<Option<String>>,
    drain: CancellationToken,
) {
    while !drain.is_cancelled() {
        let subscription = async {
            until(&mut engine, Option::is_none).await;
            handler.broker.subscribe().await
        };
        let subscribed = tokio::select! {
            () = drain.cancelled() => return,
            subscribed = subscription => subscribed,
        };
        match subscribed {
            Ok(subscription) => consume(&handler, subscription, &mut engine, &drain).await,
            Err(error) => tracing::warn!(%error, "cannot subscribe; trying again"),
        }
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(RESUBSCRIBE) => {}
        }
    }
}

/// Waits for the engine to be as asked; for ever once nobody watches it any more.
async fn until(engine: &mut watch::Receiver<Option<String>>, state: impl FnMut(&Option<String>) -> bool) {
    if engine.wait_for(state).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Takes deliveries until the subscription ends, the engine is away, or the worker drains. Whatever
/// was delivered and not begun goes back to the queue when the subscription is dropped.
async fn consume(
    handler: &Handler,
    mut subscription: Subscription,
    engine: &mut watch::Receiver<Option<String>>,
    drain: &CancellationToken,
) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = drain.cancelled() => break,
            () = until(engine, Option::is_some) => break,
            delivery = subscription.next() => delivery,
        };
        let Some(delivery) = delivery else {
            tracing::warn!("the broker ended the subscription; subscribing again");
            break;
        };
        metrics::gauge!("buildgrid_slots_busy").increment(1);
        handler.handle(delivery).await;
        metrics::gauge!("buildgrid_slots_busy").decrement(1);
    }
}
