//! `buildgrid worker`: the daemon that builds.

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;

use super::daemon::{Stop, configured};
use super::exit::{Exit, Failure};
use super::pause::{self, PauseArgs, ResumeArgs};
use super::reload::{self, File};
use crate::config::Config;
use crate::queue::{DeclareError, Queue};
use crate::telemetry::watchdog::tell;
use crate::worker::daemon::{self, Shutdown};
use crate::worker::secrets::Secrets;

/// The sections whose changes are of interest to a worker.
const OWN: &[&str] =
    &["worker", "queue", "source", "engine", "publish", "store", "registry", "timeline", "fake", "logging"];

/// Take deploy events from AMQP and build them; or pause the worker of this machine, and let it go on
#[derive(clap::Args)]
#[command(after_help = "\
Without a command it is the daemon. It ends at SIGTERM once its running builds have ended
(worker.drain_timeout); a second SIGTERM gives them back to the queue. SIGHUP reads the configuration
again; what of it can change meanwhile stands in the README.

Examples:
  buildgrid --config /etc/buildgrid/worker-config.toml worker
  buildgrid worker pause --reason \"disk swap at 14:00\"")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    Pause(PauseArgs),
    Resume(ResumeArgs),
}

impl Args {
    pub fn is_daemon(&self) -> bool {
        self.action.is_none()
    }
}

pub async fn run(args: Args, config: &Config, file: File) -> Result<Exit, Failure> {
    match args.action {
        None => daemon(config, file).await,
        Some(Action::Pause(args)) => pause::pause(args, config).await,
        Some(Action::Resume(args)) => pause::resume(args, config).await,
    }
}

async fn daemon(config: &Config, file: File) -> Result<Exit, Failure> {
    config.queue.resolved_url().map_err(|fault| Failure::new(Exit::Configuration, anyhow::anyhow!(fault)))?;
    configured(&Secrets::new(config))?;
    let listen = config.worker.status_listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on worker.status_listen {listen}; is another worker running?"))?;
    let stop = Stop::at_signals(
        "stopping: running builds go on to their end; a second signal gives them back to the queue",
    )?;
    let live = reload::at_sighup(file, config, OWN, &stop)?;
    let shutdown = Shutdown { drain: stop.first, abort: stop.second };
    let ready = || tell(&[NotifyState::Ready]);
    let queue = Queue::amqp(&config.queue, &config.worker.resolved_name());
    let ended = daemon::run(live, queue.clone(), listener, shutdown, ready).await;
    queue.close().await;
    match ended {
        Ok(()) => Ok(Exit::Done),
        Err(error) if error.downcast_ref::<DeclareError>().is_some() => {
            Err(Failure::new(Exit::Configuration, error))
        }
        Err(error) => Err(error.into()),
    }
}
