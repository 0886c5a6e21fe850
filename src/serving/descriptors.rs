//! Taking connections, and the file descriptors that they need.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};

use super::rate_limited::RateLimited;
use super::server::Limits;

/// A connection's socket, and the file that goes out on it.
const EACH: u64 = 2;
/// What else is open: listeners, status pages, the database or the store.
const OTHERS: u64 = 64;

/// How many connections may wait for a place, each with a socket: at the most, and where hardly any file may be open.
const ROOM: usize = 1024;
const LEAST_ROOM: usize = 64;

/// How long it is waited where there are no descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Raises the process's limit of open files as far as it may, and says so where that is still too low. Answers how many
/// connections may wait beside those that are served.
pub(super) fn raise(limits: &Limits) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current };
    let (service, served) = (limits.service, needed(limits.connections));
    if let Some((limit, needed)) = too_low(limit, served) {
        tracing::warn!(
            service,
            limit,
            needed,
            "fewer files may be open than {service}.max_connections need; raise the limit (LimitNOFILE=, ulimit -Hn), \
             or lower {service}.max_connections"
        );
    }
    room(limit, served)
}

/// The limit and what it should be, where those who wait would take descriptors from those who are served.
fn too_low(limit: Option<u64>, served: u64) -> Option<(u64, u64)> {
    let needed = served.saturating_add(LEAST_ROOM as u64);
    limit.filter(|limit| *limit < needed).map(|limit| (limit, needed))
}

/// As many as may be open beside what those who are served need; the least also where there is not as much.
fn room(limit: Option<u64>, served: u64) -> usize {
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(served));
    usize::try_from(left).unwrap_or(ROOM).clamp(LEAST_ROOM, ROOM)
}

fn needed(connections: usize) -> u64 {
    (connections as u64).saturating_mul(EACH).saturating_add(OTHERS)
}

/// Takes connections. Where that fails it says why, and tries again.
pub(super) struct Taking {
    listener: TcpListener,
    service: &'static str,
    said: RateLimited,
}

impl Taking {
    pub(super) fn new(listener: TcpListener, service: &'static str) -> Self {
        Self { listener, service, said: RateLimited::default() }
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
        let service = self.service;
        self.said.say(|| {
            tracing::error!(
                service, %error,
                "cannot take connections, and clients wait; where too many files are open, raise the limit (LimitNOFILE=, \
                 ulimit -Hn), or lower {service}.max_connections"
            );
        });
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

    #[test]
    fn as_many_may_wait_as_there_are_descriptors_left() {
        for (limit, expected) in
            [(None, ROOM), (Some(1024), 160), (Some(1 << 20), ROOM), (Some(800), LEAST_ROOM)]
        {
            assert_eq!(room(limit, needed(400)), expected, "{limit:?}");
        }
    }

    #[test]
    fn a_limit_is_too_low_where_those_who_wait_take_of_what_the_others_need() {
        assert_eq!([None, Some(1024), Some(928)].map(|limit| too_low(limit, needed(400))), [None; 3]);
        for limit in [927, 864, 10] {
            assert_eq!(too_low(Some(limit), needed(400)), Some((limit, 928)), "{limit}");
        }
    }
}
