//! SIGHUP: the configuration is read again. One with faults, or emptied, changes nothing; of one without, the program takes
//! over what can change while it runs, and names what needs a restart.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::daemon::Stop;
use crate::config::{Change, Config, InvalidConfig, Live};
use crate::telemetry::logging;
use crate::telemetry::watchdog::tell;

/// All sections are of interest.
pub(super) const ALL: &[&str] = &[];

/// The file that the command line names, if it names one; otherwise it is looked for each time.
pub(super) struct File(pub Option<PathBuf>);

impl File {
    /// Reads the configuration; answers from which file, too, if there is one. Blocking.
    pub fn load(&self) -> (Option<PathBuf>, Result<Config, InvalidConfig>) {
        let path = Config::find(self.0.clone());
        let loaded = Config::load(path.as_deref());
        (path, loaded)
    }
}

/// Reloads `config` at each SIGHUP. Of changes in other than its `own` sections, the program says nothing. Needs a
/// tokio runtime.
pub(super) fn at_sighup(
    file: File,
    config: &Config,
    own: &'static [&'static str],
    stop: &Stop,
) -> anyhow::Result<Live> {
    let mut hangups = signal(SignalKind::hangup())?;
    let (newest, live) = Live::new(config);
    let mut reloading = Reloading { file: Arc::new(file), running: config.clone(), own, newest };
    let (started_on_terminal, end) = (on_terminal(), stop.first.clone());
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            // Of a terminal that was closed, it means what it has always meant.
            if started_on_terminal && !on_terminal() {
                tracing::info!("the terminal has gone");
                end.cancel();
                continue;
            }
            reloading.reload().await;
        }
    });
    Ok(live)
}

fn on_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

struct Reloading {
    file: Arc<File>,
    /// As the program runs: as it was started, with what it has taken over since.
    running: Config,
    own: &'static [&'static str],
    newest: watch::Sender<Arc<Config>>,
}

impl Reloading {
    async fn reload(&mut self) {
        let now = NotifyState::monotonic_usec_now().ok();
        tell(&[NotifyState::Reloading].into_iter().chain(now).collect::<Vec<_>>());
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || file.load().1).await {
            // A file that is just being written, or was lost: nobody asks for all defaults in this way.
            Ok(Ok(newer)) if newer.is_emptied(&self.running) => tracing::error!(
                "the configuration was not reloaded: its file is empty or gone; the old one stays in use"
            ),
            Ok(Ok(newer)) => self.take_over(newer),
            Ok(Err(InvalidConfig { faults })) => {
                for fault in &faults {
                    tracing::error!("fault in the new configuration: {}: {}", fault.place, fault.reason);
                }
                let faults = faults.len();
                tracing::error!(faults, "the configuration was not reloaded; the old one stays in use");
            }
            Err(error) => {
                tracing::error!(%error, "the configuration was not reloaded; the old one stays in use")
            }
        }
        tell(&[NotifyState::Ready]);
    }

    fn take_over(&mut self, newer: Config) {
        let running = self.running.reloaded(&newer);
        let changed = self.named(running.changes(&self.running));
        let waiting = self.named(newer.changes(&running));
        if let Err(error) = logging::set_level(&running.logging.level) {
            tracing::error!(error = format!("{error:#}"), "cannot change what is logged");
        }
        self.running = running;
        self.newest.send_replace(Arc::new(newer));
        match changed.is_empty() {
            true => {
                tracing::info!("the configuration was read again; nothing has changed that can change now")
            }
            false => tracing::info!(
                changed,
                "the configuration was reloaded; it holds for what begins from now on"
            ),
        }
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting, "the configuration has changes that need a restart");
        }
    }

    /// Those changes that are the program's own, each with the value before and the new one.
    fn named(&self, changes: Vec<Change>) -> String {
        let is_own = |change: &Change| {
            let section = change.key.split('.').next().unwrap_or_default();
            self.own.is_empty() || self.own.contains(&section)
        };
        changes.iter().filter(|change| is_own(change)).map(Change::to_string).collect::<Vec<_>>().join(", ")
    }
}
