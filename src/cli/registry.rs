//! `buildgrid registry`: the read-only registry of a store.

use sd_notify::NotifyState;

use super::daemon::{Stop, beside_status_pages, bind};
use super::exit::{Exit, Failure};
use super::reload::{self, File};
use crate::config::Config;
use crate::registry::{self, Registry};
use crate::serving::Proxies;
use crate::serving::tls::Tls;
use crate::store::Store;
use crate::telemetry::status;
use crate::telemetry::watchdog::tell;

/// Serve the images of the store to docker and its like, read-only
#[derive(clap::Args)]
#[command(after_help = "\
SIGHUP reads the configuration again; what of it can change meanwhile stands in the README.

Example:
  buildgrid --config /etc/buildgrid/worker-config.toml registry")]
pub struct Args {}

pub async fn run(_: Args, config: &Config, file: File) -> Result<Exit, Failure> {
    let listener = bind("registry.listen", config.registry.listen).await?;
    let status = bind("registry.status_listen", config.registry.status_listen).await?;
    let store = Store::open_read_only(&config.store)?;
    let tls = Tls::configured("registry", config.registry.tls.as_ref(), &config.registry.host).await;
    let tls = tls.map_err(|unusable| Failure::new(Exit::Configuration, unusable))?;
    let stop = Stop::at_signals("stopping: running pulls go on to their end; a second signal cuts them")?;
    let live = reload::at_sighup(file, config, &["store", "registry", "server", "logging"], &stop)?;
    tracing::info!(listen = %config.registry.listen, store = %config.store, "registry started");
    tell(&[NotifyState::Ready]);
    let readiness = [Some(store.readiness()), tls.as_ref().map(Tls::readiness)];
    let readiness = status::all(readiness.into_iter().flatten().collect());
    let registry = Registry::new(config.registry.clone(), Proxies::new(&config.server), store);
    let registry = registry.following(live).with_tls(tls);
    let served = registry::serve(listener, registry, stop.first.clone());
    beside_status_pages(status, readiness, Vec::new(), &stop, served).await
}
