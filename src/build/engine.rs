//! The seam between engines and publishing: whatever builds an image, Docker or the fake, answers
//! with a [`BuiltImage`], and everything after that is one path.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::Deserialize;

use crate::store::Layer;
use crate::store::digest::Digest;

/// An image that an engine has built and that nobody can pull yet.
pub struct BuiltImage {
    /// The image's configuration, byte for byte as the engine wrote it.
    pub config: Vec<u8>,
    /// The digests of the uncompressed layers, lowest first (OCI image specification 1.1, config.md, `rootfs.diff_ids`).
    pub diff_ids: Vec<Digest>,
    layers: Box<dyn Layers>,
}

/// Where a built image's layers are read from.
pub trait Layers: Send + Sync {
    /// Opens the layer at `index`, of which there are as many as diff ids, as its uncompressed tar. It is read on a blocking thread, and its
    /// digest is checked by the reader: an implementation need not.
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send>>;

    /// The layer at `index` as the engine has compressed it already, if it has.
    fn packed(&self, index: usize) -> Option<&Packed> {
        let _ = index;
        None
    }
}

/// A compressed layer that can be taken as it is. Its digest is checked by whoever takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub layer: Layer,
    pub path: PathBuf,
}

/// The diff ids of an image's configuration.
///
/// # Errors
/// It is no configuration, or has none: there is no image without a layer that engines export or clients pull.
pub fn diff_ids(config: &[u8]) -> Result<Vec<Digest>, NoLayers> {
    #[derive(Deserialize)]
    struct Config {
        rootfs: RootFs,
    }
    // Of none, engines write null.
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Option<Vec<Digest>>,
    }
    let config: Config = serde_json::from_slice(config).map_err(NoLayers::Unreadable)?;
    match config.rootfs.diff_ids.unwrap_or_default() {
        none if none.is_empty() => Err(NoLayers::Empty),
        ids => Ok(ids),
    }
}

/// Why an image has no layers to publish.
#[derive(Debug, thiserror::Error)]
pub enum NoLayers {
    #[error("the image's configuration: {0}")]
    Unreadable(serde_json::Error),
    #[error("the image has no layer; let the Dockerfile put something into it, with COPY, ADD or RUN")]
    Empty,
}

impl BuiltImage {
    pub fn new(config: Vec<u8>, diff_ids: Vec<Digest>, layers: impl Layers + 'static) -> Self {
        Self { config, diff_ids, layers: Box::new(layers) }
    }

    /// Opens the layer at `index` of [`diff_ids`](Self::diff_ids), uncompressed.
    pub fn open_layer(&self, index: usize) -> io::Result<Box<dyn Read + Send>> {
        if index >= self.diff_ids.len() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("the image has no layer {index}")));
        }
        self.layers.open(index)
    }

    /// The layer at `index`, compressed, where the engine has it so.
    pub fn packed_layer(&self, index: usize) -> Option<&Packed> {
        self.layers.packed(index)
    }
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The build's own fault: a failing step, an unreadable Dockerfile, a base image that is not there.
    #[error("{}", .0.reason)]
    Failed(BuildFailure),
    /// Not the build's fault: the engine is away, a registry cannot be reached.
    #[error("{0}")]
    Infrastructure(String),
    /// Not the build's fault either, and a reason to look at the engine's disk at once: it is full.
    #[error("{0}")]
    EngineFull(String),
    /// The token was cancelled; what was left on the engine has been removed.
    #[error("cancelled")]
    Cancelled,
}

/// How many of a failed step's last lines go with a failure.
pub const EXCERPT_LINES: usize = 20;

/// What went wrong in a build, in words for the person who wrote the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildFailure {
    pub reason: String,
    /// The step that failed, as the log names it.
    pub step: Option<String>,
    /// Where that step stands: the Dockerfile's path and the line, as `Dockerfile:7`.
    pub location: Option<String>,
    /// The step's last lines, at most [`EXCERPT_LINES`].
    pub excerpt: Vec<String>,
    /// What may be tried, where that can be told.
    pub advice: Option<String>,
}
