//! The index from an uncompressed layer, as engines name it, to its compressed blob in the store, so
//! that a layer is compressed and stored once.

use std::fs::File;
use std::io;
use std::path::Path;

use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use tracing::warn;

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
    /// The blob of the layer whose uncompressed tar has the digest `diff_id`, if the store has it whole.
    /// Its content is read: a publish must not build on what the disk has damaged, and building again
    /// must mend it. Beside the engine's export of the same layer, that costs little. `pulse` beats meanwhile.
    pub async fn find_layer(&self, diff_id: Digest, pulse: &Pulse) -> Result<Option<Layer>, StoreError> {
        let pulse = pulse.clone();
        self.blocking(move |directory| {
            let key = layout::layer_index(diff_id);
            let Some(bytes) = directory.read(&key)? else { return Ok(None) };
            let layer: Layer = match serde_json::from_slice(&bytes) {
                Ok(layer) => layer,
                Err(error) => {
                    // Only an index: the publisher compresses the layer again and writes it anew.
                    warn!(key = key.as_str(), %error, "ignored an unreadable entry of the layer index");
                    return Ok(None);
                }
            };
            let key = layout::blob(layer.digest);
            if directory.size(&key)? != Some(layer.size) {
                return Ok(None);
            }
            let path = directory.path(&key);
            match digest(&path, &pulse) {
                Ok(found) if found == layer.digest => return Ok(Some(layer)),
                Ok(_) => warn!(path = %path.display(), "a blob is damaged; its layer is stored anew"),
                Err(error) => {
                    warn!(path = %path.display(), %error, "a blob cannot be read; its layer is stored anew");
                }
            }
            Ok(None)
        })
        .await
    }

    /// Remembers the blob of a layer. Call it when the blob is in the store and the digest of its
    /// uncompressed bytes has been verified to be `diff_id`.
    pub async fn index_layer(&self, diff_id: Digest, layer: &Layer) -> Result<(), StoreError> {
        let json = serde_json::to_vec(layer)
            .map_err(|error| StoreError::Manifest { digest: layer.digest, reason: error.to_string() })?;
        self.blocking(move |directory| directory.put(&[(&layout::layer_index(diff_id), &json)])).await
    }
}

fn digest(path: &Path, pulse: &Pulse) -> io::Result<Digest> {
    let mut content = Digesting::new(pulse.reading(File::open(path)?));
    io::copy(&mut content, &mut io::sink())?;
    Ok(content.finish().0)
}
