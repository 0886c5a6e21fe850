//! Connections to the engine that can be severed all at once.
//!
//! bollard leaves a build's session open when the build is over (one connection and one gRPC server
//! per build, in the worker and in the engine). So each build speaks through a [`Transport`] of its
//! own, and when the build ends, for whatever reason, its connections end with it. By that the engine
//! also notices that a build has lost its worker, and stops it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use bollard::BollardRequest;
use bollard::errors::Error;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Response, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Unix(String),
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(host: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{host:?} is not the address of an engine: expected unix:///path/to/docker.sock or tcp://host:port"
            )
        };
        match host.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("tcp" | "http", authority)) => {
                let parsed: Authority = authority.parse().map_err(|_| wrong())?;
                match parsed.port_u16() {
                    Some(_) => Ok(Self::Tcp(authority.to_owned())),
                    None => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }
}

/// One connection per request, to one engine, until `severed`.
#[derive(Clone)]
pub(super) struct Transport {
    pub(super) address: Address,
    pub(super) severed: CancellationToken,
}

impl Transport {
    async fn connect(&self) -> io::Result<Severable> {
        let io: Box<dyn Io> = match &self.address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp(authority) => Box::new(TcpStream::connect(authority).await?),
        };
        Ok(Severable { io, severed: Box::pin(self.severed.clone().cancelled_owned()) })
    }

    /// Sends a request over a connection of its own.
    pub(super) async fn send(self, mut request: BollardRequest) -> Result<Response<Incoming>, Error> {
        let io = self.connect().await.map_err(|err| Error::IOError { err })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        // Ends with the response's body, with the upgraded connection, or when severed.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the docker engine ended");
            }
        });
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = Uri::try_from(path).map_err(http::Error::from)?;
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        Ok(sender.send_request(request).await?)
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection that breaks in both directions as soon as it is severed.
struct Severable {
    io: Box<dyn Io>,
    severed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Severable {
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.severed.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the build is over")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Severable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for Severable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        assert_eq!("unix:///run/d.sock".parse(), Ok(Address::Unix("/run/d.sock".into())));
        assert_eq!("tcp://127.0.0.1:2375".parse(), Ok(Address::Tcp("127.0.0.1:2375".into())));
        for bad in [
            "",
            "/var/run/docker.sock",
            "unix://docker.sock",
            "tcp://host",
            "tcp://host:1/path",
            "https://host:2376",
            "ssh://host",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
