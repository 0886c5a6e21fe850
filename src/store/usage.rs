//! How much a namespace has in the store, for its quota: known at any time without going through the store.
//!
//! A collection of garbage counts it, which goes through all images anyway. Each publish since then has left an object
//! whose name says what it added, so that any number of workers add at once, and a sum takes one listing. What two of
//! them add at once counts twice, and what a publish adds while a collection counts may be missing, until the next one.

use super::backend::Backend;
use super::credentials::random_text;
use super::digest::Digest;
use super::error::StoreError;
use super::handle::Store;
use super::inventory;
use super::layout;
use super::listing::blobs_of;
use crate::publish::name::{ImageRepository, Namespace};

impl Store {
    /// All that the namespace's images are made of, each blob once, in bytes. The first time all of its images are
    /// looked at.
    pub async fn usage(&self, namespace: &Namespace) -> Result<u64, StoreError> {
        let namespace = namespace.clone();
        self.blocking(move |backend| {
            let added = added(backend, namespace.as_str())?;
            let counted = match counted(backend, namespace.as_str())? {
                Some(bytes) => bytes,
                None => {
                    let bytes = count(backend, namespace.as_str())?;
                    put(backend, namespace.as_str(), bytes, &added)?;
                    return Ok(bytes);
                }
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
                _ => {
                    let bytes = count(backend, namespace.as_str())?;
                    put(backend, namespace.as_str(), bytes, &added)?;
                    Ok(bytes)
                }
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
pub(super) fn all_added(backend: &Backend) -> Result<Vec<(String, Vec<String>)>, StoreError> {
    let namespaces = namespaces(backend)?.into_iter();
    let added = namespaces.map(|namespace| {
        let added = added(backend, &namespace)?;
        Ok((namespace, added))
    });
    added.collect()
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

fn count(backend: &Backend, namespace: &str) -> Result<u64, StoreError> {
    let (mut seen, mut bytes) = (std::collections::HashSet::new(), 0_u64);
    let below = format!("{namespace}/");
    for repository in inventory::repositories(backend)? {
        if !repository.path.starts_with(&below) {
            continue;
        }
        for version in inventory::versions(backend, &repository)?.all {
            for (digest, length) in blobs_of(backend, version.manifest) {
                if seen.insert(digest) {
                    bytes = bytes.saturating_add(length);
                }
            }
        }
    }
    Ok(bytes)
}
