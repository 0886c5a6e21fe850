//! The set of what is in use, and what of it is whose.

use std::collections::{HashMap, HashSet};

use crate::store::digest::Digest;
use crate::store::inventory::namespace_of;

/// Digests, by their first eight bytes: so 100,000 of them take 2 MB. Of two that begin alike, both count as in use:
/// something that nobody needs would stay, which among ten million happens once in two million million blobs.
#[derive(Debug, Default)]
pub(super) struct Live(HashSet<u64>);

impl Live {
    /// Answers whether it is new.
    pub(super) fn insert(&mut self, digest: Digest) -> bool {
        self.0.insert(short(digest))
    }

    pub(super) fn has(&self, digest: Digest) -> bool {
        self.0.contains(&short(digest))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn short(digest: Digest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// What namespaces have, one after the other: repositories are looked through in the order of their names.
#[derive(Default)]
pub(super) struct Usage {
    namespace: String,
    blobs: Live,
    bytes: HashMap<String, u64>,
}

impl Usage {
    pub(super) fn add(&mut self, repository: &str, parts: impl Iterator<Item = (Digest, u64)>) {
        let namespace = namespace_of(repository);
        if self.namespace != namespace {
            namespace.clone_into(&mut self.namespace);
            self.blobs = Live::default();
        }
        let new = parts.filter(|(digest, _)| self.blobs.insert(*digest)).map(|(_, size)| size);
        let sum = self.bytes.entry(namespace.to_owned()).or_default();
        *sum = new.fold(*sum, u64::saturating_add);
    }

    pub(super) fn of(&self, namespace: &str) -> u64 {
        self.bytes.get(namespace).copied().unwrap_or(0)
    }
}
