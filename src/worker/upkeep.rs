//! What a worker does beside building: it says whether it is ready. (What is old is removed by the
//! [`janitor`](super::janitor).)

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::board::Slot;
use super::intake::Intake;
use crate::build::docker::{DockerEngine, EngineBuildId};
use crate::config::Live;
use crate::queue::{Queue, QueueStatus};
use crate::telemetry::status::{Condition, Readiness, faults};
use crate::telemetry::watchdog::{Check, Vitals};

/// The pause before an engine that was away is asked again to end what was left on it.
const ABANDON_AGAIN: Duration = Duration::from_secs(5);

/// Ready is a worker that takes events: queue, engine, disks, secrets and subscribed slots are there, and it does
/// not drain.
pub fn readiness(intake: &Intake) -> Readiness {
    let intake = intake.clone();
    Arc::new(move || {
        let gates = intake.gates().iter().map(|gate| Condition { name: gate.name, fault: gate.fault() });
        std::iter::once(Condition { name: "queue", fault: queue_fault(&intake.queue().status()) })
            .chain(gates)
            .chain([Condition { name: "slots", fault: intake.fault() }])
            .collect()
    })
}

fn queue_fault(status: &QueueStatus) -> Option<String> {
    match status {
        status if status.is_ready() => None,
        QueueStatus { blocked: Some(reason), .. } => {
            Some(format!("the queue takes no messages ({reason}); results wait until its alarm is over"))
        }
        QueueStatus { error: Some(error), .. } => Some(error.clone()),
        _ => Some("not connected yet".to_owned()),
    }
}

/// What systemd is told of the worker: it moves while the queue is looked after, the slots move, and no attempt
/// outlasts its time limit. A broker that is away stops nothing.
pub fn vitals(intake: &Intake, readiness: Readiness, live: Live, ending: CancellationToken) -> Vitals {
    let (queue, board) = (intake.queue(), intake.board());
    let untended = queue.clone();
    let checks: Vec<Check> = vec![
        Box::new(move |now| {
            let (silent, allowed) = untended.untended(now);
            let words =
                || format!("the queue's connections are not looked after, for {} s", silent.as_secs());
            (silent > allowed).then(words)
        }),
        Box::new(move |now| board.stuck(now, queue.status().can_consume)),
    ];
    let board = intake.board();
    let status = move || {
        let (busy, slots) = (board.count(&[Slot::Building]), live.now().worker.slots);
        format!("{busy} of {slots} slots building; {}", faults(&readiness))
    };
    Vitals { checks, status: Box::new(status), ending }
}

/// Keeps `buildgrid_broker_connected` true to the connection.
pub async fn watch_broker(queue: Queue, drain: CancellationToken) {
    let mut watch = queue.watch();
    loop {
        let connected = if queue.status().can_consume { 1.0 } else { 0.0 };
        metrics::gauge!("buildgrid_broker_connected").set(connected);
        if drain.run_until_cancelled(watch.changed()).await.is_none() {
            return;
        }
    }
}

/// Ends what an earlier process has left on the engine, waiting for the engine as long as it takes. Builds
/// end there with their connections; one whose worker's machine has lost its power may not.
pub async fn abandon(engine: DockerEngine, left: Vec<EngineBuildId>, drain: CancellationToken) {
    for id in left {
        loop {
            match drain.run_until_cancelled(engine.abandon(id)).await {
                None => return,
                Some(Ok(())) => break,
                Some(Err(error)) => {
                    tracing::debug!(%error, engine_build = %id, "cannot end yet what an earlier process has left on the Docker engine");
                }
            }
            if drain.run_until_cancelled(tokio::time::sleep(ABANDON_AGAIN)).await.is_none() {
                return;
            }
        }
        tracing::info!(engine_build = %id, "ended what an earlier process has left on the Docker engine");
    }
}
