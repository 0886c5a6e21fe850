//! What the daemons' commands share: addresses to listen on, signals, the word to systemd, status pages
//! that are there until all else has ended.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::shutdown::on_signals;
use crate::telemetry::metrics::recorder;
use crate::telemetry::status::{self, Readiness};
use crate::telemetry::watchdog::{self, Check, Vitals, tell};
use crate::worker::secrets::Secrets;

/// How long the status pages may take to end when all else has: somebody may have sent half a request.
const STATUS_END: Duration = Duration::from_secs(2);

pub(super) async fn bind(key: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {key} {address}"))
}

/// Whether the builds' secrets can be read, as they are configured: asked before anything begins.
pub(super) fn configured(secrets: &Secrets) -> Result<(), Failure> {
    secrets.check().map_err(|unusable| Failure::new(Exit::Configuration, unusable))
}

/// The two signals that end a server.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// Finish what runs.
    pub first: CancellationToken,
    /// End at once.
    pub second: CancellationToken,
}

impl Stop {
    /// Listens for signals. At the first, says `words` and tells systemd.
    pub(super) fn at_signals(words: &'static str) -> anyhow::Result<Self> {
        let stop = Self::default();
        on_signals(stop.first.clone(), stop.second.clone())?;
        let stopping = stop.first.clone();
        tokio::spawn(async move {
            stopping.cancelled().await;
            tracing::info!("{words}");
            tell(&[NotifyState::Stopping]);
        });
        Ok(stop)
    }
}

/// Runs `work` to its end, beside status pages that outlive it, or until the second signal. systemd is told how
/// it is; `checks` are what has to move in it.
pub(super) async fn beside_status_pages(
    listener: TcpListener,
    readiness: Readiness,
    checks: Vec<Check>,
    stop: &Stop,
    work: impl Future<Output = anyhow::Result<()>>,
) -> Result<Exit, Failure> {
    let asked = readiness.clone();
    let status = Box::new(move || status::faults(&asked));
    let _watching = watchdog::watch(Vitals { checks, status, ending: stop.first.clone() })?;
    let ended = CancellationToken::new();
    let mut status = tokio::spawn(status::serve(listener, readiness, recorder()?, ended.clone()));
    tokio::select! {
        done = work => done?,
        gone = &mut status => {
            gone.context("the status pages ended")??;
            return Err(anyhow::anyhow!("the status pages ended").into());
        }
        () = stop.second.cancelled() => {
            tracing::warn!("ended at once by a second signal");
            return Ok(Exit::Done);
        }
    }
    ended.cancel();
    tokio::select! {
        ended = tokio::time::timeout(STATUS_END, &mut status) => match ended {
            Ok(ended) => ended.context("the status pages ended")??,
            Err(_) => status.abort(),
        },
        () = stop.second.cancelled() => {}
    }
    Ok(Exit::Done)
}
