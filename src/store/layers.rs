//! The index from an uncompressed layer, as engines name it, to its compressed blob in the store, so
//! that a layer is compressed and stored once. What of the blobs was verified lately is known, so that an image of
//! layers that are there costs no reading.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::backend::{self, Content, Stamp};
use super::condemned;
use super::digest::{Digest, Digesting};
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use crate::telemetry::pulse::Pulse;

/// How long a blob counts as verified once it was read whole: what changes it later by writing shows in its file's times,
/// and what the disk damages is found after that.
const VERIFIED_FOR: Duration = Duration::from_secs(3600);
/// As many blobs are remembered. Above it, all are forgotten.
const MAX_VERIFIED: usize = 16_384;

/// The blobs whose content was verified, and when.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<HashMap<Digest, (Stamp, Instant)>>);

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
        let layer = self.blocking(move |backend| {
            let Some(bytes) = backend.read(&key)? else { return Ok(None) };
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

    /// Whether the store has the blob of a layer whole. Its content is read, unless it was verified within the last
    /// hour: a publish must not build on what the disk has damaged, and building again must mend it. `pulse` beats
    /// meanwhile.
    pub async fn has_layer(&self, layer: &Layer, pulse: &Pulse) -> Result<bool, StoreError> {
        let (digest, size) = (layer.digest, layer.size);
        let (pulse, verified) = (pulse.clone(), self.verified().clone());
        self.blocking(move |backend| {
            condemned::spare(backend, [digest])?;
            let key = layout::blob(digest);
            if backend.size(&key)? != Some(size) {
                return Ok(false);
            }
            let path = backend.place(&key);
            let stamp = backend.stamp(&key)?;
            if stamp.as_ref().is_some_and(|stamp| verified.has(digest, stamp)) {
                return Ok(true);
            }
            let stamp = stamp.filter(Stamp::is_settled);
            let Some(content) = backend.open(&key)? else { return Ok(false) };
            match digest_of(&content, &pulse) {
                Ok(found) if found == digest => {
                    // Whoever put it may not have come to its own sync.
                    backend.settle(&key)?;
                    verified.note(digest, stamp);
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
    /// digest that it has. Blocks; ends with [`io::ErrorKind::Interrupted`] soon after `cancel` is cancelled. What the store
    /// could not write is an error around a [`StoreError`].
    pub fn take_layer(
        &self,
        source: &File,
        layer: &Layer,
        pulse: &Pulse,
        cancel: &CancellationToken,
    ) -> io::Result<Digest> {
        backend::take(self.backend(), source, layer.digest, pulse, cancel)
    }

    /// Remembers the blob of a layer. Call it when the blob is in the store and the digest of its
    /// uncompressed bytes has been verified to be `diff_id`. A loss of power may lose it, which costs compressing the
    /// layer again.
    pub async fn index_layer(&self, diff_id: Digest, layer: &Layer) -> Result<(), StoreError> {
        let json = serde_json::to_vec(layer)
            .map_err(|error| StoreError::Manifest { digest: layer.digest, reason: error.to_string() })?;
        self.blocking(move |backend| backend.note(&layout::layer_index(diff_id), &json)).await
    }
}

impl Verified {
    fn has(&self, blob: Digest, now: &Stamp) -> bool {
        let verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(&blob).is_some_and(|(then, at)| then == now && at.elapsed() < VERIFIED_FOR)
    }

    /// Notes a blob with its stamp from before it was read.
    fn note(&self, blob: Digest, stamp: Option<Stamp>) {
        let Some(stamp) = stamp else { return };
        let mut verified = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(blob, (stamp, Instant::now()));
    }
}

fn digest_of(content: &Content<'_>, pulse: &Pulse) -> io::Result<Digest> {
    let mut content = Digesting::new(pulse.reading(content.reader()?));
    io::copy(&mut content, &mut io::sink())?;
    Ok(content.finish().0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::SETTLED;

    #[test]
    fn a_file_that_was_changed_is_not_verified_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::fs::write(&path, "one").unwrap();
        let (verified, blob) = (Verified::default(), Digest::of(b"one"));
        let now = Stamp::of_file(&path).unwrap();
        assert!(!now.is_settled(), "it may be changed within the same tick");
        std::thread::sleep(SETTLED + Duration::from_millis(100));
        assert!(now.is_settled());
        verified.note(blob, Some(now.clone()));
        assert!(verified.has(blob, &Stamp::of_file(&path).unwrap()));
        assert!(!verified.has(Digest::of(b"two"), &now));

        // The same length, and the time of before.
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        std::fs::write(&path, "two").unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert!(!verified.has(blob, &Stamp::of_file(&path).unwrap()));
        assert_eq!(Stamp::of_file(&folder.path().join("none")), None);
    }

    #[test]
    fn an_hour_later_it_is_read_again() {
        let (verified, blob) = (Verified::default(), Digest::of(b"one"));
        let Some(then) = Instant::now().checked_sub(VERIFIED_FOR) else { return };
        verified.0.lock().unwrap().insert(blob, (Stamp::File([0; 7]), then));
        assert!(!verified.has(blob, &Stamp::File([0; 7])));
    }
}
