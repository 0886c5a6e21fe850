//! A full disk, a real one of a few pages: the error names path and remedy, nothing is left behind,
//! no tag moves, and when there is space again the same handle goes on.

use std::io::Write as _;

use buildgrid::store::digest::Digest;
use buildgrid::store::{Collection, Going, Store, StoreConfig, StoreError, TagPut};

use super::gc::{LONG, NONE, by, keep_all};
use super::temporary_files;
use crate::support::disk::SmallDisk;
use crate::support::image::{TestImage, image_name, put_streamed};

fn full(error: &StoreError, disk: &SmallDisk) -> bool {
    let text = error.to_string();
    matches!(error, StoreError::Full { .. })
        && text.contains(disk.path().to_str().unwrap())
        && text.contains("free space")
}

#[tokio::test]
async fn a_full_disk_changes_nothing_and_space_heals_it() {
    let disk = SmallDisk::mount("256k");
    let root = disk.path().join("store");
    let store = Store::open(&StoreConfig::at(root.clone())).unwrap();
    let name = image_name("acme/shop.storefront", "v1");
    let first = TestImage::saying("first");
    first.publish(&store, &name).await;
    let second = TestImage::saying("second");
    let digest = second.put_untagged(&store, &name.repository).await;

    let mut layer = store.blob_writer().unwrap();
    let error = layer.write_all(&vec![7; 1 << 20]).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<StoreError>()).unwrap();
    assert!(full(inner, &disk), "{error}");
    drop(layer);
    assert_eq!(temporary_files(&root), [] as [std::path::PathBuf; 0]);

    disk.fill_to(100);
    let error = store.put_blob(b"configuration".to_vec()).await.unwrap_err();
    assert!(full(&error, &disk), "{error}");
    let replace = TagPut::Replace { expected: Some(first.digest()) };
    let error = store.put_tag(&name, digest, replace).await.unwrap_err();
    assert!(full(&error, &disk), "{error}");
    assert_eq!(store.tag(&name).await.unwrap(), Some(first.digest()));
    assert_eq!(temporary_files(&root), [] as [std::path::PathBuf; 0]);

    disk.clear();
    put_streamed(&store, b"layer".to_vec()).await;
    store.put_tag(&name, digest, replace).await.unwrap();
    assert_eq!(store.tag(&name).await.unwrap(), Some(digest));
}

#[tokio::test]
async fn on_a_full_disk_what_is_due_goes_though_no_mark_can_be_written() {
    let disk = SmallDisk::mount("512k");
    let root = disk.path().join("store");
    let store = Store::open(&StoreConfig::at(root.clone())).unwrap();
    let names = ["v1", "v2", "v3"].map(|tag| image_name("acme/shop.storefront", tag));
    let image = TestImage::saying("hello");
    for name in &names {
        image.publish(&store, name).await;
    }
    for number in 0..5 {
        store.put_blob(vec![number; 5000]).await.unwrap();
    }
    // In the list that cannot be written.
    let hex = image.digest().hex();
    let (number, _) = (0_u32..)
        .map(|number| (number, Digest::of(&number.to_le_bytes())))
        .find(|(_, digest)| digest.hex()[..2] == hex[..2])
        .unwrap();
    store.put_blob(number.to_le_bytes().to_vec()).await.unwrap();
    let round = |grace| {
        let retention = by("acme = { keep_last = 1 }", &[]);
        store.collect(&Collection { retention, ..keep_all(grace) })
    };
    assert_eq!(round(LONG).unwrap().going, 2);
    // Of the list in which the images are nearly all stays, and what is removed makes no room for it.
    let list = root.join("buildgrid/gc/condemned").join(&hex[..2]);
    let mut marks = std::fs::read_to_string(&list).unwrap();
    for number in 0..500 {
        let key = format!("docker/registry/v2/blobs/sha256/{}/{number}/data", &hex[..2]);
        let digest = image.digest();
        marks += &format!("{{\"key\":\"{key}\",\"digest\":\"{digest}\",\"since\":1,\"round\":\"before\"}}\n");
    }
    std::fs::write(&list, marks).unwrap();
    disk.fill_to(100);

    let broken = round(NONE).unwrap_err();
    assert!(full(&broken.error, &disk), "{broken:?}");
    assert_eq!((broken.so_far.removed.blobs, broken.so_far.removed.bytes), (6, 25_004), "{broken:?}");
    let states: Vec<_> = broken.so_far.retention.iter().map(|image| image.state).collect();
    // The newest of them comes first.
    assert_eq!(states, [Going::Waiting, Going::Removed], "what has gone is told, and no other goes");
    let mut standing = 0;
    for name in &names {
        standing += usize::from(store.tag(name).await.unwrap().is_some());
    }
    assert_eq!(standing, 2);

    disk.clear();
    assert_eq!(round(NONE).unwrap().retention.len(), 1);
    assert_eq!(round(NONE).unwrap().going, 0);
    assert!(store.is_whole(&names[0].repository, image.digest()).await.unwrap());
}
