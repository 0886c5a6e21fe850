//! From a connection to one that is encrypted.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::Tls;

/// What a handshake begins with (RFC 8446, 5.1: `ContentType.handshake`).
const HANDSHAKE: u8 = 22;
/// To a browser or command that was told `http://`.
const NOT_TLS: &str = "This port speaks TLS: ask by https://\n";
/// How much of a request that is not heard is taken, so that the answer is not lost with the connection, and for how long.
const UNHEARD: u64 = 16 << 10;
const UNHEARD_FOR: Duration = Duration::from_secs(1);

impl Tls {
    /// Greets a client, which must be done with it within `limit`. None for one that is not, or does not speak TLS.
    pub(in crate::serving) async fn accept(
        &self,
        stream: TcpStream,
        limit: Duration,
    ) -> Option<TlsStream<TcpStream>> {
        let peer = stream.peer_addr().ok();
        match tokio::time::timeout(limit, Box::pin(self.greet(stream))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                debug!(?peer, %error, "a TLS handshake failed");
                None
            }
            Err(_) => {
                debug!(?peer, ?limit, "a TLS handshake was not done in time");
                None
            }
        }
    }

    async fn greet(&self, stream: TcpStream) -> std::io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        match stream.peek(&mut first).await? {
            0 => Ok(None),
            _ if first[0] == HANDSHAKE => self.acceptor.accept(stream).await.map(Some),
            _ => refuse(stream).await.map(|()| None),
        }
    }
}

async fn refuse(mut stream: TcpStream) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{NOT_TLS}",
        NOT_TLS.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    let (mut unheard, mut nowhere) = (stream.take(UNHEARD), tokio::io::sink());
    let _ = tokio::time::timeout(UNHEARD_FOR, tokio::io::copy(&mut unheard, &mut nowhere)).await;
    Ok(())
}
