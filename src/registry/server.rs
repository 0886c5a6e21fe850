//! Serving connections: bounded in number, each with deadlines, finished when told to stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::serve::Listener;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::connection::Connection;
use super::router::{Registry, router};

/// Serves the registry until `shutdown`; then takes no more connections, lets the running requests
/// finish for the configured `drain_timeout`, and cuts what is left.
pub async fn serve(
    mut listener: TcpListener,
    registry: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = registry.config.clone();
    let address = listener.local_addr().context("ask for the registry's address")?;
    info!(%address, host = config.host, "the registry is serving");
    let router = router(registry);
    let connections = Arc::new(Semaphore::new(config.max_connections));
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let accept = async {
        loop {
            let slot =
                connections.clone().acquire_owned().await.context("the registry's connections are closed")?;
            let (stream, peer) = Listener::accept(&mut listener).await;
            let connection = Connection { stream, peer, timeout: config.client_timeout };
            let served = connection.serve(router.clone(), shutdown.clone());
            let cut = cut.clone();
            tracker.spawn(async move {
                cut.run_until_cancelled(served).await;
                drop(slot);
            });
        }
    };
    match shutdown.run_until_cancelled(accept).await {
        Some(failed) => return failed,
        None => drop(listener),
    }
    tracker.close();
    drain(&tracker, &cut, config.drain_timeout).await;
    info!(%address, "the registry has stopped");
    Ok(())
}

async fn drain(tracker: &TaskTracker, cut: &CancellationToken, limit: Duration) {
    if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
        let connections = tracker.len();
        warn!(
            connections,
            limit_s = limit.as_secs(),
            "cut the pulls that were still running at the drain limit"
        );
        cut.cancel();
        tracker.wait().await;
    }
}
