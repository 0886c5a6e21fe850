//! The store: against a model, from many threads, on a full disk.

mod any_bytes;
mod backup;
mod crash;
mod full_disk;
mod gc;
mod lost_answers;
mod model;
mod objects;
mod publishing;
mod scrub;
mod taking_back;
mod unread;
mod usage;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use buildgrid::store::digest::Digest;
use buildgrid::store::{Layer, Store, StoreConfig, StoreError, TagOutcome, TagPut};
use buildgrid::telemetry::pulse::Pulse;
use oci_spec::image::MediaType;
use tempfile::TempDir;

use crate::support::image::{TestImage, image_name, put_streamed};
use crate::support::s3::S3;

/// Where a store is: in a directory, or in the bucket of an S3 server, whose objects are files here, too.
enum Root {
    Directory(TempDir),
    Objects(S3),
}

impl Root {
    fn path(&self) -> &Path {
        match self {
            Self::Directory(folder) => folder.path(),
            Self::Objects(server) => server.files(),
        }
    }

    fn config(&self) -> StoreConfig {
        match self {
            Self::Directory(folder) => StoreConfig::at(folder.path()),
            Self::Objects(server) => server.store(),
        }
    }
}

impl Root {
    fn is_objects(&self) -> bool {
        matches!(self, Self::Objects(_))
    }

    /// Waits until what is put has another time: an object store tells it in seconds.
    async fn tick(&self) {
        let tick = if self.is_objects() { 1100 } else { 20 };
        tokio::time::sleep(std::time::Duration::from_millis(tick)).await;
    }
}

fn opened(root: Root) -> (Root, Store) {
    let store = Store::open(&root.config()).unwrap();
    (root, store)
}

fn store() -> (Root, Store) {
    opened(Root::Directory(tempfile::tempdir().unwrap()))
}

fn objects() -> (Root, Store) {
    opened(Root::Objects(S3::start()))
}

/// Makes a function two tests: of a store in a directory, and of one in an object store.
macro_rules! both {
    ($name:ident) => {
        mod $name {
            #[tokio::test]
            async fn directory() {
                let (root, store) = crate::store::store();
                super::$name(root, store).await;
            }

            #[tokio::test]
            async fn objects() {
                let (root, store) = crate::store::objects();
                super::$name(root, store).await;
            }
        }
    };
}
use both;

fn temporary_files(root: &Path) -> Vec<PathBuf> {
    match std::fs::read_dir(root.join("buildgrid/tmp")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_store_is_made_once_and_opened_read_only_only_when_it_is_there() {
    let root = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(root.path().join("a/b/store"));
    let error = Store::open_read_only(&config).unwrap_err();
    assert!(matches!(&error, StoreError::NoStore(path) if *path == config.path), "{error}");
    assert!(!config.path.exists());
    Store::open(&config).unwrap();
    Store::open(&config).unwrap();
    Store::open_read_only(&config).unwrap();

    let version = config.path.join("buildgrid/version");
    assert_eq!(std::fs::read_to_string(&version).unwrap(), "1\n");
    std::fs::write(&version, "2\n").unwrap();
    for refused in [Store::open(&config), Store::open_read_only(&config)] {
        assert!(refused.unwrap_err().to_string().contains("upgrade"));
    }
    std::fs::write(&version, "").unwrap();
    assert!(matches!(Store::open(&config), Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn opening_sweeps_what_a_crash_has_left() {
    let (root, store) = store();
    let temporary = root.path().join("buildgrid/tmp");
    let config = root.config();
    std::fs::write(temporary.join("left"), "half a layer").unwrap();
    let mut writer = store.blob_writer().unwrap();
    writer.write_all(b"layer").unwrap();
    Store::open(&config).unwrap();
    assert!(!temporary.join("left").exists());
    assert_eq!(temporary_files(root.path()).len(), 1, "it is being written");
    writer.commit().unwrap();
    assert_eq!(temporary_files(root.path()), [] as [PathBuf; 0]);
}

both!(a_blob_is_there_when_committed_and_leaves_nothing_when_not);
async fn a_blob_is_there_when_committed_and_leaves_nothing_when_not(root: Root, store: Store) {
    let mut abandoned = store.blob_writer().unwrap();
    abandoned.write_all(b"half a layer").unwrap();
    // On the way to an object store it is a file without a name.
    assert_eq!(temporary_files(root.path()).len(), usize::from(!root.is_objects()));
    drop(abandoned);
    assert_eq!(temporary_files(root.path()), [] as [PathBuf; 0]);

    let digest = put_streamed(&store, b"layer".to_vec()).await;
    let path =
        root.path().join("docker/registry/v2/blobs/sha256").join(&digest.hex()[..2]).join(digest.hex());
    assert_eq!(std::fs::read(path.join("data")).unwrap(), b"layer");
    // What the disk has made of it since is mended, also where its length tells nothing.
    for rotten in ["lAyer", "lay", ""] {
        std::fs::write(path.join("data"), rotten).unwrap();
        assert_eq!(put_streamed(&store, b"layer".to_vec()).await, digest);
        assert_eq!(std::fs::read(path.join("data")).unwrap(), b"layer");
    }
    assert_eq!(temporary_files(root.path()), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn directories_that_vanish_under_a_running_store_are_made_again() {
    let (root, store) = store();
    // Twice, so that the store remembers the directories.
    for text in ["one", "two", "three"] {
        TestImage::saying(text).publish(&store, &image_name("acme/shop.storefront", text)).await;
    }
    std::fs::remove_dir_all(root.path().join("docker")).unwrap();
    let image = TestImage::saying("one");
    image.publish(&store, &image_name("acme/shop.storefront", "one")).await;
    put_streamed(&store, b"two".to_vec()).await;
}

both!(a_layer_is_found_only_while_its_blob_is_whole);
async fn a_layer_is_found_only_while_its_blob_is_whole(root: Root, store: Store) {
    let diff_id = Digest::of(b"layer.tar");
    assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), None);
    let digest = put_streamed(&store, b"layer.tar.gz".to_vec()).await;
    let layer = Layer { media_type: MediaType::ImageLayerGzip, digest, size: 12 };
    store.index_layer(diff_id, &layer).await.unwrap();
    assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), Some(layer.clone()));

    let hex = digest.hex();
    let data = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    for rotten in ["layer.t", "layer.tar.gx"] {
        std::fs::write(&data, rotten).unwrap();
        // What a service damages does not show in an object's version: one who has read it lately does not see it.
        let store = Store::open(&root.config()).unwrap();
        assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), None);
    }
    std::fs::remove_file(&data).unwrap();
    assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), None);

    put_streamed(&store, b"layer.tar.gz".to_vec()).await;
    let hex = diff_id.hex();
    std::fs::write(root.path().join(format!("buildgrid/layers/{}/{hex}.json", &hex[..2])), "").unwrap();
    assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), None);
    store.index_layer(diff_id, &layer).await.unwrap();
    assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), Some(layer));
}

both!(a_tag_is_refused_until_all_that_it_leads_to_is_there);
async fn a_tag_is_refused_until_all_that_it_leads_to_is_there(_root: Root, store: Store) {
    let image = TestImage::saying("hello");
    let name = image_name("acme/shop.storefront", "v1");
    let digest = image.digest();
    let refused = async |missing: &str| {
        let error = store.put_tag(&name, digest, TagPut::IfAbsent).await.unwrap_err();
        assert!(matches!(error, StoreError::Incomplete { .. }), "{error}");
        assert!(error.to_string().contains(missing), "{error} should name {missing}");
        assert_eq!(store.tag(&name).await.unwrap(), None);
        assert_eq!(store.tags(&name.repository).await.unwrap(), []);
    };
    let (layer, config) = (Digest::of(&image.layer), Digest::of(&image.config));
    refused("manifest itself").await;
    store.put_blob(image.manifest.clone()).await.unwrap();
    refused("manifest itself").await;
    store.put_manifest(&name.repository, image.manifest.clone()).await.unwrap();
    refused(&config.to_string()).await;
    store.put_blob(image.config.clone()).await.unwrap();
    refused("link").await;
    store.link_blobs(&name.repository, vec![config]).await.unwrap();
    refused(&layer.to_string()).await;
    store.put_blob(image.layer.clone()).await.unwrap();
    store.link_blobs(&name.repository, vec![layer]).await.unwrap();
    assert_eq!(store.put_tag(&name, digest, TagPut::IfAbsent).await.unwrap(), TagOutcome::Put);
    assert_eq!(store.tag(&name).await.unwrap(), Some(digest));
}

both!(what_is_not_an_image_manifest_cannot_be_tagged);
async fn what_is_not_an_image_manifest_cannot_be_tagged(_root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let digest = store.put_manifest(&name.repository, b"{}".to_vec()).await.unwrap();
    let error = store.put_tag(&name, digest, TagPut::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::Manifest { .. }), "{error}");
    let error = store.put_manifest(&name.repository, vec![b' '; (4 << 20) + 1]).await.unwrap_err();
    assert!(error.to_string().contains("4194304"), "{error}");
}

both!(damaged_content_is_an_error_and_putting_it_again_repairs_it);
async fn damaged_content_is_an_error_and_putting_it_again_repairs_it(root: Root, store: Store) {
    let image = TestImage::saying("hello");
    let name = image_name("acme/shop.storefront", "v1");
    let digest = image.publish(&store, &name).await;
    let hex = digest.hex();
    let data = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut rotten = image.manifest.clone();
    rotten[10] ^= 1;
    std::fs::write(&data, &rotten).unwrap();
    let error = store.manifest(&name.repository, digest).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { digest: found } if found == digest), "{error}");
    store.put_manifest(&name.repository, image.manifest.clone()).await.unwrap();
    assert_eq!(store.manifest(&name.repository, digest).await.unwrap().unwrap(), image.manifest);
}

both!(of_many_who_put_one_tag_one_wins);
/// Sixteen handles, as in sixteen processes, put another image under one tag.
async fn of_many_who_put_one_tag_one_wins(root: Root, store: Store) {
    let open = || Store::open(&root.config()).unwrap();
    let repository = image_name("acme/shop.storefront", "v1").repository;
    let mut digests = Vec::new();
    for writer in 0..16 {
        let image = TestImage::saying(&format!("writer {writer}"));
        digests.push(image.put_untagged(&store, &repository).await);
    }
    for round in 0..20 {
        let name = image_name("acme/shop.storefront", &format!("v{round}"));
        let first = race(&digests, open, &name, TagPut::IfAbsent).await;
        assert_eq!(store.tag(&name).await.unwrap(), Some(first));
        let put = TagPut::Replace { expected: Some(first) };
        let others: Vec<_> = digests.iter().copied().filter(|&digest| digest != first).collect();
        let second = race(&others, open, &name, put).await;
        assert_eq!(store.tag(&name).await.unwrap(), Some(second));
        assert!(store.manifest(&repository, first).await.unwrap().is_some());
    }
}

/// All put at once; the answer is the winner, about whom all others have been told.
async fn race(
    digests: &[Digest],
    open: impl Fn() -> Store,
    name: &buildgrid::publish::name::ImageName,
    put: TagPut,
) -> Digest {
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(digests.len()));
    let racers = digests.iter().map(|&digest| {
        let (store, name, barrier) = (open(), name.clone(), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            (digest, store.put_tag(&name, digest, put).await.unwrap())
        })
    });
    let racers: Vec<_> = racers.collect();
    let mut winners = Vec::new();
    let mut told = BTreeSet::new();
    for racer in racers {
        match racer.await.unwrap() {
            (digest, TagOutcome::Put) => winners.push(digest),
            (_, TagOutcome::Exists(winner)) => _ = told.insert(winner),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(told, BTreeSet::from([winners[0]]));
    winners[0]
}
