//! Images of the storage driver `overlay2` (moby, image/fs.go, layer/filestore.go, daemon/graphdriver/overlay2):
//!
//! ```text
//! image/overlay2/imagedb/content/sha256/<image id>      the configuration
//! image/overlay2/layerdb/sha256/<chain id>/diff         the layer's diff id
//!                                         /cache-id     the name of its directory
//!                                         /tar-split.json.gz
//! overlay2/<cache id>/diff/                             its files
//! ```

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use super::tar_split::TarSplit;
use super::{document, verified};
use crate::build::engine::{BuiltImage, Layers, diff_ids};
use crate::store::digest::Digest;

fn contents(root: &Path) -> PathBuf {
    root.join("image/overlay2/imagedb/content/sha256")
}

fn layers(root: &Path) -> PathBuf {
    root.join("image/overlay2/layerdb/sha256")
}

/// Of both trees, the directories that only root may enter.
pub(super) fn readable(root: &Path) -> anyhow::Result<()> {
    for path in [contents(root), layers(root), root.join("overlay2")] {
        std::fs::read_dir(&path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

pub(super) fn image(root: &Path, id: Digest) -> anyhow::Result<BuiltImage> {
    let config = verified(&contents(root).join(id.hex()), id)?;
    let diff_ids = diff_ids(&config)?;
    let mut chain: Option<Digest> = None;
    let mut found = Vec::with_capacity(diff_ids.len());
    for &diff_id in &diff_ids {
        // OCI image specification 1.1, config.md, "Layer ChainID".
        let id = chain.map_or(diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()));
        found.push(Kept::find(root, id, diff_id)?);
        chain = Some(id);
    }
    Ok(BuiltImage::new(config, diff_ids, Overlay2(found)))
}

/// A layer as the driver keeps it.
struct Kept {
    split: PathBuf,
    files: PathBuf,
}

impl Kept {
    fn find(root: &Path, chain_id: Digest, diff_id: Digest) -> anyhow::Result<Self> {
        let entry = layers(root).join(chain_id.hex());
        let line = |name: &str| -> anyhow::Result<String> {
            let path = entry.join(name);
            let text = String::from_utf8(document(&path)?).with_context(|| path.display().to_string())?;
            Ok(text.trim_end().to_owned())
        };
        let diff = line("diff")?;
        ensure!(
            diff == diff_id.to_string(),
            "{}: the layer {diff} lies in the place of {diff_id}",
            entry.display()
        );
        let cache_id = line("cache-id")?;
        let is_name =
            !cache_id.is_empty() && cache_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        ensure!(is_name, "{}: {cache_id:?} is not the name of a directory", entry.display());
        let files = root.join("overlay2").join(cache_id).join("diff");
        ensure!(files.is_dir(), "{} is missing", files.display());
        let split = entry.join("tar-split.json.gz");
        ensure!(split.is_file(), "{} is missing", split.display());
        Ok(Self { split, files })
    }
}

struct Overlay2(Vec<Kept>);

impl Layers for Overlay2 {
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send>> {
        let kept = &self.0[index];
        let named = |path: &Path, error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        };
        let split = File::open(&kept.split).map_err(|error| named(&kept.split, error))?;
        let files = File::open(&kept.files).map_err(|error| named(&kept.files, error))?;
        Ok(Box::new(TarSplit::new(split, files, kept.files.clone())))
    }
}
