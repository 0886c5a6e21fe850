//! `buildgrid registry`: the read-only registry of a store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;

use super::daemon::{Stop, beside_status_pages, bind, notify};
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::registry::{self, Registry};
use crate::store::Store;
use crate::telemetry::status::{Condition, Readiness};

/// Serve the images of the store to docker and its like, read-only
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  buildgrid --config /etc/buildgrid/worker-config.toml registry")]
pub struct Args {}

/// How often the store is looked at for `/readyz`.
const LOOK: Duration = Duration::from_secs(5);
pub async fn run(_: Args, config: &Config) -> Result<Exit, Failure> {
    let listener = bind("registry.listen", config.registry.listen).await?;
    let status = bind("registry.status_listen", config.registry.status_listen).await?;
    let store = Store::open_read_only(&config.store)?;
    let stop = Stop::at_signals("stopping: running pulls go on to their end; a second signal cuts them")?;
    tracing::info!(listen = %config.registry.listen, store = %config.store.path.display(), "registry started");
    notify(NotifyState::Ready);
    let registry = Registry::new(config.registry.clone(), store.clone());
    let served = registry::serve(listener, registry, stop.first.clone());
    beside_status_pages(status, watch_store(store), &stop, served).await
}

/// Looks at the store from time to time: a file system that hangs must not hold up who asks.
pub(super) fn watch_store(store: Store) -> Readiness {
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
