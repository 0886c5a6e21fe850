//! The daemon: start, slots, drain.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::{Place, to_program_log};
use super::build_directory::DataDirectory;
use super::claims::Claims;
use super::delivery::Handler;
use super::intake;
use crate::build::docker::DockerEngine;
use crate::config::Config;
use crate::pipeline::{Pipeline, Rules};
use crate::publish::publisher::Publisher;
use crate::queue::amqp::{Broker, BrokerStatus, DeclareError};
use crate::source::Sources;
use crate::store::Store;
use crate::telemetry::metrics::recorder;
use crate::telemetry::status::{self, Condition, Readiness};

/// How long the start waits for the broker before it says that it is up all the same.
const WAIT_FOR_BROKER: Duration = Duration::from_secs(5);
/// How often ended builds are looked through for those kept long enough.
const SWEEP: Duration = Duration::from_secs(3600);

/// The two ways to ask a daemon to end.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Give back what runs.
    pub abort: CancellationToken,
}

/// The pipeline and the data directory as the configuration says: what a worker and `buildgrid build` share.
pub fn assemble(config: &Config) -> anyhow::Result<(Pipeline, Arc<DataDirectory>)> {
    let data = Arc::new(DataDirectory::open(&config.worker.data_dir)?);
    let store = Store::open(&config.store)?;
    let pipeline = Pipeline {
        sources: Sources::new(config.source.clone(), data.mirrors())?,
        engine: match config.engine.is_none() {
            true => None,
            false => Some(DockerEngine::connect(&config.engine, config.worker.max_build_timeout)?),
        },
        publisher: Publisher::new(&config.publish, store),
        rules: Rules {
            fake_namespaces: config.fake.namespaces.clone(),
            build_timeout: config.worker.build_timeout,
            max_build_timeout: config.worker.max_build_timeout,
        },
    };
    Ok((pipeline, data))
}

/// Runs a worker until `shutdown`. `ready` is called once it is up. An error is a start that was
/// refused or a part that ended although it must not.
pub async fn run(
    config: &Config,
    listener: TcpListener,
    shutdown: Shutdown,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let metrics = recorder()?;
    let (pipeline, data) = assemble(config)?;
    let worker = config.worker.resolved_name();
    let interrupted = data.sweep(config.worker.keep_builds, |_| false)?;
    if interrupted > 0 {
        tracing::info!(builds = interrupted, "builds were interrupted; their events will be delivered again");
    }
    let broker = Broker::connect(&config.queue, &worker);
    let engine = intake::watch_engine(pipeline.engine.clone(), &shutdown.drain);
    let handler = Arc::new(Handler {
        place: Place {
            worker: worker.clone(),
            registry_host: config.registry.host.clone(),
            mirror: match config.logging.build_output {
                true => to_program_log(),
                false => Arc::new(|_| ()),
            },
        },
        max_attempts: config.queue.max_attempts,
        broker: broker.clone(),
        claims: Claims::new(data.clone()),
        data,
        pipeline,
        abort: shutdown.abort.clone(),
    });

    let status = status::serve(
        listener,
        readiness(broker.clone(), engine.clone()),
        metrics,
        // Served through the drain: operators watch it.
        shutdown.abort.clone(),
    );
    let status = tokio::spawn(status);

    let slots = config.worker.slots;
    metrics::gauge!("buildgrid_slots_total").set(slots as f64);
    let mut tasks = JoinSet::new();
    let mut starting = Box::pin(declare(&broker, &shutdown.drain));
    let declared = tokio::time::timeout(WAIT_FOR_BROKER, &mut starting).await;
    if declared.is_err() {
        tracing::warn!("the broker has not answered yet; waiting for it");
    }
    ready();
    match declared {
        Ok(declared) => declared?,
        Err(_) => starting.await?,
    }
    tracing::info!(worker, slots, "worker started");
    for _ in 0..slots {
        tasks.spawn(intake::slot(handler.clone(), engine.clone(), shutdown.drain.clone()));
    }
    tasks.spawn(watch_broker(broker.clone(), shutdown.drain.clone()));
    tasks.spawn(sweep(handler.clone(), config.worker.keep_builds, shutdown.drain.clone()));

    let ended = drained(&mut tasks, config.worker.drain_timeout, &shutdown).await;
    broker.close().await;
    shutdown.abort.cancel();
    status.await.context("the status pages ended")??;
    ended
}

/// Declares the topology, waiting for the broker as long as it takes.
async fn declare(broker: &Broker, drain: &CancellationToken) -> Result<(), DeclareError> {
    tokio::select! {
        () = drain.cancelled() => Ok(()),
        declared = broker.declare() => declared,
    }
}

/// Waits for every task to end, which they do after a drain. One that ends before is an error, and
/// after `grace` the rest is given back to the queue.
async fn drained(tasks: &mut JoinSet<()>, grace: Duration, shutdown: &Shutdown) -> anyhow::Result<()> {
    let mut result = Ok(());
    let mut overdue = std::pin::pin!(async {
        shutdown.drain.cancelled().await;
        tokio::time::sleep(grace).await;
    });
    loop {
        tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return result,
                Some(Ok(())) if shutdown.drain.is_cancelled() => {}
                Some(ended) => {
                    let error = ended.err().map_or_else(|| "without an error".to_owned(), |error| error.to_string());
                    tracing::error!(error, "a task of the worker ended although it must not; stopping");
                    result = Err(anyhow::anyhow!("a task of the worker ended: {error}"));
                    shutdown.drain.cancel();
                }
            },
            () = &mut overdue, if !shutdown.abort.is_cancelled() => {
                tracing::warn!(grace_s = grace.as_secs(), "builds still run after worker.drain_timeout; giving them back");
                shutdown.abort.cancel();
            }
        }
    }
}

async fn sweep(handler: Arc<Handler>, keep: Duration, drain: CancellationToken) {
    let mut interval = tokio::time::interval(SWEEP);
    interval.tick().await;
    loop {
        tokio::select! {
            () = drain.cancelled() => return,
            _ = interval.tick() => {}
        }
        let handler = handler.clone();
        let swept =
            tokio::task::spawn_blocking(move || handler.data.sweep(keep, |id| handler.claims.is_running(id)));
        if let Ok(Err(error)) = swept.await {
            tracing::warn!(error = format!("{error:#}"), "cannot sweep the build directories");
        }
    }
}

fn readiness(broker: Broker, engine: watch::Receiver<Option<String>>) -> Readiness {
    Arc::new(move || {
        vec![
            Condition { name: "broker", fault: broker_fault(&broker.status()) },
            Condition { name: "engine", fault: engine.borrow().clone() },
        ]
    })
}

fn broker_fault(status: &BrokerStatus) -> Option<String> {
    match status {
        status if status.is_ready() => None,
        BrokerStatus { blocked: Some(reason), .. } => {
            Some(format!("the broker takes no messages ({reason}); results wait until its alarm is over"))
        }
        BrokerStatus { error: Some(error), .. } => Some(error.clone()),
        _ => Some("not connected yet".to_owned()),
    }
}

/// Keeps `buildgrid_broker_connected` true to the connection.
async fn watch_broker(broker: Broker, drain: CancellationToken) {
    let mut watch = broker.watch();
    loop {
        let connected = if broker.status().consuming_connected { 1.0 } else { 0.0 };
        metrics::gauge!("buildgrid_broker_connected").set(connected);
        if drain.run_until_cancelled(watch.changed()).await.is_none() {
            return;
        }
    }
}
