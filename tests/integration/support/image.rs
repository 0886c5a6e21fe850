//! Images in a store: small ones, made without an engine and put there as the publisher does, and what is in those that
//! were published.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use super::blob::bytes_of;
use buildgrid::publish::manifest::DEFINITION;
use buildgrid::publish::name::{ImageName, ImageRepository};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, TagOutcome, TagPut};
use oci_spec::image::{
    Arch, ConfigBuilder, DescriptorBuilder, Digest as OciDigest, ImageConfigurationBuilder,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder, SCHEMA_VERSION,
};

/// An image of one layer in which `/greeting` says `text`.
pub struct TestImage {
    pub layer: Vec<u8>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl TestImage {
    pub fn saying(text: &str) -> Self {
        let tar = tar_of("greeting", text.as_bytes());
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        let layer = gzip.finish().unwrap();
        let config = ImageConfigurationBuilder::default()
            .architecture(Arch::Amd64)
            .os(Os::Linux)
            .config(ConfigBuilder::default().cmd(vec!["/greeting".to_owned()]).build().unwrap())
            .rootfs(
                RootFsBuilder::default()
                    .typ("layers")
                    .diff_ids(vec![Digest::of(&tar).to_string()])
                    .build()
                    .unwrap(),
            )
            .history(Vec::new())
            .build()
            .unwrap();
        let config = serde_json::to_vec(&config).unwrap();
        let descriptor = |media_type, bytes: &[u8]| {
            let digest: OciDigest = Digest::of(bytes).to_string().parse().unwrap();
            DescriptorBuilder::default()
                .media_type(media_type)
                .digest(digest)
                .size(bytes.len() as u64)
                .build()
                .unwrap()
        };
        let manifest = ImageManifestBuilder::default()
            .schema_version(SCHEMA_VERSION)
            .media_type(MediaType::ImageManifest)
            .config(descriptor(MediaType::ImageConfig, &config))
            .layers(vec![descriptor(MediaType::ImageLayerGzip, &layer)])
            // As all that BuildGrid makes.
            .annotations([(DEFINITION.to_owned(), Digest::of(text.as_bytes()).to_string())])
            .build()
            .unwrap();
        Self { layer, config, manifest: serde_json::to_vec(&manifest).unwrap() }
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Puts everything but the tag.
    pub async fn put_untagged(&self, store: &Store, repository: &ImageRepository) -> Digest {
        let layer = put_streamed(store, self.layer.clone()).await;
        let config = store.put_blob(self.config.clone()).await.unwrap();
        store.link_blobs(repository, vec![layer, config]).await.unwrap();
        store.put_manifest(repository, self.manifest.clone()).await.unwrap()
    }

    /// Publishes the image under a tag that is free.
    pub async fn publish(&self, store: &Store, name: &ImageName) -> Digest {
        let digest = self.put_untagged(store, &name.repository).await;
        assert_eq!(store.put_tag(name, digest, TagPut::IfAbsent).await.unwrap(), TagOutcome::Put);
        digest
    }
}

/// `acme/shop.storefront` and `v1` as a name.
pub fn image_name(repository: &str, tag: &str) -> ImageName {
    ImageName { repository: repository.parse().unwrap(), tag: tag.parse().unwrap() }
}

/// Puts a blob as layers are put.
pub async fn put_streamed(store: &Store, bytes: Vec<u8>) -> Digest {
    let store = store.clone();
    let put = move || {
        let mut writer = store.blob_writer().unwrap();
        writer.write_all(&bytes).unwrap();
        let (digest, length) = writer.commit().unwrap();
        assert_eq!((digest, length), (Digest::of(&bytes), bytes.len() as u64));
        digest
    };
    tokio::task::spawn_blocking(put).await.unwrap()
}

fn tar_of(path: &str, bytes: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o755);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, path, bytes).unwrap();
    tar.into_inner().unwrap()
}

/// What is in an image that was published.
pub struct Published {
    /// By path, without a slash at the beginning; folders are left out. Of layers, the last one counts.
    pub files: BTreeMap<String, File>,
    pub config: serde_json::Value,
}

pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// User and group.
    pub owner: (u64, u64),
    /// Where it points, if it is a symbolic link.
    pub link: Option<String>,
}

impl Published {
    /// Reads it as a client that pulls would.
    pub async fn read(store: &Store, repository: &ImageRepository, digest: Digest) -> Self {
        let manifest = store.manifest(repository, digest).await.unwrap().expect("the manifest");
        let manifest: oci_spec::image::ImageManifest = serde_json::from_slice(&manifest).unwrap();
        let blob = async |descriptor: &oci_spec::image::Descriptor| {
            let digest = descriptor.digest().to_string().parse().unwrap();
            bytes_of(&store.blob(repository, digest).await.unwrap().expect("a blob")).await
        };
        let config = serde_json::from_slice(&blob(manifest.config()).await).unwrap();
        let mut files = BTreeMap::new();
        for layer in manifest.layers() {
            apply(&blob(layer).await, &mut files);
        }
        Self { files, config }
    }
}

fn apply(layer: &[u8], files: &mut BTreeMap<String, File>) {
    let mut archive = tar::Archive::new(flate2::read::MultiGzDecoder::new(layer));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if let Some((folder, name)) = path.rsplit_once(".wh.") {
            let removed = format!("{folder}{name}");
            files.retain(|path, _| *path != removed && !path.starts_with(&format!("{removed}/")));
            continue;
        }
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let link = entry.link_name_bytes().map(|target| String::from_utf8_lossy(&target).into_owned());
        let header = entry.header();
        // Docker's archives have the type of the file in it as well.
        let mode = header.mode().unwrap() & 0o7777;
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        files.insert(path, File { content, mode, owner, link });
    }
}
