//! Serving connections: bounded in number, each with deadlines, finished when told to stop; files go out on them
//! without a copy (`sendfile`), or by TLS where there is a certificate ([`tls`]). And where requests come from
//! (`source`), and how long who guesses passwords has to wait (`guesses`).

mod config;
mod connection;
mod descriptors;
mod guesses;
mod places;
mod sendfile;
mod source;
pub mod tls;

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

pub use self::config::ServerConfig;
use self::connection::{Connection, set_options};
use self::descriptors::Taking;
pub use self::guesses::Guesses;
use self::places::Places;
use self::sendfile::SendingStream;
pub use self::sendfile::{FileBody, FilePart, FileSender};
pub use self::source::Proxies;
use self::tls::Tls;

/// The other end of the connection that a request came on: an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// What clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whose they are, as the configuration calls its section.
    pub service: &'static str,
    /// Connections served at once; more wait in the kernel's queue.
    pub connections: usize,
    /// A client that for this long sends no complete request head, or takes no byte, is disconnected, and one that has
    /// not done with its TLS handshake.
    pub client_timeout: Duration,
    /// How long running requests may go on when told to stop.
    pub drain_timeout: Duration,
}

/// Serves `router`, by TLS if there is one, until `shutdown`; then takes no more connections, lets the running requests finish
/// within their limit, and cuts what is left.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    limits: Limits,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    descriptors::raise(&limits);
    let mut taking = Taking::new(listener, limits.service);
    let mut places = Places::new(limits);
    let tracker = TaskTracker::new();
    let cut = CancellationToken::new();
    let accept = async {
        loop {
            let free = places.free().await?;
            let (stream, peer) = taking.next().await;
            let client = Client { stream, peer, timeout: limits.client_timeout };
            let served = client.serve(router.clone(), tls.clone(), shutdown.clone());
            let (cut, taken) = (cut.clone(), free.take());
            tracker.spawn(async move {
                cut.run_until_cancelled(served).await;
                drop(taken);
            });
        }
    };
    let keep = async {
        match tls.clone() {
            Some(tls) => tls.keep().await,
            None => std::future::pending().await,
        }
    };
    let serve = async {
        tokio::select! { failed = accept => failed, failed = keep => failed }
    };
    match shutdown.run_until_cancelled(serve).await {
        Some(failed) => return failed,
        None => drop(taking),
    }
    tracker.close();
    drain(&tracker, &cut, limits.drain_timeout).await;
    Ok(())
}

/// Who has just connected.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    timeout: Duration,
}

impl Client {
    async fn serve(self, router: Router, tls: Option<Tls>, shutdown: CancellationToken) {
        let Self { stream, peer, timeout } = self;
        set_options(&stream, peer, timeout);
        match tls {
            None => {
                let sender = FileSender::default();
                let stream = SendingStream::new(stream, sender.clone());
                Connection { stream, peer, timeout, sender: Some(sender) }.serve(router, shutdown).await;
            }
            Some(tls) => {
                let greeted = shutdown.run_until_cancelled(tls.accept(stream, timeout)).await;
                if let Some(stream) = greeted.flatten() {
                    Connection { stream, peer, timeout, sender: None }.serve(router, shutdown).await;
                }
            }
        }
    }
}

async fn drain(tracker: &TaskTracker, cut: &CancellationToken, limit: Duration) {
    if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
        let connections = tracker.len();
        warn!(
            connections,
            limit_s = limit.as_secs(),
            "cut the requests that were still running at the drain limit"
        );
        cut.cancel();
        tracker.wait().await;
    }
}
