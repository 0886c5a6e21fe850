//! One attempt to connect, bounded in time and leaving nothing behind when it fails.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::tcp::{AsyncTcpStream, OwnedTLSConfig};
use lapin::types::LongString;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties};
use tokio::net::lookup_host;

use super::error::BrokerError;
use crate::queue::{BrokerUrl, QueueConfig};

/// Connects and logs in. `name` is what the broker's list of connections shows.
pub(super) async fn connect(config: &QueueConfig, name: &str) -> Result<Connection, BrokerError> {
    let url = config.resolved_url().map_err(BrokerError::Settings)?;
    let mut uri: AMQPUri = url.expose().parse().map_err(BrokerError::Settings)?;
    // lapin's parser takes an IPv6 address for no host at all and would go to localhost.
    uri.authority.host = url.host().to_owned();
    let heartbeat = u16::try_from(config.heartbeat.as_secs()).unwrap_or(u16::MAX);
    uri.query.heartbeat.get_or_insert(heartbeat);
    // Never lapin's own: see the module's documentation.
    let properties = ConnectionProperties::default().with_connection_name(LongString::from(name));

    let limit = config.connect_timeout;
    let authorities =
        config.network.authorities().map_err(|error| unreachable(&url, &format!("{error:#}")))?;
    let socket = Socket::default();
    let opened = socket.clone();
    let runtime = lapin::runtime::default_runtime().map_err(|error| unreachable(&url, &error))?;
    let connecting = Connection::connector(
        uri,
        runtime,
        async move |uri: AMQPUri, runtime| {
            let host = uri.authority.host.as_str();
            let connect = async {
                let addresses: Vec<_> = lookup_host((host, uri.authority.port)).await?.collect();
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    opened.keep(plain.get_ref())?;
                }
                match uri.scheme {
                    lapin::uri::AMQPScheme::AMQP => Ok(stream),
                    lapin::uri::AMQPScheme::AMQPS => {
                        let tls =
                            OwnedTLSConfig { cert_chain: authorities.clone(), ..OwnedTLSConfig::default() };
                        stream.into_tls(host, tls.as_ref()).await
                    }
                }
            };
            let connected = tokio::time::timeout(limit, connect).await;
            connected.unwrap_or_else(|_| Err(timed_out(limit))).map_err(lapin::Error::from)
        },
        properties,
    );
    // A little longer than the attempt inside, whose sentence is the better one.
    match tokio::time::timeout(limit + Duration::from_millis(500), connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(refused(&url, error)),
        Err(_) => {
            // lapin's thread would wait on a silent peer for ever: it ends with its socket.
            socket.shut();
            Err(unreachable(&url, &timed_out(limit)))
        }
    }
}

/// A second handle to the connection's socket, by which an attempt can be ended from outside.
#[derive(Clone, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    fn keep(&self, stream: &impl AsFd) -> std::io::Result<()> {
        let handle = TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        Ok(())
    }

    fn shut(&self) {
        if let Some(handle) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It fails only where the peer has closed already.
            let _ = handle.shutdown(Shutdown::Both);
        }
    }
}

fn timed_out(limit: Duration) -> std::io::Error {
    let limit = humantime_serde::re::humantime::format_duration(limit);
    std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no connection within {limit}"))
}

fn unreachable(url: &BrokerUrl, reason: &dyn std::fmt::Display) -> BrokerError {
    BrokerError::Unreachable { address: url.address().to_owned(), reason: reason.to_string() }
}

fn refused(url: &BrokerUrl, error: lapin::Error) -> BrokerError {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(amqp) => {
            let (address, reason) = (url.address().to_owned(), amqp.get_message().to_string());
            match amqp.kind() {
                // Said of connection.open, which names the virtual host, after the login.
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => {
                    BrokerError::Vhost { address, vhost: url.vhost().to_owned(), reason }
                }
                _ => BrokerError::Login { address, reason },
            }
        }
        lapin::ErrorKind::IOError(io) => unreachable(url, io),
        _ => unreachable(url, &error),
    }
}
