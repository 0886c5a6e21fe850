//! From a listener to connections that are served: who is let in, who waits, and the end.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::connection::{Connection, set_options};
use super::descriptors::{self, Taking};
use super::places::Places;
use super::sendfile::{FileSender, SendingStream};
use super::source::Proxies;
use super::tls::Tls;
use super::visit::Visit;
use super::visits::Visits;

/// How often it is looked who waits, while somebody does.
const LOOK: Duration = Duration::from_millis(250);

/// What clients may use up.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Whose they are, as the configuration calls its section.
    pub service: &'static str,
    /// Connections served at once, of which one source has seven eighths at most.
    pub connections: usize,
    /// A client that for this long sends no complete request head, or takes no byte, is disconnected, and one that has
    /// not done with its TLS handshake.
    pub client_timeout: Duration,
    /// How long running requests may go on when told to stop.
    pub drain_timeout: Duration,
}

/// Serves `router`, by TLS if there is one, until `shutdown`; then takes no more connections, lets the running requests finish
/// within their limit, and cuts what is left. `proxies` may have all connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: Option<Tls>,
    proxies: Proxies,
    limits: Limits,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let room = descriptors::raise(&limits);
    let mut taking = Taking::new(listener, limits.service);
    let mut places = Places::new(limits, proxies, room);
    let mut visits = Visits::default();
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let take = async {
        loop {
            tokio::select! {
                (stream, peer) = taking.next(), if places.may_come() => {
                    places.came(peer.ip(), Client { stream, peer, timeout: limits.client_timeout });
                }
                Some(source) = visits.ended() => places.left(&source),
                _ = look.tick(), if places.are_short() => {
                    places.forget(Client::has_gone);
                    places.say();
                    places.make_room(visits.idle());
                }
            }
            while let Some((source, client)) = places.next() {
                let (router, tls, shutdown) = (router.clone(), tls.clone(), shutdown.clone());
                visits.begin(source, |visit| client.serve(router, tls, visit, shutdown));
            }
        }
    };
    let keep = async {
        match tls.clone() {
            Some(tls) => tls.keep().await,
            None => std::future::pending().await,
        }
    };
    let serve = async {
        tokio::select! { () = take => Ok(()), failed = keep => failed }
    };
    match shutdown.run_until_cancelled(serve).await {
        Some(failed) => return failed,
        None => drop(taking),
    }
    places.close();
    drain(&mut visits, &mut places, limits.drain_timeout).await;
    Ok(())
}

async fn drain(visits: &mut Visits, places: &mut Places<Client>, limit: Duration) {
    let mut empty = async |visits: &mut Visits| {
        while let Some(source) = visits.ended().await {
            places.left(&source);
        }
    };
    if tokio::time::timeout(limit, empty(visits)).await.is_err() {
        warn!(
            connections = visits.count(),
            limit_s = limit.as_secs(),
            "cut the requests that were still running at the drain limit"
        );
        visits.cut();
        empty(visits).await;
    }
}

/// Who has connected.
struct Client {
    stream: TcpStream,
    peer: SocketAddr,
    timeout: Duration,
}

impl Client {
    /// Whether nobody is there any more to whom an answer could go. Who sends no more counts: hyper, too, ends a
    /// connection whose other half is closed.
    fn has_gone(&self) -> bool {
        let mut socket = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let polled = poll(&mut socket, Some(&Timespec::default()));
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        polled.is_ok() && socket[0].revents().intersects(gone)
    }

    async fn serve(
        self,
        router: Router,
        tls: Option<Tls>,
        visit: std::sync::Arc<Visit>,
        shutdown: CancellationToken,
    ) {
        let Self { stream, peer, timeout } = self;
        set_options(&stream, peer, timeout);
        match tls {
            None => {
                let sender = FileSender::default();
                let stream = SendingStream::new(stream, sender.clone());
                let sender = Some(sender);
                Connection { stream, peer, timeout, sender, visit }.serve(router, shutdown).await;
            }
            Some(tls) => {
                let greeted = tokio::select! {
                    greeted = tls.accept(stream, timeout) => greeted,
                    () = shutdown.cancelled() => None,
                    () = visit.evicted() => None,
                };
                if let Some(stream) = greeted {
                    Connection { stream, peer, timeout, sender: None, visit }.serve(router, shutdown).await;
                }
            }
        }
    }
}
