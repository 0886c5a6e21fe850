//! Serving the registry on an address.

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::router::{Registry, router};
use crate::publish::name::Namespace;
use crate::serving::{self, Limits};

/// Serves the registry until `shutdown`; then lets the running pulls finish for the configured
/// `drain_timeout`, and cuts what is left.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (config, tls, proxies) = (registry.config.clone(), registry.tls.clone(), registry.proxies.clone());
    let address = listener.local_addr().context("ask for the registry's address")?;
    info!(%address, host = config.host, tls = tls.is_some(), "the registry is serving");
    if !config.public_namespaces.is_empty() {
        let namespaces =
            config.public_namespaces.iter().map(Namespace::as_str).collect::<Vec<_>>().join(", ");
        warn!(namespaces, "anybody may pull the images of these namespaces (registry.public_namespaces)");
    }
    let limits = Limits {
        service: "registry",
        connections: config.max_connections,
        client_timeout: config.client_timeout,
        drain_timeout: config.drain_timeout,
    };
    serving::serve(listener, router(registry), tls, proxies, limits, shutdown).await?;
    info!(%address, "the registry has stopped");
    Ok(())
}
