//! A full disk, a real one of a few pages: the error names path and remedy, nothing is left behind,
//! no tag moves, and when there is space again the same handle goes on.

use std::io::Write as _;
use std::path::Path;

use buildgrid::store::{Store, StoreConfig, StoreError, TagPut};
use tempfile::TempDir;

use super::temporary_files;
use crate::support::image::{TestImage, image_name, put_streamed};
use crate::support::process::{as_root, output};

/// A small file system in memory, gone when dropped.
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    pub fn mount(size: &str) -> Self {
        let disk = Self { directory: tempfile::tempdir().unwrap() };
        let options = format!("size={size},nr_inodes=4096");
        output(as_root("mount").args(["-t", "tmpfs", "-o", &options, "buildgrid-test"]).arg(disk.path()));
        disk
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        output(as_root("umount").arg(self.path()));
    }
}

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
    let store = Store::open(&StoreConfig { path: root.clone() }).unwrap();
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

    // Nothing but a page or two is left, which the ballast takes.
    let ballast = disk.path().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    while file.write(&[7; 4096]).is_ok() {}
    drop(file);
    let error = store.put_blob(b"configuration".to_vec()).await.unwrap_err();
    assert!(full(&error, &disk), "{error}");
    let replace = TagPut::Replace { expected: Some(first.digest()) };
    let error = store.put_tag(&name, digest, replace).await.unwrap_err();
    assert!(full(&error, &disk), "{error}");
    assert_eq!(store.tag(&name).await.unwrap(), Some(first.digest()));
    assert_eq!(temporary_files(&root), [] as [std::path::PathBuf; 0]);

    std::fs::remove_file(&ballast).unwrap();
    put_streamed(&store, b"layer".to_vec()).await;
    store.put_tag(&name, digest, replace).await.unwrap();
    assert_eq!(store.tag(&name).await.unwrap(), Some(digest));
}
