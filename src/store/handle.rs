//! The handle to a store: opening it, and the way every call takes to a blocking thread.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{Span, info, warn};

use super::backend::{Directory, Swap, sync_directory};
use super::config::StoreConfig;
use super::error::StoreError;
use super::layers::Verified;
use super::layout;
use crate::telemetry::status::{self, Readiness};

/// The version of what lies under `buildgrid/`. It rises when an older program would misread it.
const SCHEMA: u32 = 1;

/// A store. Clones are handles to the same store and share what it remembers.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Arc<Directory>,
    verified: Arc<Verified>,
}

impl Store {
    /// Opens a store to publish into, and makes it where there is none. Blocks; meant for the start
    /// of a process. A tree that a stock registry has written is taken as it is.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later version of this program has changed the schema.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        make_root(&config.path)?;
        let directory = Directory::at(&config.path);
        let exists = check_version(&directory, &config.path)?;
        directory.make(&layout::temporary_files())?;
        if !exists {
            let version = format!("{SCHEMA}\n");
            // Two processes may start at once, of different versions: the loser obeys what it finds.
            if let Swap::Found(_) = directory.put_if_absent(&[], &layout::version(), version.as_bytes())? {
                check_version(&directory, &config.path)?;
            }
        }
        let store = Self { directory: Arc::new(directory), verified: Arc::default() };
        let mut swept = 0;
        store.sweep(&CancellationToken::new(), |_, removed| match removed {
            Ok(_) => swept += 1,
            Err(error) => warn!(%error, "a temporary file that an earlier crash has left stays"),
        })?;
        if swept > 0 {
            info!(path = %config.path.display(), files = swept, "removed temporary files that an earlier crash has left");
        }
        Ok(store)
    }

    /// Opens a store to read from. Creates and changes nothing, so that it may be mounted read-only.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] when no store has been made there.
    pub fn open_read_only(config: &StoreConfig) -> Result<Self, StoreError> {
        let directory = Directory::at(&config.path);
        match check_version(&directory, &config.path)? {
            true => Ok(Self { directory: Arc::new(directory), verified: Arc::default() }),
            false => Err(StoreError::NoStore(config.path.clone())),
        }
    }

    /// Whether the store is still there: reads its version. One whose file system is not mounted any
    /// more has none.
    ///
    /// # Errors
    /// As those of [`open_read_only`](Self::open_read_only).
    pub async fn check(&self) -> Result<(), StoreError> {
        self.blocking(|directory| match check_version(directory, directory.root())? {
            true => Ok(()),
            false => Err(StoreError::NoStore(directory.root().to_owned())),
        })
        .await
    }

    /// Whether the store is still there, for `/readyz`. Needs a tokio runtime.
    pub fn readiness(&self) -> Readiness {
        let store = self.clone();
        status::watched("store", move || {
            let store = store.clone();
            async move { store.check().await.map_err(|error| error.to_string()) }
        })
    }

    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(super) fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }

    /// Does one operation's file work on a blocking thread, within the caller's span. It is done to
    /// its end even if the caller goes away.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let directory = self.directory.clone();
        let span = Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&directory))).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopping),
        }
    }
}

/// Whether there is a version, which must be one that this program knows.
fn check_version(directory: &Directory, root: &Path) -> Result<bool, StoreError> {
    let key = layout::version();
    let Some(bytes) = directory.read(&key)? else { return Ok(false) };
    let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
    match found {
        Some(1..=SCHEMA) => Ok(true),
        Some(found) if found > SCHEMA => {
            Err(StoreError::Newer { path: root.to_owned(), found, known: SCHEMA })
        }
        _ => Err(StoreError::Damaged {
            path: directory.path(&key),
            reason: "it does not hold a schema version".into(),
        }),
    }
}

/// Makes the store's own directory, durably.
fn make_root(root: &Path) -> Result<(), StoreError> {
    if root.is_dir() {
        return Ok(());
    }
    let missing = root.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir());
    let missing: Vec<_> = missing.collect();
    std::fs::create_dir_all(root).map_err(|error| StoreError::io("create", root, error))?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_directory(parent.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}
