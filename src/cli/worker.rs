//! `buildgrid worker`: the daemon that builds.

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::daemon::{Stop, notify};
use super::exit::{Exit, Failure};
use crate::config::Config;
use crate::queue::{DeclareError, Queue};
use crate::worker::daemon::{self, Shutdown};

/// Take deploy events from AMQP and build them
#[derive(clap::Args)]
#[command(after_help = "\
Ends at SIGTERM once its running builds have ended (worker.drain_timeout); a second SIGTERM gives them
back to the queue.

Example:
  buildgrid --config /etc/buildgrid/worker-config.toml worker")]
pub struct Args {}

pub async fn run(_: Args, config: &Config) -> Result<Exit, Failure> {
    config.queue.resolved_url().map_err(|fault| Failure::new(Exit::Configuration, anyhow::anyhow!(fault)))?;
    let listen = config.worker.status_listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on worker.status_listen {listen}; is another worker running?"))?;
    let stop = Stop::at_signals(
        "stopping: running builds go on to their end; a second signal gives them back to the queue",
    )?;
    let shutdown = Shutdown { drain: stop.first, abort: stop.second };
    let ready = || notify(NotifyState::Ready);
    let queue = Queue::amqp(&config.queue, &config.worker.resolved_name());
    let ended = daemon::run(config, queue.clone(), listener, shutdown, ready).await;
    queue.close().await;
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.downcast_ref::<DeclareError>().is_some() => {
            Err(Failure::new(Exit::Configuration, error))
        }
        Err(error) => Err(error.into()),
    }
}
