//! Taking connections, and the file descriptors that they need.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use super::Limits;

/// A connection's socket, and the file that goes out on it.
const EACH: u64 = 2;
/// What else is open: listeners, status pages, the database or the store.
const OTHERS: u64 = 64;

/// How long it is waited where there are no descriptors; and until that is said again.
const PAUSE: Duration = Duration::from_secs(1);
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Raises the process's limit of open files as far as it may, and says so where that is still too low.
pub(super) fn raise(limits: &Limits) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let (service, needed) = (limits.service, needed(limits.connections));
    if let Some(limit) = limit.filter(|limit| *limit < needed) {
        tracing::warn!(
            service,
            limit,
            needed,
            "fewer files may be open than {service}.max_connections need; raise the limit (LimitNOFILE=, ulimit -Hn), \
             or lower {service}.max_connections"
        );
    }
}

fn needed(connections: usize) -> u64 {
    (connections as u64).saturating_mul(EACH).saturating_add(OTHERS)
}

/// Takes connections. Where that fails it says why, and tries again.
pub(super) struct Taking {
    listener: TcpListener,
    service: &'static str,
    said: Option<Instant>,
}

impl Taking {
    pub(super) fn new(listener: TcpListener, service: &'static str) -> Self {
        Self { listener, service, said: None }
    }

    pub(super) async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(taken) => return taken,
                // The client was gone before it was its turn.
                Err(error) if of_client(&error) => {}
                Err(error) => {
                    self.say(&error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn say(&mut self, error: &io::Error) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_AGAIN) {
            return;
        }
        self.said = Some(Instant::now());
        let service = self.service;
        tracing::error!(
            service, %error,
            "cannot take connections, and clients wait; where too many files are open, raise the limit (LimitNOFILE=, \
             ulimit -Hn), or lower {service}.max_connections"
        );
    }
}

fn of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_connection_needs_its_socket_and_a_file() {
        assert_eq!(needed(400), 864);
        assert_eq!(needed(usize::MAX), u64::MAX);
    }
}
