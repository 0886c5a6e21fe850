//! The index from an uncompressed layer, as engines name it, to its compressed blob in the store, so
//! that a layer is compressed and stored once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::backend;
use super::digest::{Digest, Digesting};
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use crate::telemetry::pulse::Pulse;

/// The compressed form of a layer: the fields of its descriptor in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    pub media_type: MediaType,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

impl Store {
    /// The blob of the layer whose uncompressed tar has the digest `diff_id`, if the store has it
    /// [whole](Self::has_layer).
    pub async fn find_layer(&self, diff_id: Digest, pulse: &Pulse) -> Result<Option<Layer>, StoreError> {
        let key = layout::layer_index(diff_id);
        let layer = self.blocking(move |directory| {
            let Some(bytes) = directory.read(&key)? else { return Ok(None) };
            match serde_json::from_slice::<Layer>(&bytes) {
                Ok(layer) => Ok(Some(layer)),
                Err(error) => {
                    // Only an index: the publisher compresses the layer again and writes it anew.
                    warn!(key = key.as_str(), %error, "ignored an unreadable entry of the layer index");
                    Ok(None)
                }
            }
        });
        match layer.await? {
            Some(layer) if self.has_layer(&layer, pulse).await? => Ok(Some(layer)),
            _ => Ok(None),
        }
    }

    /// Whether the store has the blob of a layer whole. Its content is read, unless this process has seen it within
    /// the hour and the file is the same: a publish must not build on what the disk has damaged, and building again must
    /// mend it. `pulse` beats meanwhile.
    pub async fn has_layer(&self, layer: &Layer, pulse: &Pulse) -> Result<bool, StoreError> {
        let (digest, size, pulse, seen) = (layer.digest, layer.size, pulse.clone(), self.seen().clone());
        self.blocking(move |directory| {
            let path = directory.path(&layout::blob(digest));
            let stamp = match Stamp::of(&path) {
                Ok(stamp) if stamp.size == size => stamp,
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(StoreError::io("read", &path, error)),
            };
            if seen.has(digest, &stamp) {
                return Ok(true);
            }
            match digest_of(&path, &pulse) {
                Ok(found) if found == digest => {
                    seen.note(digest, stamp);
                    return Ok(true);
                }
                Ok(_) => warn!(path = %path.display(), "a blob is damaged; its layer is stored anew"),
                Err(error) => {
                    warn!(path = %path.display(), %error, "a blob cannot be read; its layer is stored anew");
                }
            }
            Ok(false)
        })
        .await
    }

    /// Takes a layer that is compressed already, from the file `source`, if it is the one it is said to be; answers the
    /// digest that it has.
    pub fn take_layer(&self, source: &File, layer: &Layer, pulse: &Pulse) -> Result<Digest, StoreError> {
        backend::take(self.directory(), source, layer.digest, pulse)
    }

    /// Remembers the blob of a layer. Call it when the blob is in the store and the digest of its
    /// uncompressed bytes has been verified to be `diff_id`.
    pub async fn index_layer(&self, diff_id: Digest, layer: &Layer) -> Result<(), StoreError> {
        let json = serde_json::to_vec(layer)
            .map_err(|error| StoreError::Manifest { digest: layer.digest, reason: error.to_string() })?;
        self.blocking(move |directory| directory.put(&[(&layout::layer_index(diff_id), &json)])).await
    }
}

fn digest_of(path: &Path, pulse: &Pulse) -> io::Result<Digest> {
    let mut content = Digesting::new(pulse.reading(File::open(path)?));
    io::copy(&mut content, &mut io::sink())?;
    Ok(content.finish().0)
}

/// How long a blob counts as whole once it has been read.
const GOOD_FOR: Duration = Duration::from_secs(60 * 60);
/// The most blobs remembered; beyond it the memory starts anew, which costs a reading of each.
const MAX_SEEN: usize = 16_384;

/// The blobs that this process has lately read whole.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<Digest, (Stamp, Instant)>>);

/// What tells a file from one that was put in its place, or written to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Of its content and of its entry, in seconds and nanoseconds.
    changed: [(i64, i64); 2],
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let found = path.metadata()?;
        Ok(Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            changed: [(found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec())],
        })
    }
}

impl Seen {
    fn has(&self, digest: Digest, stamp: &Stamp) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&digest).is_some_and(|(known, when)| known == stamp && when.elapsed() < GOOD_FOR)
    }

    fn note(&self, digest: Digest, stamp: Stamp) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        seen.insert(digest, (stamp, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_touched_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let seen = Seen::default();
        let digest = Digest::of(b"layer");
        let other = folder.path().join("other");
        let changes: [&dyn Fn(); 3] = [
            &|| std::fs::write(&path, b"later").unwrap(),
            &|| std::fs::write(&other, b"layer").and_then(|()| std::fs::rename(&other, &path)).unwrap(),
            &|| File::options().write(true).open(&path).unwrap().set_len(4).unwrap(),
        ];
        for change in changes {
            std::fs::write(&path, b"layer").unwrap();
            let stamp = Stamp::of(&path).unwrap();
            assert!(!seen.has(digest, &stamp));
            seen.note(digest, stamp.clone());
            assert!(seen.has(digest, &Stamp::of(&path).unwrap()));
            // A file system tells times apart by its own clock, which ticks a few hundred times a second.
            std::thread::sleep(Duration::from_millis(20));
            change();
            assert!(!seen.has(digest, &Stamp::of(&path).unwrap()));
        }
    }
}
