//! How much a namespace has in the store, for its quota: known at any time without going through the store.
//!
//! A collection of garbage counts it, which goes through all images anyway. Each publish since then has left an object
//! whose name says what it added, so that any number of workers add at once, and a sum takes one listing. What two of
//! them add at once counts twice, and what a publish adds while a collection counts may be missing, until the next one.

use std::collections::HashSet;

use super::backend::Backend;
use super::credentials::random_text;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::inventory::{self, namespace_of};
use super::layout;
use super::listing::{self, blobs_of};
use super::unread::PassedOver;
use crate::publish::name::{ImageRepository, Namespace};

impl Store {
    /// All that the namespace's images are made of, each blob once, in bytes. The first time all of its images are
    /// looked at. Of those that cannot be read nothing is counted, nor is such a count kept.
    pub async fn usage(&self, namespace: &Namespace) -> Result<u64, StoreError> {
        let namespace = namespace.clone();
        self.blocking(move |backend| {
            let added = added(backend, namespace.as_str())?;
            let counted = match counted(backend, namespace.as_str())? {
                Some(bytes) => bytes,
                None => return count(backend, namespace.as_str(), &added),
            };
            Ok(added.iter().filter_map(|name| bytes_of(name)).fold(counted, u64::saturating_add))
        })
        .await
    }

    /// The same, counted anew where publishes have added something since the last count: of what they noted, some may be
    /// in the namespace already, through another of its repositories. Looks at all of its images then.
    pub async fn recounted_usage(&self, namespace: &Namespace) -> Result<u64, StoreError> {
        let namespace = namespace.clone();
        self.blocking(move |backend| {
            let added = added(backend, namespace.as_str())?;
            match counted(backend, namespace.as_str())? {
                Some(bytes) if added.is_empty() => Ok(bytes),
                _ => count(backend, namespace.as_str(), &added),
            }
        })
        .await
    }

    /// Notes what a publish adds to its namespace: those of an image's parts, with their lengths, that the repository
    /// does not link yet. Call it before they are linked.
    pub async fn note_usage(
        &self,
        repository: &ImageRepository,
        parts: Vec<(Digest, u64)>,
    ) -> Result<(), StoreError> {
        let repository = repository.clone();
        self.blocking(move |backend| {
            let mut bytes = 0_u64;
            for (digest, length) in parts {
                if backend.size(&layout::layer_link(&repository, digest))?.is_none() {
                    bytes = bytes.saturating_add(length);
                }
            }
            if bytes == 0 {
                return Ok(());
            }
            let name = format!("{}-{bytes}", random_text::<10>());
            backend.put(&[(&layout::usage_added(repository.namespace.as_str()).below(&name), b"\n")])
        })
        .await
    }
}

/// The namespaces whose usage somebody has asked for.
fn namespaces(backend: &Backend) -> Result<Vec<String>, StoreError> {
    let names = backend.list(&layout::usages())?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
}

/// What publishes have noted, of each of these namespaces.
pub(super) fn all_added(passed: &mut PassedOver<'_>) -> Result<Vec<(String, Vec<String>)>, StoreError> {
    let mut all = Vec::new();
    for namespace in passed.or_told(namespaces(passed.backend))?.unwrap_or_default() {
        let added = passed.or_told(added(passed.backend, &namespace))?;
        all.extend(added.map(|added| (namespace, added)));
    }
    Ok(all)
}

/// What publishes have noted.
fn added(backend: &Backend, namespace: &str) -> Result<Vec<String>, StoreError> {
    backend.list(&layout::usage_added(namespace))
}

/// Keeps what was counted, of which `added` is a part: it was noted before the count began.
pub(super) fn put(
    backend: &Backend,
    namespace: &str,
    bytes: u64,
    added: &[String],
) -> Result<(), StoreError> {
    let json = format!("{{\"bytes\":{bytes}}}\n");
    backend.put(&[(&layout::usage_counted(namespace), json.as_bytes())])?;
    for name in added {
        backend.discard(&layout::usage_added(namespace).below(name))?;
    }
    Ok(())
}

fn counted(backend: &Backend, namespace: &str) -> Result<Option<u64>, StoreError> {
    let bytes = backend.read(&layout::usage_counted(namespace))?;
    // One that cannot be read is counted anew.
    let value = bytes.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    Ok(value.and_then(|value| value["bytes"].as_u64()))
}

fn bytes_of(name: &str) -> Option<u64> {
    name.split_once('-')?.1.parse().ok()
}

/// Counts, and keeps what was counted if all was seen.
fn count(backend: &Backend, namespace: &str, added: &[String]) -> Result<u64, StoreError> {
    let (mut seen, mut bytes) = (HashSet::new(), 0_u64);
    let mut passed = PassedOver::new(backend);
    let found = inventory::repositories(&mut passed)?;
    let mut is_whole = found.unread.iter().all(|path| namespace_of(path) != namespace);
    for repository in found.all.iter().filter(|repository| namespace_of(&repository.path) == namespace) {
        let versions = inventory::versions(&mut passed, repository)?;
        is_whole &= versions.is_whole;
        for version in versions.all {
            let (blobs, unread) = blobs_of(backend, version.manifest);
            // One that was replaced may have gone.
            is_whole &= unread.is_none() || !version.is_current;
            listing::tell(&mut passed, repository, &version, unread);
            for (digest, length) in blobs {
                if seen.insert(digest) {
                    bytes = bytes.saturating_add(length);
                }
            }
        }
    }
    match is_whole {
        true => put(backend, namespace, bytes, added)?,
        false => {
            let unread = passed.told.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(
                namespace,
                unread,
                "what a namespace has is counted without what cannot be read of it"
            );
        }
    }
    Ok(bytes)
}
