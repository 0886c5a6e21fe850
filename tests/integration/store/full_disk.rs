//! A full disk, a real one of a few pages: the error names path and remedy, nothing is left behind,
//! no tag moves, and when there is space again the same handle goes on.

use std::io::Write as _;

use buildgrid::store::{Store, StoreConfig, StoreError, TagPut};

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
