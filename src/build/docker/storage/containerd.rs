//! Images of containerd's content store, in which everything lies by its digest, the layers compressed (containerd,
//! plugins/content/local). The id of an image is there the digest of what describes it: an index with the manifest and
//! what BuildKit attests of the build, or the manifest alone.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, MediaType};

use super::verified;
use crate::build::engine::{BuiltImage, Layers, Packed, diff_ids};
use crate::store::Layer;
use crate::store::digest::Digest;

const READ_BUFFER: usize = 128 * 1024;

/// The directory of all blobs, in which `there` finds what is looked for: under the engine's directory where it runs a
/// containerd of its own, or else where the system's has it (containerd, defaults/defaults_unix.go).
fn blobs(root: &Path, there: impl Fn(&Path) -> io::Result<()>) -> anyhow::Result<PathBuf> {
    let mut absent = None;
    for root in [root.join("containerd/daemon"), PathBuf::from("/var/lib/containerd")] {
        let path = root.join("io.containerd.content.v1.content/blobs/sha256");
        match there(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                absent = absent.or(Some(error));
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Err(absent.unwrap_or(io::ErrorKind::NotFound.into()))
        .context("containerd's content store has no such image")
}

pub(super) fn readable(root: &Path) -> anyhow::Result<()> {
    blobs(root, |path| std::fs::read_dir(path).map(drop)).map(drop)
}

pub(super) fn image(root: &Path, id: Digest) -> anyhow::Result<BuiltImage> {
    let blobs = Blobs(blobs(root, |path| File::open(path.join(id.hex())).map(drop))?);
    let manifest = blobs.manifest(id)?;
    let (config, _) = blobs.document(manifest.config())?;
    let diff_ids = diff_ids(&config)?;
    let layers = manifest.layers();
    ensure!(layers.len() == diff_ids.len(), "{} layers, but {} diff ids", layers.len(), diff_ids.len());
    let layers = layers.iter().map(|layer| blobs.layer(layer)).collect::<anyhow::Result<_>>()?;
    Ok(BuiltImage::new(config, diff_ids, Content(layers)))
}

/// The directory of all blobs, each under its digest.
struct Blobs(PathBuf);

impl Blobs {
    /// The manifest that `id` is of, or leads to.
    fn manifest(&self, id: Digest) -> anyhow::Result<ImageManifest> {
        let path = self.0.join(id.hex());
        let bytes = verified(&path, id)?;
        let index = || path.display().to_string();
        // Both have a list, and which one says what it is.
        if let Ok(manifest) = ImageManifest::from_reader(&bytes[..]) {
            return Ok(manifest);
        }
        let found = ImageIndex::from_reader(&bytes[..]).with_context(index)?;
        let mut images = found.manifests().iter().filter(|manifest| !is_attestation(manifest));
        let (Some(manifest), None) = (images.next(), images.next()) else {
            bail!("{} does not lead to exactly one image", path.display());
        };
        let (bytes, path) = self.document(manifest)?;
        ImageManifest::from_reader(&bytes[..]).with_context(|| path.display().to_string())
    }

    fn document(&self, descriptor: &Descriptor) -> anyhow::Result<(Vec<u8>, PathBuf)> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let path = self.0.join(digest.hex());
        Ok((verified(&path, digest)?, path))
    }

    fn layer(&self, descriptor: &Descriptor) -> anyhow::Result<Packed> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let media_type = match descriptor.media_type() {
            MediaType::ImageLayerGzip => MediaType::ImageLayerGzip,
            MediaType::ImageLayerZstd => MediaType::ImageLayerZstd,
            // Docker's name of the same (distribution, manifest/schema2).
            MediaType::Other(name) if name == "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                MediaType::ImageLayerGzip
            }
            other => bail!("the layer {digest} is {other}, which is not taken as it is"),
        };
        let path = self.0.join(digest.hex());
        let found = path.metadata().with_context(|| path.display().to_string())?;
        ensure!(
            found.len() == descriptor.size(),
            "{} is {} bytes long, not {}",
            path.display(),
            found.len(),
            descriptor.size()
        );
        Ok(Packed { layer: Layer { media_type, digest, size: descriptor.size() }, path })
    }
}

/// What BuildKit says of the build, in the form of an image for no platform (moby/buildkit,
/// docs/attestations/attestation-storage.md).
fn is_attestation(manifest: &Descriptor) -> bool {
    let typed =
        manifest.annotations().as_ref().is_some_and(|notes| notes.contains_key("vnd.docker.reference.type"));
    let nowhere = manifest
        .platform()
        .as_ref()
        .is_some_and(|platform| *platform.architecture() == Arch::Other("unknown".into()));
    typed || nowhere
}

struct Content(Vec<Packed>);

impl Layers for Content {
    fn open(&self, index: usize) -> io::Result<Box<dyn Read + Send>> {
        let packed = &self.0[index];
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", packed.path.display()));
        let blob = BufReader::with_capacity(READ_BUFFER, File::open(&packed.path).map_err(named)?);
        Ok(match packed.layer.media_type {
            MediaType::ImageLayerZstd => Box::new(zstd::Decoder::with_buffer(blob)?),
            _ => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
        })
    }

    fn packed(&self, index: usize) -> Option<&Packed> {
        self.0.get(index)
    }
}
