//! `buildgrid registry`: the read-only registry of a store.

use std::sync::Arc;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::shutdown::on_signals;
use super::worker::notify;
use crate::config::Config;
use crate::registry::{self, Registry};
use crate::store::Store;
use crate::telemetry::metrics::recorder;
use crate::telemetry::status;

/// Serve the images of the store to docker and its like, read-only
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  buildgrid --config /etc/buildgrid/worker-config.toml registry")]
pub struct Args {}

pub async fn run(_: Args, config: &Config) -> Result<Exit, Failure> {
    let listener = bind("registry.listen", config.registry.listen).await?;
    let status_listener = bind("registry.status_listen", config.registry.status_listen).await?;
    let store = Store::open_read_only(&config.store)?;
    let stop = CancellationToken::new();
    on_signals(stop.clone(), CancellationToken::new())?;
    let status = tokio::spawn(status::serve(status_listener, Arc::new(Vec::new), recorder()?, stop.clone()));
    tracing::info!(listen = %config.registry.listen, store = %config.store.path.display(), "registry started");
    notify(NotifyState::Ready);
    registry::serve(listener, Registry::new(config.registry.clone(), store), stop.clone()).await?;
    notify(NotifyState::Stopping);
    stop.cancel();
    status.await.context("the status pages ended")??;
    Ok(Exit::Done)
}

async fn bind(key: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {key} {address}"))
}
