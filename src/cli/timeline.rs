//! `buildgrid timeline`: the timeline service.

use std::sync::Arc;

use sd_notify::NotifyState;

use super::daemon::{Stop, beside_status_pages, bind};
use super::exit::{Exit, Failure};
use super::reload::{self, File};
use crate::config::Config;
use crate::serving::tls::Tls;
use crate::store::{Store, StoreConfig};
use crate::telemetry::status;
use crate::telemetry::watchdog::tell;
use crate::web::db::{Database, OpenError};
use crate::web::{self, Enqueuer, Timeline};

/// Keep the record and log of every build, decide which worker builds what, and show it all
#[derive(clap::Args)]
#[command(after_help = "\
Its pages are for people (`buildgrid user add`), /api/v1 is for workers, Maestro and commands
(`buildgrid token add`).
SIGHUP reads the configuration again; what of it can change meanwhile stands in the README.

Example:
  buildgrid --config /etc/buildgrid/worker-config.toml timeline")]
pub struct Args {}

pub async fn run(_: Args, config: &Config, file: File) -> Result<Exit, Failure> {
    let listener = bind("timeline.listen", config.timeline.listen).await?;
    let status = bind("timeline.status_listen", config.timeline.status_listen).await?;
    let tls = Tls::configured("timeline", config.timeline.tls.as_ref(), &config.timeline.host()).await;
    let tls = tls.map_err(|unusable| Failure::new(Exit::Configuration, unusable))?;
    let database = Database::open(&config.timeline.data_dir).await;
    let database = database.map_err(|error| match error {
        // A disk that is full or away may be back at the next start, which systemd leaves out after a 78.
        OpenError::Directory { .. } | OpenError::Database { .. } | OpenError::Space { .. } => {
            Failure::new(Exit::Internal, error)
        }
        error => Failure::new(Exit::Configuration, error),
    })?;
    let stop = Stop::at_signals("stopping: running requests go on to their end; a second signal cuts them")?;
    let own = &[
        "timeline",
        "server",
        "policy",
        "history",
        "queue",
        "store",
        "registry",
        "namespaces",
        "fake",
        "logging",
    ];
    let live = reload::at_sighup(file, config, own, &stop)?;
    let queue = Enqueuer::on_demand(config.queue.clone());
    let readiness = [Some(database.readiness()), tls.as_ref().map(Tls::readiness)];
    let readiness = status::all(readiness.into_iter().flatten().collect());
    let store = store(config.store.clone()).await?;
    let timeline = Timeline::new(live, database.clone(), queue, store, stop.first.clone());
    let timeline = timeline.await?.with_tls(tls);
    let writes = vec![database.writes()];
    tell(&[NotifyState::Ready]);
    beside_status_pages(status, readiness, writes, &stop, web::serve(listener, Arc::new(timeline))).await
}

/// The store, where it can be read on this machine: it need not be.
async fn store(config: StoreConfig) -> Result<Option<Store>, Failure> {
    let place = config.to_string();
    match tokio::task::spawn_blocking(move || Store::open_read_only(&config)).await? {
        Ok(store) => Ok(Some(store)),
        Err(error) => {
            tracing::info!(
                path = %place, %error,
                "no store can be read here: the logs of all published builds are kept, as if their images were there"
            );
            Ok(None)
        }
    }
}
