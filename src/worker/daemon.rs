//! The daemon: start, slots, drain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::{Place, to_program_log};
use super::board::Board;
use super::build_directory::DataDirectory;
use super::claims::Claims;
use super::credentials_dir;
use super::delivery::Handler;
use super::disks::Disks;
use super::ends::Ends;
use super::intake::{self, Intake};
use super::janitor::Janitor;
use super::keeper;
use super::pause;
use super::reporting::Reporting;
use super::secrets::Secrets;
use super::upkeep;
use crate::build::docker::DockerEngine;
use crate::config::{Config, Live};
use crate::permit::Rules;
use crate::pipeline::Pipeline;
use crate::publish::publisher::Publisher;
use crate::queue::{DeclareError, Queue};
use crate::source::{Credentials, Sources};
use crate::store::Store;
use crate::telemetry::metrics::recorder;
use crate::telemetry::status::{self, Readiness};
use crate::telemetry::watchdog;

/// How long the start waits for the broker before it says that it is up all the same.
const WAIT_FOR_BROKER: Duration = Duration::from_secs(5);
/// The pause before the topology is declared again after the broker was lost in the middle of it.
const DECLARE_AGAIN: Duration = Duration::from_secs(1);
/// How long, while it drains, a worker with something to tell waits for a broker that is away.
const DRAIN_WITHOUT_BROKER: Duration = Duration::from_secs(30);
/// How long the status pages' clients may delay the end.
const CLOSE_STATUS: Duration = Duration::from_secs(2);

/// The two ways to ask a daemon to end.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs.
    pub drain: CancellationToken,
    /// Give back what runs.
    pub abort: CancellationToken,
}

/// The pipeline, with `data_dir` for itself: what a worker and `buildgrid build` share.
pub fn assemble(config: &Config, data_dir: &Path) -> anyhow::Result<(Pipeline, Arc<DataDirectory>)> {
    let data = Arc::new(DataDirectory::open(data_dir)?);
    let store = Store::open(&config.store)?;
    let pipeline = Pipeline {
        sources: Sources::new(config.source.clone(), data.mirrors())?
            .with_credentials(Credentials::new(Secrets::new(config).directory())),
        engine: match config.engine.is_none() {
            true => None,
            false => Some(DockerEngine::connect(&config.engine, config.worker.max_build_timeout)?),
        },
        publisher: Publisher::new(&config.publish, store),
        rules: Rules::of(config),
    };
    Ok((pipeline, data))
}

fn place(config: &Config) -> Place {
    Place {
        worker: config.worker.resolved_name(),
        registry_host: config.registry.host.clone(),
        timeline: config.timeline.base().map(ToOwned::to_owned),
        mirror: match config.logging.build_output {
            true => to_program_log(),
            false => Arc::new(|_| ()),
        },
        secrets: Secrets::new(config),
        max_log: config.worker.max_log.as_u64(),
    }
}

impl Handler {
    /// The same under another configuration.
    fn configured(&self, config: &Config) -> anyhow::Result<Self> {
        let pipeline = Pipeline {
            sources: self.pipeline.sources.configured(config.source.clone())?,
            engine: self
                .pipeline
                .engine
                .as_ref()
                .map(|engine| engine.lasting(config.worker.max_build_timeout)),
            publisher: self.pipeline.publisher.configured(&config.publish),
            rules: Rules::of(config),
        };
        Ok(Self { place: place(config), max_attempts: config.queue.max_attempts, pipeline, ..self.clone() })
    }
}

/// After each reload, lets another handler take the deliveries that come from then on. What runs keeps its own.
async fn reconfigure(handler: watch::Sender<Arc<Handler>>, mut live: Live, drain: CancellationToken) {
    while drain.run_until_cancelled(live.changed()).await.is_some() {
        let configured = handler.borrow().configured(&live.now());
        match configured {
            Ok(configured) => drop(handler.send_replace(Arc::new(configured))),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new configuration cannot be used; builds go on with the old one");
            }
        }
    }
}

/// Where a worker's status pages are served, and what they say beside it.
pub struct StatusPages {
    pub listener: TcpListener,
    /// Of the other parts in this process.
    pub also: Vec<Readiness>,
}

impl From<TcpListener> for StatusPages {
    fn from(listener: TcpListener) -> Self {
        Self { listener, also: Vec::new() }
    }
}

/// Runs a worker on `queue`, which is the caller's to close, until `shutdown`. `ready` is called once
/// it is up. An error is a start that was refused or a part that ended although it must not.
pub async fn run(
    config: impl Into<Live>,
    queue: Queue,
    pages: impl Into<StatusPages>,
    shutdown: Shutdown,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let live = config.into();
    let config = live.now();
    let metrics = recorder()?;
    let (pipeline, data) = assemble(&config, &config.worker.data_dir)?;
    if config.policy.is_set() && config.timeline.base().is_none() {
        tracing::warn!(
            "[policy] is set, and nobody keeps it: timeline.url is empty, and workers do not know of each other's builds"
        );
    }
    let recovered = data.clone();
    let left = tokio::task::spawn_blocking(move || recovered.recover()).await??;
    let reporting = Reporting::new(&config.timeline, config.worker.max_spool.as_u64())?;
    let place = place(&config);
    if left.unfinished > 0 {
        tracing::info!(
            builds = left.unfinished,
            "builds have no outcome yet; their events will be delivered again"
        );
    }
    let mut tasks = JoinSet::new();
    if let Some(engine) = &pipeline.engine {
        tokio::spawn(upkeep::abandon(engine.clone(), left.on_engine, shutdown.drain.clone()));
    }
    let pause = pause::watch(&config.worker.data_dir, &mut tasks, &shutdown.drain);
    let engine = intake::watch_engine(pipeline.engine.clone(), &mut tasks, &shutdown.drain);
    let secrets = credentials_dir::watch(&place.secrets, &mut tasks, &shutdown.drain);
    let (disks, disk, pressure) = Disks::of(live.clone(), pipeline.engine.clone()).await;
    let handler = Arc::new(Handler {
        place,
        max_attempts: config.queue.max_attempts,
        queue: queue.clone(),
        claims: Claims::new(data.clone()),
        ends: Ends::new(pipeline.publisher.store().clone()),
        reporting: reporting.clone(),
        data: data.clone(),
        pipeline,
        board: Board::default(),
        abort: shutdown.abort.clone(),
        give_up: shutdown.abort.child_token(),
    });
    // Before an event is taken: what an earlier process has left of it is told first.
    if let Some(reporting) = &reporting {
        reporting.resume_all(&data).await?;
    }
    let (renewed, handlers) = watch::channel(handler.clone());
    let intake = Intake::new(handlers, vec![pause, engine, disk, secrets], shutdown.drain.clone());
    // Served through the drain: operators watch it.
    let closed = CancellationToken::new();
    let StatusPages { listener, mut also } = pages.into();
    also.insert(0, upkeep::readiness(&intake));
    let readiness = status::all(also);
    let mut pages = tokio::spawn(status::serve(listener, readiness.clone(), metrics, closed.clone()));
    let _watching =
        watchdog::watch(upkeep::vitals(&intake, readiness, live.clone(), shutdown.drain.clone()))?;

    // Before the broker has answered, too: a disk that is full can be cleared without it.
    let drain = shutdown.drain.clone();
    tasks.spawn(async move {
        drain.run_until_cancelled(disks.watch()).await;
    });
    let janitor = Janitor::new(live.clone(), &handler, shutdown.drain.clone());
    tasks.spawn(janitor.run(pressure));
    let store = handler.pipeline.publisher.store().clone();
    tasks.spawn(keeper::keep(store, live.clone(), shutdown.drain.clone()));

    let mut starting = Box::pin(declare(&queue, &shutdown.drain));
    let declared = tokio::time::timeout(WAIT_FOR_BROKER, &mut starting).await;
    if declared.is_err() {
        tracing::warn!("the broker has not answered yet; waiting for it");
    }
    ready();
    match declared {
        Ok(declared) => declared?,
        Err(_) => starting.await?,
    }
    tracing::info!(worker = handler.place.worker, slots = config.worker.slots, "worker started");
    tasks.spawn(intake.slots(live.clone()));
    tasks.spawn(reconfigure(renewed, live.clone(), shutdown.drain.clone()));
    tasks.spawn(upkeep::watch_broker(queue.clone(), shutdown.drain.clone()));

    let (stop_watching, watching) = (shutdown.drain.clone(), queue.clone());
    let give_up = handler.give_up.clone();
    let patience = tokio::spawn(async move { give_up_without(watching, stop_watching, give_up).await });
    let ended = drained(&mut tasks, &mut pages, live, &shutdown).await;
    patience.abort();
    if let Some(reporting) = &reporting {
        reporting.close().await;
    }
    closed.cancel();
    // A client that has sent half a request is not waited for.
    if !pages.is_finished() {
        let _ = tokio::time::timeout(CLOSE_STATUS, &mut pages).await;
    }
    ended
}

/// Declares the topology, waiting for the broker as long as it takes.
async fn declare(queue: &Queue, drain: &CancellationToken) -> Result<(), DeclareError> {
    let declare = async {
        loop {
            match queue.declare().await {
                Err(error) if !error.is_permanent() => {
                    tracing::warn!(%error, "cannot declare exchanges and queues yet; trying again");
                    tokio::time::sleep(DECLARE_AGAIN).await;
                }
                declared => return declared,
            }
        }
    };
    drain.run_until_cancelled(declare).await.unwrap_or(Ok(()))
}

/// After a drain began, lets results wait for a broker that is away only so long: they are kept in
/// the build directories, and the events will be delivered again.
async fn give_up_without(queue: Queue, drain: CancellationToken, give_up: CancellationToken) {
    drain.cancelled().await;
    loop {
        tokio::time::sleep(DRAIN_WITHOUT_BROKER).await;
        if !queue.status().is_ready() {
            return give_up.cancel();
        }
    }
}

/// Resolves when a drain has lasted for as long as `worker.drain_timeout` says, also where that was changed
/// meanwhile; answers how long that was.
async fn overdue(mut live: Live, drain: &CancellationToken) -> Duration {
    drain.cancelled().await;
    let began = Instant::now();
    loop {
        let grace = live.now().worker.drain_timeout;
        let left = grace.saturating_sub(began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(left) => return grace,
            () = live.changed() => {}
        }
    }
}

/// Waits for every task to end, which they do after a drain. One that ends before is an error, and
/// after `worker.drain_timeout` the rest is given back to the queue.
async fn drained(
    tasks: &mut JoinSet<()>,
    pages: &mut JoinHandle<anyhow::Result<()>>,
    live: Live,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let mut result = Ok(());
    let mut overdue = std::pin::pin!(overdue(live, &shutdown.drain));
    loop {
        let unexpected = tokio::select! {
            ended = tasks.join_next() => match ended {
                None => return result,
                Some(Ok(())) if shutdown.drain.is_cancelled() => continue,
                Some(Ok(())) => "a task of the worker ended".to_owned(),
                Some(Err(error)) => format!("a task of the worker ended: {error}"),
            },
            ended = &mut *pages, if result.is_ok() => {
                format!("the status pages ended: {ended:?}")
            }
            grace = &mut overdue, if !shutdown.abort.is_cancelled() => {
                tracing::warn!(
                    grace_s = grace.as_secs(),
                    "builds still run after worker.drain_timeout; giving them back"
                );
                shutdown.abort.cancel();
                continue;
            }
        };
        tracing::error!(error = unexpected, "a part ended although it must not; stopping");
        result = Err(anyhow::Error::msg(unexpected)).context("the worker cannot go on");
        shutdown.drain.cancel();
    }
}
