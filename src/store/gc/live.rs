//! The set of what is in use.

use std::collections::HashSet;

use crate::store::digest::Digest;

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
