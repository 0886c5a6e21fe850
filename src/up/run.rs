//! Everything in one process: started from the bottom up, ended from the top down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::announcement::Announcement;
use super::first_start;
use crate::config::{Config, Live};
use crate::disk::Fill;
use crate::queue::embedded::EmbeddedQueue;
use crate::registry::{self, Registry};
use crate::serving::Proxies;
use crate::serving::tls::Tls;
use crate::store::Store;
use crate::web::access::Role;
use crate::web::db::Database;
use crate::web::{self, Enqueuer, Timeline};
use crate::worker::daemon::{self, Shutdown, StatusPages};
use crate::worker::janitor;

/// The addresses it listens on: taken before anything is changed, so that one that is in use stops the start.
pub struct Listeners {
    pub registry: TcpListener,
    pub timeline: TcpListener,
    pub status: TcpListener,
}

/// What it says to the person who started it, once it is ready.
pub struct Greeting {
    pub data_dir: PathBuf,
    /// Whether commands look there without being told.
    pub is_usual: bool,
    /// The pages.
    pub url: String,
    pub registry: String,
    /// Whether there is the login `admin`, whose password can be changed.
    pub has_admin: bool,
}

/// The configuration as it runs: every directory below the one of `up`.
pub fn adopt(config: &Config) -> Config {
    let mut config = config.clone();
    let data_dir = config.up.resolved_data_dir();
    config.worker.data_dir = data_dir.join("worker");
    if config.store.url.is_none() {
        config.store.path = data_dir.join("store");
    }
    config.timeline.data_dir = data_dir.join("timeline");
    config.up.data_dir = data_dir;
    config
}

/// Where the queue lies.
pub fn queue_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("queue")
}

/// The directories for a command that looks into what is kept: those of `up`, if it has been started and
/// the configuration names its directory or there is nothing else.
pub fn adopted(config: &Config) -> Option<Config> {
    let adopted = adopt(config);
    let started = queue_directory(&adopted.up.data_dir).join("queue.db").exists();
    let named = !config.up.data_dir.as_os_str().is_empty();
    let alone =
        config.store.directory().is_some_and(|path| !path.exists()) && !config.timeline.data_dir.exists();
    (started && (named || alone)).then_some(adopted)
}

/// Runs until `shutdown`: the worker drains first, while pages and registry are there; then these end.
/// `made_admin` gets the password of the login that a first start makes, as soon as it is made: what fails
/// afterwards must not take it away. `ready` is called once all is up.
pub async fn run(
    config: impl Into<Live>,
    listeners: Listeners,
    shutdown: Shutdown,
    made_admin: impl FnOnce(&SecretString),
    ready: impl FnOnce(Greeting),
) -> anyhow::Result<()> {
    let live = config.into();
    let mut config = live.now();
    let is_usual = config.up.data_dir.as_os_str().is_empty();
    config.up.data_dir = first_start::directory(&config.up.resolved_data_dir())?;
    let mut config = adopt(&config);
    let data_dir = config.up.data_dir.clone();

    let registry_tls =
        Tls::configured("registry", config.registry.tls.as_ref(), &config.registry.host).await?;
    let timeline_tls =
        Tls::configured("timeline", config.timeline.tls.as_ref(), &config.timeline.host()).await?;
    let room = config.clone();
    tokio::task::spawn_blocking(move || janitor::make_room(&room, true)).await??;
    // The lock of the queue is the one on everything: whoever has it is the only one.
    let worker = config.worker.resolved_name();
    let queue = EmbeddedQueue::open(&queue_directory(&data_dir), &config.queue, &worker).await;
    let queue = queue.map_err(|error| with_fill(error.into(), &data_dir))?;
    let database = Database::open(&config.timeline.data_dir).await;
    let database = database.map_err(|error| with_fill(error.into(), &data_dir))?;
    let worker_token = first_start::token(&database, &data_dir, "worker", Role::Worker).await?;
    let local_token = first_start::token(&database, &data_dir, "local", Role::Maestro).await?;
    if config.timeline.base().is_none() {
        let address = listeners.timeline.local_addr().context("ask for the timeline's address")?;
        config.timeline.url = format!("http://{address}");
    }
    config.timeline.token_file = Some(worker_token);
    let announcement = Announcement {
        version: Announcement::VERSION,
        pid: std::process::id(),
        url: config.timeline.url.clone(),
        token_file: local_token,
        registry: config.registry.host.clone(),
        status: listeners.status.local_addr().context("ask for the status address")?.to_string(),
    };

    let opened = config.store.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&opened)).await??;
    let stop = CancellationToken::new();
    let enqueuer = Enqueuer::Into(queue.clone().into());
    let timeline =
        Timeline::new(live.on(config.clone()), database.clone(), enqueuer, Some(store.clone()), stop.clone());
    let timeline = timeline.await?.with_tls(timeline_tls.clone());
    // Last of all that is made: a start that has failed before has made no login.
    if let Some(password) = first_start::admin(&database).await? {
        made_admin(&password);
    }
    let greeting = Greeting {
        data_dir: data_dir.clone(),
        is_usual,
        url: config.timeline.url.clone(),
        registry: config.registry.host.clone(),
        has_admin: first_start::has_admin(&database).await?,
    };
    let mut timeline = tokio::spawn(web::serve(listeners.timeline, Arc::new(timeline)));
    let registry = Registry::new(config.registry.clone(), Proxies::new(&config.server), store.clone())
        .following(live.on(config.clone()))
        .with_tls(registry_tls.clone());
    let mut registry = tokio::spawn(registry::serve(listeners.registry, registry, stop.clone()));
    announcement.write(&data_dir)?;

    let mut also = vec![store.readiness(), database.readiness()];
    also.extend([registry_tls, timeline_tls].iter().flatten().map(Tls::readiness));
    let pages = StatusPages { listener: listeners.status, also };
    let worker = daemon::run(live.on(config), queue.clone().into(), pages, shutdown, || ready(greeting));
    let mut worker = std::pin::pin!(worker);
    let mut ended = tokio::select! {
        worker = &mut worker => worker,
        ended = &mut timeline => Err(gone("timeline", ended)),
        ended = &mut registry => Err(gone("registry", ended)),
    };
    stop.cancel();
    for (name, server) in [("timeline", timeline), ("registry", registry)] {
        // One that has been waited for has told why.
        if !server.is_finished()
            && let Err(error) = server.await.map_err(anyhow::Error::from).and_then(|served| served)
        {
            ended = ended.and(Err(error.context(format!("end the {name}"))));
        }
    }
    queue.close().await;
    Announcement::remove(&data_dir);
    ended
}

/// Names the cause of what a full disk did to a database, which does not know it.
fn with_fill(error: anyhow::Error, data_dir: &Path) -> anyhow::Error {
    match Fill::of(data_dir) {
        // What SQLite asks for at once.
        Ok(fill) if fill.free < 1 << 20 => {
            error.context(format!("the disk of {} is full; free space there", data_dir.display()))
        }
        _ => error,
    }
}

fn gone(name: &str, ended: Result<anyhow::Result<()>, tokio::task::JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("the {name} ended although it must not"),
        Ok(Err(error)) => error.context(format!("the {name} ended")),
        Err(error) => anyhow::Error::from(error).context(format!("the {name} ended")),
    }
}
