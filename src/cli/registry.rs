//! `buildgrid registry`: the read-only registry of a store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::shutdown::on_signals;
use super::worker::notify;
use crate::config::Config;
use crate::registry::{self, Registry};
use crate::store::Store;
use crate::telemetry::metrics::recorder;
use crate::telemetry::status::{self, Condition, Readiness};

/// Serve the images of the store to docker and its like, read-only
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  buildgrid --config /etc/buildgrid/worker-config.toml registry")]
pub struct Args {}

/// How often the store is looked at for `/readyz`.
const LOOK: Duration = Duration::from_secs(5);
/// How long the status pages may take to end when all else has.
const STATUS_END: Duration = Duration::from_secs(2);

pub async fn run(_: Args, config: &Config) -> Result<Exit, Failure> {
    let listener = bind("registry.listen", config.registry.listen).await?;
    let status_listener = bind("registry.status_listen", config.registry.status_listen).await?;
    let store = Store::open_read_only(&config.store)?;
    let (stop, insist, ended) =
        (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
    on_signals(stop.clone(), insist.clone())?;
    let stopping = stop.clone();
    tokio::spawn(async move {
        stopping.cancelled().await;
        tracing::info!("stopping: running pulls go on to their end; a second signal cuts them");
        notify(NotifyState::Stopping);
    });
    // The status pages are there until the last pull has ended.
    let readiness = watch_store(store.clone());
    let mut status = tokio::spawn(status::serve(status_listener, readiness, recorder()?, ended.clone()));
    tracing::info!(listen = %config.registry.listen, store = %config.store.path.display(), "registry started");
    notify(NotifyState::Ready);
    tokio::select! {
        served = registry::serve(listener, Registry::new(config.registry.clone(), store), stop) => served?,
        gone = &mut status => {
            gone.context("the status pages ended")??;
            return Err(anyhow::anyhow!("the status pages ended").into());
        }
        () = insist.cancelled() => {
            tracing::warn!("ended at once by a second signal");
            return Ok(Exit::Done);
        }
    }
    ended.cancel();
    tokio::select! {
        ended = tokio::time::timeout(STATUS_END, &mut status) => match ended {
            Ok(ended) => ended.context("the status pages ended")??,
            // Somebody has sent half a request.
            Err(_) => status.abort(),
        },
        () = insist.cancelled() => {}
    }
    Ok(Exit::Done)
}

/// Looks at the store from time to time: a file system that hangs must not hold up who asks.
fn watch_store(store: Store) -> Readiness {
    let (fault, watched) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let mut check = pin!(store.check());
            let checked = match tokio::time::timeout(LOOK, &mut check).await {
                Ok(checked) => checked,
                Err(_) => {
                    note(&fault, Some(format!("its version could not be read within {LOOK:?}")));
                    // Each look takes a thread until it ends: there is only one at a time.
                    check.await
                }
            };
            note(&fault, checked.err().map(|error| error.to_string()));
            tokio::time::sleep(LOOK).await;
        }
    });
    Arc::new(move || vec![Condition { name: "store", fault: watched.borrow().clone() }])
}

fn note(fault: &watch::Sender<Option<String>>, found: Option<String>) {
    if *fault.borrow() == found {
        return;
    }
    match &found {
        Some(error) => tracing::error!(error, "the store cannot be read"),
        None => tracing::info!("the store can be read again"),
    }
    fault.send_replace(found);
}

async fn bind(key: &str, address: std::net::SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {key} {address}"))
}
