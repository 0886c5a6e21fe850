//! Fetching a commit: out of a mirror that has it, by its id without history where the server allows
//! it, else by refs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use super::address::AllowedAddress;
use super::commit::CommitId;
use super::config::SourceConfig;
use super::error::SourceError;
use super::fetch::Fetch;
use super::fetched::FetchedCommit;
use super::libgit2;
use super::mirror::Slot;
use super::session::Session;
use super::url::RepositoryUrl;
use crate::store::digest::Digest;
use crate::timeline::sink::LogSink;

/// The repositories that builds are fetched from, and their mirrors on this machine. Clones share the mirrors.
#[derive(Clone)]
pub struct Sources {
    config: Arc<SourceConfig>,
    allowed: Arc<[AllowedAddress]>,
    mirrors: PathBuf,
    /// By the digest of the repository's URL. One entry for each repository this process has seen:
    /// fewer than there are mirrors on the disk.
    slots: Arc<Mutex<HashMap<String, Arc<AsyncMutex<Slot>>>>>,
}

impl Sources {
    /// Sources with their mirrors under `mirrors`, which no other process may use at the same time.
    pub fn new(config: SourceConfig, mirrors: PathBuf) -> anyhow::Result<Self> {
        libgit2::prepare()?;
        std::fs::create_dir_all(&mirrors).with_context(|| format!("create {}", mirrors.display()))?;
        let allowed = allowed(&config)?;
        Ok(Self { config: Arc::new(config), allowed, mirrors, slots: Arc::default() })
    }

    /// The same mirrors under another configuration, for fetches that begin from now on.
    pub fn configured(&self, config: SourceConfig) -> anyhow::Result<Self> {
        let allowed = allowed(&config)?;
        Ok(Self { config: Arc::new(config), allowed, ..self.clone() })
    }

    /// Fetches one commit. `git_ref` is the ref on which the commit was seen, to be asked for where the
    /// server does not give out commits by their ids. Progress goes to `log`.
    ///
    /// One fetch of a repository runs at a time; what an earlier one has brought is not fetched again,
    /// and a commit that is here already needs no server. Dropping the future cancels the fetch.
    pub async fn fetch(
        &self,
        url: &RepositoryUrl,
        commit: &CommitId,
        git_ref: Option<&str>,
        log: &LogSink,
        cancel: &CancellationToken,
    ) -> Result<FetchedCommit, SourceError> {
        let slot = self.slot(url);
        let slot = match Arc::clone(&slot).try_lock_owned() {
            Ok(slot) => slot,
            Err(_) => {
                log.status(format!("waiting for another fetch of {url} to end")).await;
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(SourceError::Cancelled),
                    slot = slot.lock_owned() => slot,
                }
            }
        };
        let cancel = cancel.child_token();
        let _cancelled_when_dropped = cancel.clone().drop_guard();
        let session = Session::new(Arc::clone(&self.config), Arc::clone(&self.allowed), url, cancel);
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

    fn slot(&self, url: &RepositoryUrl) -> Arc<AsyncMutex<Slot>> {
        let url = url.to_string();
        self.slot_of(Digest::of(url.as_bytes()).hex(), url)
    }

    pub(super) fn slot_of(&self, digest: String, url: String) -> Arc<AsyncMutex<Slot>> {
        // No code that can panic runs while the lock is held.
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(digest).or_insert_with_key(|digest| {
            Arc::new(AsyncMutex::new(Slot::new(self.mirrors.join(digest), url)))
        });
        Arc::clone(slot)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.mirrors
    }
}

fn allowed(config: &SourceConfig) -> anyhow::Result<Arc<[AllowedAddress]>> {
    let allowed = config.allow_private_addresses.iter().map(|entry| entry.parse());
    allowed.collect::<Result<_, _>>().context("read source.allow_private_addresses")
}
