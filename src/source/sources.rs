//! Fetching a commit: out of a mirror that has it, by its id without history where the server allows
//! it, else by refs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::AllowedAddress;
use super::commit::CommitId;
use super::config::SourceConfig;
use super::credentials::Credentials;
use super::error::SourceError;
use super::fetch::Fetch;
use super::fetched::FetchedCommit;
use super::libgit2;
use super::mirror::Slot;
use super::session::{Budget, Session, Whose};
use super::url::RepositoryUrl;
use crate::publish::name::Namespace;
use crate::store::digest::Digest;
use crate::telemetry::pulse::Pulse;
use crate::timeline::sink::LogSink;

/// The repositories that builds are fetched from, and their mirrors on this machine. Clones share the mirrors.
#[derive(Clone)]
pub struct Sources {
    config: Arc<SourceConfig>,
    allowed: Arc<[AllowedAddress]>,
    mirrors: PathBuf,
    /// By the digest of the repository's URL. One line for each repository this process has seen:
    /// fewer than there are mirrors on the disk.
    lines: Arc<Mutex<HashMap<String, Line>>>,
    credentials: Credentials,
}

/// For whom something is fetched, and who looks on.
#[derive(Clone, Copy)]
pub struct Errand<'a> {
    pub namespace: &'a Namespace,
    pub permit: &'a Permit,
    pub log: &'a LogSink,
    pub cancel: &'a CancellationToken,
    /// Beats each time that the line of the repository's fetches moves on: one that has its turn takes
    /// `source.fetch_timeout` at most.
    pub pulse: &'a Pulse,
}

/// Whether the namespace may build of what lies at a URL, to which a submodule or a redirect leads; if not, the rule
/// against it.
pub type Permit = Arc<dyn Fn(&RepositoryUrl) -> Result<(), String> + Send + Sync>;

/// The fetches of one repository, which stand in line for its mirrors.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) slot: Arc<AsyncMutex<Slot>>,
    /// Told when the next one has its turn.
    moves: watch::Sender<()>,
}

/// Mirrors that nobody else fetches into, and whose build wants it, with what it logs in with.
struct Held {
    slot: OwnedMutexGuard<Slot>,
    whose: Whose,
}

impl Sources {
    /// Sources with their mirrors under `mirrors`, which no other process may use at the same time.
    pub fn new(config: SourceConfig, mirrors: PathBuf) -> anyhow::Result<Self> {
        libgit2::prepare()?;
        std::fs::create_dir_all(&mirrors).with_context(|| format!("create {}", mirrors.display()))?;
        let allowed = allowed(&config)?;
        Ok(Self {
            config: Arc::new(config),
            allowed,
            mirrors,
            lines: Arc::default(),
            credentials: Credentials::default(),
        })
    }

    /// The same, with credentials for private repositories.
    pub fn with_credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// The same mirrors under another configuration, for fetches that begin from now on.
    pub fn configured(&self, config: SourceConfig) -> anyhow::Result<Self> {
        let allowed = allowed(&config)?;
        Ok(Self { config: Arc::new(config), allowed, ..self.clone() })
    }

    /// Fetches one commit for a namespace, with its credentials. `git_ref` is the ref on which the commit was seen,
    /// to be asked for where the server does not give out commits by their ids.
    ///
    /// One fetch of a repository runs at a time; what an earlier one has brought is not fetched again,
    /// and a commit that is here already needs no server. What was fetched with credentials lies in mirrors of
    /// that namespace alone: another one could read it there without any. Dropping the future cancels the fetch.
    pub async fn fetch(
        &self,
        errand: Errand<'_>,
        url: &RepositoryUrl,
        commit: &CommitId,
        git_ref: Option<&str>,
    ) -> Result<FetchedCommit, SourceError> {
        let held = self.waited_for(errand, url).await?;
        self.fetch_into(held, errand, url, (commit, git_ref), Arc::new(Budget::new(&self.config))).await
    }

    /// As [`fetch`](Self::fetch), out of a budget that others share.
    pub(super) async fn fetch_within(
        &self,
        errand: Errand<'_>,
        url: &RepositoryUrl,
        commit: &CommitId,
        budget: Arc<Budget>,
    ) -> Result<FetchedCommit, SourceError> {
        let begun = Instant::now();
        let held = self.waited_for(errand, url).await?;
        budget.waited(begun.elapsed());
        self.fetch_into(held, errand, url, (commit, None), budget).await
    }

    /// The mirrors of a repository for a namespace, once nobody else fetches into them.
    async fn waited_for(&self, errand: Errand<'_>, url: &RepositoryUrl) -> Result<Held, SourceError> {
        let Errand { namespace, permit, log, cancel, pulse } = errand;
        let (credentials, owner, of) = (self.credentials.clone(), namespace.clone(), url.clone());
        let credential = libgit2::blocking(move || credentials.find(&owner, &of)).await?;
        let line = self.line(url, credential.is_some().then_some(namespace));
        let slot = match Arc::clone(&line.slot).try_lock_owned() {
            Ok(slot) => slot,
            Err(_) => {
                log.status(format!("waiting for another fetch of {url} to end")).await;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(SourceError::Cancelled),
                    slot = line.turn(pulse) => slot,
                }
            }
        };
        line.moves.send_replace(());
        pulse.beat();
        let whose = Whose { namespace: namespace.clone(), permit: Arc::clone(permit), credential };
        Ok(Held { slot, whose })
    }

    async fn fetch_into(
        &self,
        held: Held,
        errand: Errand<'_>,
        url: &RepositoryUrl,
        (commit, git_ref): (&CommitId, Option<&str>),
        budget: Arc<Budget>,
    ) -> Result<FetchedCommit, SourceError> {
        let Held { slot, whose } = held;
        let Errand { log, cancel, .. } = errand;
        let cancel = cancel.child_token();
        let _cancelled_when_dropped = cancel.clone().drop_guard();
        let (config, allowed) = (Arc::clone(&self.config), Arc::clone(&self.allowed));
        let session = Session::new(config, allowed, url, whose, cancel, budget);
        let fetch = Fetch {
            session: Arc::new(session),
            commit: commit.clone(),
            git_ref: git_ref.map(str::to_owned),
            log: log.clone(),
        };
        // The lock goes along, so that a fetch whose future was dropped holds it until it has ended.
        let mut slot = slot;
        libgit2::blocking(move || fetch.run(&mut slot)).await
    }

    /// The longest that a fetch may take once it has its turn.
    pub fn longest(&self) -> Duration {
        self.config.fetch_timeout
    }

    /// The line for the mirrors of a repository, or for those that a namespace alone has of it.
    fn line(&self, url: &RepositoryUrl, namespace: Option<&Namespace>) -> Line {
        let url = url.to_string();
        let key = match namespace {
            // No URL has a line break in it.
            Some(namespace) => format!("{url}\n{namespace}"),
            None => url.clone(),
        };
        self.line_of(Digest::of(key.as_bytes()).hex(), url)
    }

    pub(super) fn line_of(&self, digest: String, url: String) -> Line {
        // No code that can panic runs while the lock is held.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(digest).or_insert_with_key(|digest| Line {
            slot: Arc::new(AsyncMutex::new(Slot::new(self.mirrors.join(digest), url))),
            moves: watch::Sender::default(),
        });
        line.clone()
    }

    pub(super) fn config(&self) -> &SourceConfig {
        &self.config
    }

    pub(super) fn folder(&self) -> &Path {
        &self.mirrors
    }
}

impl Line {
    /// Waits for a turn.
    async fn turn(&self, pulse: &Pulse) -> OwnedMutexGuard<Slot> {
        let mut moves = self.moves.subscribe();
        let mut turn = std::pin::pin!(Arc::clone(&self.slot).lock_owned());
        loop {
            tokio::select! {
                slot = &mut turn => return slot,
                // The other end is this line's own.
                _ = moves.changed() => pulse.beat(),
            }
        }
    }
}

fn allowed(config: &SourceConfig) -> anyhow::Result<Arc<[AllowedAddress]>> {
    let allowed = config.allow_private_addresses.iter().map(|entry| entry.parse());
    allowed.collect::<Result<_, _>>().context("read source.allow_private_addresses")
}
