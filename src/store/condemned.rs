//! What is to be removed: the marks of the collection of garbage, and how who needs something takes them off.
//!
//! A mark names an object and says since when it stands. What it names has to do with one digest (a blob, a link to
//! it), and the marks of all digests that begin with the same two digits lie in one list, so that a publisher finds
//! them by reading one small file, which mostly is not there. A list is only changed by compare-and-set: whoever takes
//! a mark off before the collection comes to it has saved what it names, and whoever comes too late sees that it is
//! gone.
//!
//! Nothing of it is synced. Marks that a loss of power takes away are made again, and old ones that it brings back are
//! judged like all others, by whether what they name is in use.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::digest::Digest;
use super::error::StoreError;
use super::layout;

/// One mark: a line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The object.
    pub key: String,
    /// The digest that it has to do with.
    pub digest: Digest,
    /// Since when it stands, by the store's clock, in seconds.
    pub since: u64,
    /// The round that made it.
    pub round: String,
    /// Whether it is an image that retention lets go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_image: bool,
}

/// The marks of one list.
#[derive(Debug, Default)]
pub(super) struct List {
    pub marks: Vec<Mark>,
    /// As it was read: what a change is compared with.
    pub bytes: Vec<u8>,
}

impl List {
    pub(super) fn read(backend: &Backend, shard: &str) -> Result<Self, StoreError> {
        let bytes = backend.read(&layout::condemned(shard))?.unwrap_or_default();
        // A line that cannot be read condemns nothing.
        let lines = bytes.split(|&byte| byte == b'\n');
        Ok(Self { marks: lines.filter_map(|line| serde_json::from_slice(line).ok()).collect(), bytes })
    }

    pub(super) fn bytes_of<'a>(marks: impl IntoIterator<Item = &'a Mark>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for mark in marks {
            serde_json::to_writer(&mut bytes, mark).expect("text and numbers have a JSON form");
            bytes.push(b'\n');
        }
        bytes
    }
}

/// The list in which the marks of a digest are.
pub(super) fn shard_of(digest: Digest) -> String {
    digest.hex()[..2].to_owned()
}

/// All lists there can be.
pub(super) fn shards() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|byte| format!("{byte:02x}"))
}

/// Takes off all marks that have to do with these digests. Afterwards nothing of them is removed before a whole grace
/// has passed; what is there now may be relied on for so long.
pub(super) fn spare(backend: &Backend, digests: impl IntoIterator<Item = Digest>) -> Result<(), StoreError> {
    let digests: BTreeSet<Digest> = digests.into_iter().collect();
    for &digest in &digests {
        let shard = shard_of(digest);
        loop {
            let list = List::read(backend, &shard)?;
            let named = |mark: &&Mark| digests.contains(&mark.digest);
            if !list.marks.iter().any(|mark| named(&mark)) {
                break;
            }
            let rest = List::bytes_of(list.marks.iter().filter(|mark| !named(mark)));
            let (lock, key) = (layout::condemned_lock(), layout::condemned(&shard));
            if backend.change(&lock, &key, &list.bytes, &rest)? {
                break;
            }
        }
    }
    Ok(())
}
