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

/// How long one that is evicted has to be done with what hyper does for it.
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
    /// Serves until the client goes, a deadline passes or, after the running request, `shutdown`, or it is evicted.
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
            () = visit.evicted() => {
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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const LENGTH: usize = 1000;

    /// A client's end, which takes a few bytes at a time.
    fn serving(visit: &Arc<Visit>) -> DuplexStream {
        let (client, stream) = tokio::io::duplex(64);
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let timeout = Duration::from_secs(60);
        let connection = Connection { stream, peer, timeout, sender: None, visit: visit.clone() };
        let router = Router::new().route("/", get(|| async { "x".repeat(LENGTH) }));
        tokio::spawn(connection.serve(router, CancellationToken::new()));
        client
    }

    /// Waits until this holds, and lets the connection go on for a while.
    async fn until(condition: impl Fn() -> bool) {
        for _ in 0..1000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if condition() {
                return tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        panic!("waited in vain");
    }

    #[tokio::test]
    async fn it_is_idle_until_all_is_asked_and_once_all_has_been_sent() {
        let visit = Arc::new(Visit::new());
        let mut client = serving(&visit);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
        until(|| true).await;
        let began = visit.idle_since().expect("half a request is none");
        client.write_all(b"\r\n").await.unwrap();
        until(|| visit.idle_since().is_none()).await;
        // hyper has all of the answer, and the client nearly nothing.
        assert_eq!(visit.idle_since(), None);
        let mut answer = Vec::new();
        while !answer.ends_with("x".repeat(LENGTH).as_bytes()) {
            client.read_buf(&mut answer).await.unwrap();
        }
        until(|| visit.idle_since().is_some_and(|since| since > began)).await;
        visit.evict();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn one_that_is_evicted_ends_after_the_whole_answer_and_half_a_request_at_once() {
        let visits = [Arc::new(Visit::new()), Arc::new(Visit::new())];
        let [mut asking, mut half] = visits.each_ref().map(serving);
        asking.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        half.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        until(|| visits[0].idle_since().is_none()).await;
        visits.iter().for_each(|visit| visit.evict());
        tokio::time::sleep(2 * LEAVING).await;
        assert_eq!(half.read(&mut [0]).await.unwrap(), 0);
        let mut answer = Vec::new();
        asking.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with("x".repeat(LENGTH).as_bytes()));
    }
}
