//! Fetching from a real git server over smart HTTP, and the contexts made of what was fetched.

mod context;
mod faults;
mod fetching;
mod files;
mod hostile;
mod limits;
mod over_ssh;
mod packing;
mod private;
mod rebinding;
mod refusals;
mod submodules;

use std::path::Path;
use std::sync::Arc;

use buildgrid::publish::name::Namespace;
use buildgrid::source::{Errand, FetchedCommit, Permit, Scope, SourceConfig, SourceError, Sources};
use buildgrid::telemetry::pulse::Pulse;
use buildgrid::timeline::mask::Mask;
use buildgrid::timeline::sink::LogSink;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::git::GitServer;
use crate::support::patience::until;

/// Sources with mirrors of their own and a log that is kept.
pub struct Fetcher {
    sources: Arc<Sources>,
    mirrors: TempDir,
    log: LogSink,
    lines: Arc<std::sync::Mutex<Vec<String>>>,
    /// Whose builds it fetches for.
    namespace: Namespace,
    permit: Permit,
}

impl Fetcher {
    pub fn new() -> Self {
        Self::with(|_| ())
    }

    /// Whose configuration differs from the default one, besides that it may fetch from loopback.
    fn with(change: impl FnOnce(&mut SourceConfig)) -> Self {
        let mirrors = TempDir::new().unwrap();
        let mut config = loopback();
        change(&mut config);
        let (log, mut receiver) = LogSink::channel(Mask::none());
        let lines = Arc::<std::sync::Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Some(line) = receiver.recv().await {
                kept.lock().unwrap().push(line.text);
            }
        });
        let sources = Arc::new(Sources::new(config, mirrors.path().to_owned()).unwrap());
        let permit: Permit = Arc::new(|_| Ok(()));
        Self { sources, mirrors, log, lines, namespace: "acme".parse().unwrap(), permit }
    }

    pub async fn fetch(&self, url: &str, commit: &str) -> Result<FetchedCommit, SourceError> {
        self.fetch_on(url, commit, None).await
    }

    async fn fetch_on(
        &self,
        url: &str,
        commit: &str,
        git_ref: Option<&str>,
    ) -> Result<FetchedCommit, SourceError> {
        let cancel = CancellationToken::new();
        let (url, commit) = (url.parse().unwrap(), commit.parse().unwrap());
        self.sources.fetch(self.errand(&cancel, &Pulse::default()), &url, &commit, git_ref).await
    }

    /// The whole of a build's source, as the pipeline gets it.
    async fn fetch_all(
        &self,
        url: &str,
        commit: &str,
        root: &str,
        dockerfile: &str,
    ) -> Result<FetchedCommit, SourceError> {
        let fetched = self.fetch(url, commit).await?;
        let scope = Scope { root, dockerfile };
        let cancel = CancellationToken::new();
        let url = url.parse().unwrap();
        let pulse = Pulse::default();
        self.sources.fetch_submodules(self.errand(&cancel, &pulse), &url, fetched, scope).await
    }

    fn errand<'a>(&'a self, cancel: &'a CancellationToken, pulse: &'a Pulse) -> Errand<'a> {
        Errand { namespace: &self.namespace, permit: &self.permit, log: &self.log, cancel, pulse }
    }

    /// The same mirrors in a new process.
    fn restarted(self) -> Self {
        let mut fresh = Self::with(|_| ());
        fresh.mirrors = self.mirrors;
        fresh.sources = Arc::new(Sources::new(loopback(), fresh.mirrors.path().to_owned()).unwrap());
        fresh
    }

    /// The log so far, once a line with `last` in it has arrived.
    async fn log_up_to(&self, last: &str) -> Vec<String> {
        let lines = || self.lines.lock().unwrap().clone();
        until(&format!("the log says {last:?}"), || lines().iter().any(|line| line.contains(last))).await;
        lines()
    }

    /// The bare repositories on the disk, by their names.
    fn mirror_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.mirror_paths().iter().map(|path| name(path)).collect();
        names.sort();
        names
    }

    fn mirror_paths(&self) -> Vec<std::path::PathBuf> {
        let entries = |path: &Path| -> Vec<_> {
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
        };
        entries(self.mirrors.path()).iter().flat_map(|folder| entries(folder)).collect()
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// The default configuration, which may also fetch from loopback.
fn loopback() -> SourceConfig {
    SourceConfig { allow_private_addresses: vec!["127.0.0.0/8".to_owned()], ..SourceConfig::default() }
}

/// Of a mirror, by its name: `shallow` or `full`.
fn kind(path: &Path) -> String {
    name(path).split('-').next().unwrap().to_owned()
}

/// Starts the git server off the runtime's thread.
async fn git_server() -> GitServer {
    tokio::task::spawn_blocking(GitServer::start).await.unwrap()
}
