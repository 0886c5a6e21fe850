//! The handle to a store: opening it, and the way every call takes to a blocking thread.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::{Span, info, warn};

use super::backend::{Backend, Directory, Objects, Swap, sync_directory};
use super::config::StoreConfig;
use super::credentials::random_text;
use super::error::StoreError;
use super::layers::Verified;
use super::layout;
use crate::telemetry::status::{self, Readiness};

/// The version of what lies under `buildgrid/`. It rises when an older program would misread it.
const SCHEMA: u32 = 1;

/// A store. Clones are handles to the same store and share what it remembers.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Arc<Backend>,
    verified: Arc<Verified>,
}

impl Store {
    /// Opens a store to publish into, and makes it where there is none. Blocks; meant for the start
    /// of a process. A tree that a stock registry has written is taken as it is.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later version of this program has changed the schema;
    /// [`StoreError::Unconditional`] when an object store cannot be published into.
    pub fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        if let Some(path) = config.directory() {
            make_root(path)?;
        }
        let backend = backend(config)?;
        let exists = check_version(&backend)?;
        make_writable(&backend)?;
        if !exists {
            let version = format!("{SCHEMA}\n");
            // Two processes may start at once, of different versions: the loser obeys what it finds.
            if let Swap::Found(_) = backend.put_if_absent(&[], &layout::version(), version.as_bytes())? {
                check_version(&backend)?;
            }
        }
        if backend.size(&layout::identity())?.is_none() {
            let identity = format!("{}\n", random_text::<20>());
            backend.put_if_absent(&[], &layout::identity(), identity.as_bytes())?;
        }
        let store = Self { backend: Arc::new(backend), verified: Arc::default() };
        let mut swept = 0;
        store.sweep(&CancellationToken::new(), |_, removed| match removed {
            Ok(_) => swept += 1,
            Err(error) => warn!(%error, "a temporary file that an earlier crash has left stays"),
        })?;
        if swept > 0 {
            info!(path = %config, files = swept, "removed temporary files that an earlier crash has left");
        }
        Ok(store)
    }

    /// Opens a store to read from. Creates and changes nothing, so that it may be mounted read-only.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] when no store has been made there.
    pub fn open_read_only(config: &StoreConfig) -> Result<Self, StoreError> {
        let backend = backend(config)?;
        match check_version(&backend)? {
            true => Ok(Self { backend: Arc::new(backend), verified: Arc::default() }),
            false => Err(StoreError::NoStore(backend.root())),
        }
    }

    /// Opens a store that must be there, to write into it what keeps it.
    ///
    /// # Errors
    /// [`StoreError::NoStore`] when no store has been made there, and as those of [`open`](Self::open).
    pub fn open_existing(config: &StoreConfig) -> Result<Self, StoreError> {
        let store = Self::open_read_only(config)?;
        make_writable(store.backend())?;
        Ok(store)
    }

    /// Whether workers can publish into an object store: puts something there on conditions that do not hold. Blocking.
    /// A directory has nothing to find out.
    ///
    /// # Errors
    /// [`StoreError::Unconditional`] when they cannot.
    pub fn probe(config: &StoreConfig) -> Result<(), StoreError> {
        match backend(config)? {
            Backend::Directory(_) => Ok(()),
            Backend::Objects(objects) => objects.probe(),
        }
    }

    /// Whether the store is still there: reads its version. One whose file system is not mounted any
    /// more has none.
    ///
    /// # Errors
    /// As those of [`open_read_only`](Self::open_read_only).
    pub async fn check(&self) -> Result<(), StoreError> {
        self.blocking(must_be_there).await
    }

    /// Whether the store is still there, for `/readyz`. Needs a tokio runtime.
    pub fn readiness(&self) -> Readiness {
        let store = self.clone();
        status::watched("store", move || {
            let store = store.clone();
            async move { store.check().await.map_err(|error| error.to_string()) }
        })
    }

    pub(super) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    pub(super) fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }

    /// Does one operation's file work on a blocking thread, within the caller's span. It is done to
    /// its end even if the caller goes away.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Backend) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let backend = self.backend.clone();
        let span = Span::current();
        match tokio::task::spawn_blocking(move || span.in_scope(|| work(&backend))).await {
            Ok(done) => done,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            Err(_) => Err(StoreError::Stopping),
        }
    }
}

/// Where the configuration says that the store is.
fn backend(config: &StoreConfig) -> Result<Backend, StoreError> {
    Ok(match config.directory() {
        Some(path) => Backend::Directory(Directory::at(path)),
        None => Backend::Objects(Objects::connect(config)?),
    })
}

/// Sees that a store can be written into. A copy that was put back has no place for what is being written.
fn make_writable(backend: &Backend) -> Result<(), StoreError> {
    match backend {
        Backend::Directory(directory) => directory.make(&layout::temporary_files()),
        Backend::Objects(objects) => objects.probe(),
    }
}

/// An error unless the store is there.
pub(super) fn must_be_there(backend: &Backend) -> Result<(), StoreError> {
    match check_version(backend)? {
        true => Ok(()),
        false => Err(StoreError::NoStore(backend.root())),
    }
}

/// Whether there is a version, which must be one that this program knows.
fn check_version(backend: &Backend) -> Result<bool, StoreError> {
    let key = layout::version();
    let Some(bytes) = backend.read(&key)? else { return Ok(false) };
    let found = std::str::from_utf8(&bytes).ok().and_then(|text| text.trim_end().parse().ok());
    match found {
        Some(1..=SCHEMA) => Ok(true),
        Some(found) if found > SCHEMA => {
            Err(StoreError::Newer { path: backend.root(), found, known: SCHEMA })
        }
        _ => Err(StoreError::Damaged {
            path: backend.place(&key),
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
