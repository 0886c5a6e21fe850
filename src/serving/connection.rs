//! One client's connection: HTTP/1.1, with TLS and without. One request at a time is what bounds the open files.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::debug;

use super::sendfile::FileSender;
use super::visit::{Visit, Watched};

/// The most of a connection's bytes that are kept: of a request's head, and of what is to be written. hyper answers a
/// longer head with 431; what a service takes of one it says itself.
const MAX_BUFFER: usize = 96 << 10;

/// How long one that is dismissed has to be done with what hyper does for it.
const LEAVING: Duration = Duration::from_secs(1);

/// The other end of the connection that a request came on: an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

pub(super) struct Connection<S> {
    pub(super) stream: S,
    pub(super) peer: SocketAddr,
    /// How long the client may send no complete request head.
    pub(super) timeout: Duration,
    /// Sends files on the stream, if that can.
    pub(super) sender: Option<FileSender>,
    pub(super) visit: Arc<Visit>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Connection<S> {
    /// Serves until the client goes, a deadline passes or, after the running request, `shutdown`, or it is dismissed.
    ///
    /// What is not HTTP is answered with hyper's 400: Docker tries TLS first, and goes on in plain
    /// HTTP on loopback only when the answer to its greeting begins with `HTTP/`.
    pub(super) async fn serve(self, router: Router, shutdown: CancellationToken) {
        let Self { stream, peer, timeout, sender, visit } = self;
        let stream = Watched::new(stream, visit.clone());
        let answered = visit.clone();
        let service = router.map_request(move |mut request: http::Request<_>| {
            request.extensions_mut().insert(Peer(peer));
            if let Some(sender) = &sender {
                request.extensions_mut().insert(sender.clone());
            }
            request
        });
        let service = service.map_future(move |answer| {
            let answering = answered.answer();
            async move { answer.await.map(|answer| answer.map(|body| answering.until_the_end_of(body))) }
        });
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder.http1().timer(TokioTimer::new()).header_read_timeout(timeout).max_buf_size(MAX_BUFFER);
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = visit.dismissed() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(LEAVING, connection.as_mut()).await {
                    Ok(ended) => ended,
                    // It has sent half a request, for which hyper would wait.
                    Err(_) if visit.idle_since().is_some() => Ok(()),
                    Err(_) => connection.await,
                }
            }
        };
        if let Err(error) = ended {
            debug!(%peer, %error, "a connection ended early");
        }
    }
}

/// The kernel gives up on a client that takes nothing for `timeout` (tcp(7), `TCP_USER_TIMEOUT`: it
/// covers lost acknowledgements and a window that stays closed).
pub(super) fn set_options(stream: &TcpStream, peer: SocketAddr, timeout: Duration) {
    let set = stream
        .set_nodelay(true)
        .and_then(|()| socket2::SockRef::from(stream).set_tcp_user_timeout(Some(timeout)));
    if let Err(error) = set {
        debug!(%peer, %error, "cannot set a connection's options");
    }
}
