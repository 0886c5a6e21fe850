//! A supervised connection: made again for ever, its state there for everyone to watch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::dial;
use super::error::BrokerError;
use crate::queue::QueueConfig;
use crate::queue::retry::backoff;
use crate::telemetry::pulse::Pulse;

/// A connection that lasted this long was a good one: the next attempt follows at once.
const GOOD: Duration = Duration::from_secs(30);
/// How often the connection is looked at, beside the events that it sends.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) enum LinkState {
    /// The first attempt is under way.
    Starting,
    Up(Up),
    /// The last attempt failed or the connection was lost; the next one comes by itself.
    Down(BrokerError),
    Closed,
}

#[derive(Clone)]
pub(super) struct Up {
    pub connection: Arc<Connection>,
    /// Counts connections: what was done on an earlier one may not hold on this one.
    pub generation: u64,
    /// The broker's reason for not reading what we publish (`connection.blocked`).
    pub blocked: Option<String>,
}

#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<LinkState>,
    pulse: Pulse,
}

impl Link {
    /// The longest that its supervisor may be silent, beside the time that a connect may take.
    pub(super) const PATIENCE: Duration = Duration::from_secs(60);

    /// Starts the task that keeps a connection until `stop`. `role` is what log lines call it.
    pub(super) fn start(
        config: Arc<QueueConfig>,
        worker: &str,
        role: &'static str,
        stop: CancellationToken,
        tasks: &TaskTracker,
    ) -> Self {
        let (sender, state) = watch::channel(LinkState::Starting);
        let name = format!("buildgrid {worker} {role}");
        let pulse = Pulse::default();
        tasks.spawn(Supervisor { config, name, role, state: sender, pulse: pulse.clone(), stop }.run());
        Self { state, pulse }
    }

    /// How long its supervisor has neither looked at the connection nor tried to make one.
    pub(super) fn silent(&self, now: Instant) -> Duration {
        match &*self.state.borrow() {
            LinkState::Closed => Duration::ZERO,
            _ => self.pulse.silent(now),
        }
    }

    pub(super) fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// Resolves when the state has changed since this handle last looked.
    pub(super) async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The supervisor has ended: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }

    /// Takes the state as it is now for looked at.
    pub(super) fn see(&mut self) {
        self.state.mark_unchanged();
    }

    /// The connection, waiting for it as long as it takes. Safe to drop.
    pub(super) async fn up(&self) -> Result<Up, BrokerError> {
        self.wait(|_| None).await
    }

    /// The connection, or the error of the attempt that failed first.
    pub(super) async fn first(&self) -> Result<Up, BrokerError> {
        self.wait(|error| Some(error.clone())).await
    }

    async fn wait(&self, give_up: impl Fn(&BrokerError) -> Option<BrokerError>) -> Result<Up, BrokerError> {
        let mut state = self.state.clone();
        let settled = state
            .wait_for(|state| match state {
                LinkState::Starting => false,
                LinkState::Down(error) => give_up(error).is_some(),
                // The supervisor may not have noticed yet what the connection already knows.
                LinkState::Up(up) => up.connection.status().connected(),
                LinkState::Closed => true,
            })
            .await;
        match settled.as_deref() {
            Ok(LinkState::Up(up)) => Ok(up.clone()),
            Ok(LinkState::Down(error)) => Err(error.clone()),
            _ => Err(BrokerError::Cancelled),
        }
    }
}

struct Supervisor {
    config: Arc<QueueConfig>,
    name: String,
    role: &'static str,
    state: watch::Sender<LinkState>,
    pulse: Pulse,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let mut waits = backoff();
        let mut generation = 0;
        while !self.stop.is_cancelled() {
            self.pulse.beat();
            let attempt = dial::connect(&self.config, &self.name);
            let lost = match self.stop.run_until_cancelled(attempt).await {
                None => break,
                Some(Err(error)) => error,
                Some(Ok(connection)) => {
                    let since = Instant::now();
                    generation += 1;
                    let lost = self.keep(Arc::new(connection), generation).await;
                    if since.elapsed() >= GOOD {
                        waits = backoff();
                    }
                    match lost {
                        None => break,
                        Some(error) => error,
                    }
                }
            };
            self.pulse.beat();
            let wait = waits.next().unwrap_or(GOOD);
            tracing::warn!(connection = self.role, error = %lost, retry_ms = wait.as_millis(), "not connected to the broker");
            self.state.send_replace(LinkState::Down(lost));
            if self.stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        self.state.send_replace(LinkState::Closed);
    }

    /// Watches over a connection until it is lost, with the reason, or until the stop, with none.
    async fn keep(&self, connection: Arc<Connection>, generation: u64) -> Option<BrokerError> {
        let mut events = std::pin::pin!(connection.events_listener());
        let mut looks = tokio::time::interval(LOOK);
        let up = Up { connection: Arc::clone(&connection), generation, blocked: None };
        tracing::info!(connection = self.role, "connected to the broker");
        self.state.send_replace(LinkState::Up(up));
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => {
                    self.close(&connection).await;
                    return None;
                }
                event = events.next() => event,
                _ = looks.tick() => match connection.status().connected() {
                    true => {
                        self.pulse.beat();
                        continue;
                    }
                    false => return Some(BrokerError::Lost("the connection has ended".to_owned())),
                },
            };
            match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    tracing::warn!(
                        connection = self.role,
                        reason,
                        "the broker takes no messages: results wait until its alarm clears"
                    );
                    self.blocked(Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!(connection = self.role, "the broker takes messages again");
                    self.blocked(None);
                }
                // The error of one channel, such as an acknowledgement timeout, comes here as well: it is
                // told where that channel is used, and the others go on.
                Some(Event::Error(error)) if !connection.status().connected() => return Some(error.into()),
                Some(_) => {}
                None => return Some(BrokerError::Lost("the connection has ended".to_owned())),
            }
        }
    }

    fn blocked(&self, reason: Option<String>) {
        self.state.send_modify(|state| {
            if let LinkState::Up(up) = state {
                up.blocked = reason;
            }
        });
    }

    async fn close(&self, connection: &Connection) {
        let closing = connection.close(200, "stopping".into());
        // A broker that does not answer sees the socket close when the process ends.
        let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    }
}
