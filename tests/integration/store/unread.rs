//! What the disk does not give: it is told, what it belongs to is kept, and all else is looked after.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gc::{LONG, NONE, by, collect, is_whole, keep_all};
use super::{Root, objects, store};
use buildgrid::store::digest::Digest;
use buildgrid::store::layout;
use buildgrid::store::{BrokenOff, Collected, Collection, Going, Level, Part, Scrubbed, Store, StoreError};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::image::{TestImage, image_name};
use crate::support::process::buildgrid;

/// What stands in the place of something that can be read no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// A symbolic link to itself.
    Loop,
    Folder,
}

/// A path that cannot be read until it is mended.
struct Broken {
    path: PathBuf,
    aside: TempDir,
}

impl Broken {
    fn at(path: &Path, instead: Instead) -> Self {
        let aside = tempfile::tempdir().unwrap();
        std::fs::rename(path, aside.path().join("it")).unwrap();
        match instead {
            Instead::Loop => symlink(path.file_name().unwrap(), path).unwrap(),
            Instead::Folder => std::fs::create_dir(path).unwrap(),
        }
        Self { path: path.to_owned(), aside }
    }

    fn mend(self) {
        match self.path.is_dir() {
            true => std::fs::remove_dir(&self.path).unwrap(),
            false => std::fs::remove_file(&self.path).unwrap(),
        }
        std::fs::rename(self.aside.path().join("it"), &self.path).unwrap();
    }
}

fn scrub(store: &Store) -> Scrubbed {
    store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap()
}

fn repositories(root: &Root) -> PathBuf {
    root.path().join("docker/registry/v2/repositories")
}

fn data(root: &Root, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

/// An image and garbage in each of two repositories.
struct Two {
    root: Root,
    store: Store,
    image: TestImage,
    other: TestImage,
}

const HERE: &str = "acme/shop.storefront";
const THERE: &str = "bank/shop.x";

impl Two {
    async fn new() -> Self {
        let (root, store) = store();
        let [image, lost, other, garbage] = ["hello", "lost", "other", "garbage"].map(TestImage::saying);
        image.publish(&store, &image_name(HERE, "v1")).await;
        lost.put_untagged(&store, &image_name(HERE, "v1").repository).await;
        other.publish(&store, &image_name(THERE, "v1")).await;
        garbage.put_untagged(&store, &image_name(THERE, "v1").repository).await;
        Self { root, store, image, other }
    }

    /// Something of the first repository.
    fn here(&self, below: &str) -> PathBuf {
        repositories(&self.root).join(HERE).join(below.replace("<image>", &self.image.digest().hex()))
    }

    async fn images_are_whole(&self) -> bool {
        is_whole(&self.store, &image_name(HERE, "v1"), &self.image).await
            && is_whole(&self.store, &image_name(THERE, "v1"), &self.other).await
    }
}

fn tells(collected: &Collected, path: &Path) {
    let [unread] = &collected.unread[..] else { panic!("{} in {collected:?}", path.display()) };
    // Where a folder is in the way, it is told by its end.
    assert!(unread.path.starts_with(path.to_str().unwrap()), "{unread} is not {}", path.display());
    assert!(unread.reason.starts_with("it cannot be read: "), "{unread}");
}

#[tokio::test]
async fn of_a_tag_that_cannot_be_read_all_is_kept_and_the_round_goes_on() {
    for (below, instead) in [
        ("_manifests/tags/v1/current/link", Instead::Loop),
        ("_manifests/tags/v1/current/link", Instead::Folder),
        ("_manifests/tags/v1/current", Instead::Loop),
        ("_manifests/tags/v1/index/sha256/<image>/link", Instead::Loop),
        ("_manifests/tags/v1/index/sha256/<image>/link", Instead::Folder),
        ("_manifests/tags/v1", Instead::Loop),
        ("_manifests/tags", Instead::Loop),
    ] {
        let two = Two::new().await;
        assert_eq!(collect(&two.store, LONG).condemned.blobs, 6);
        let broken = Broken::at(&two.here(below), instead);
        let collected = collect(&two.store, NONE);
        tells(&collected, &broken.path);
        assert!(!collected.keeps_blobs, "{below}: its links tell what to keep");
        assert_eq!((collected.removed.blobs, collected.removed.links), (3, 3), "{below} {collected:?}");
        for _ in 0..2 {
            assert_eq!(collect(&two.store, NONE).removed, Default::default(), "{below}");
        }
        broken.mend();
        assert_eq!(collect(&two.store, NONE).condemned.blobs, 3, "{below}: it has a grace of its own");
        let last = collect(&two.store, NONE);
        assert_eq!((last.removed.blobs, last.removed.links, &last.unread[..]), (3, 3, &[][..]), "{below}");
        assert!(two.images_are_whole().await, "{below}");
    }
}

#[tokio::test]
async fn where_links_cannot_be_listed_no_blob_goes_until_they_can() {
    for below in
        ["_layers/sha256", "_layers", "_manifests/revisions/sha256", "_manifests/revisions", "", ".."]
    {
        let two = Two::new().await;
        assert_eq!(collect(&two.store, LONG).condemned.blobs, 6);
        let path = if below == ".." { repositories(&two.root).join("acme") } else { two.here(below) };
        // Without the slash at its end.
        let path: PathBuf = path.components().collect();
        let broken = Broken::at(&path, Instead::Loop);
        let dry = two.store.collect(&Collection { dry_run: true, ..keep_all(NONE) }).unwrap();
        tells(&dry, &path);
        assert_eq!(dry.removed.blobs, 0, "{below}");
        let mut late = None;
        for round in 0..3 {
            let collected = collect(&two.store, NONE);
            tells(&collected, &path);
            assert!(collected.keeps_blobs);
            // The links of the other repository go.
            let links = if round == 0 { 3 } else { 0 };
            assert_eq!(
                (collected.removed.blobs, collected.removed.links),
                (0, links),
                "{below} {collected:?}"
            );
            assert_eq!(collected.condemned.blobs, 0, "{below}");
            if round == 0 {
                late = Some(two.store.put_blob(b"nobody's, and not marked yet".to_vec()).await.unwrap());
            }
        }
        broken.mend();
        // The marks of before have stood: the next round takes what the grace is over for.
        let next = collect(&two.store, NONE);
        assert_eq!((next.removed.blobs, next.condemned.blobs), (6, 1), "{below} {next:?}");
        assert!(next.unread.is_empty() && !next.keeps_blobs, "{next:?}");
        let last = collect(&two.store, NONE);
        assert_eq!((last.removed.blobs, last.removed.links), (1, 3), "{below} {last:?}");
        assert!(!data(&two.root, late.unwrap()).exists());
        assert!(two.images_are_whole().await, "{below}");
    }
}

#[tokio::test]
async fn an_image_that_only_an_unreadable_tag_names_stays_whole() {
    // Of its tag nothing is known: neither its index nor what it names now.
    let two = Two::new().await;
    let broken = Broken::at(&two.here("_manifests/tags/v1"), Instead::Loop);
    // Nor does its repository link what it is made of: its manifest alone tells.
    let layer = Digest::of(&two.image.layer);
    std::fs::remove_dir_all(two.here(&format!("_layers/sha256/{}", layer.hex()))).unwrap();
    for _ in 0..3 {
        tells(&collect(&two.store, NONE), &broken.path);
    }
    assert!([two.image.digest(), layer].iter().all(|&digest| data(&two.root, digest).exists()));
}

#[tokio::test]
async fn retention_lets_images_of_other_repositories_go() {
    let (root, store) = store();
    let others = "acme/shop.other";
    for repository in [HERE, others] {
        for tag in ["v1", "v2", "v3"] {
            TestImage::saying(&format!("{repository} {tag}"))
                .publish(&store, &image_name(repository, tag))
                .await;
            root.tick().await;
        }
    }
    let round = |grace| {
        let retention = by("acme = { keep_last = 1 }", &[]);
        let collected = store.collect(&Collection { retention, ..keep_all(grace) }).unwrap();
        let gone = collected.retention.iter().map(|gone| (gone.image.clone(), gone.state));
        gone.collect::<Vec<_>>()
    };
    assert_eq!(round(LONG).len(), 4);
    let path = repositories(&root).join(HERE).join("_manifests/tags/v3/current/link");
    for instead in [Instead::Loop, Instead::Folder] {
        let broken = Broken::at(&path, instead);
        let of_others = |state| ["v1", "v2"].map(|tag| (format!("{others}:{tag}"), state));
        match instead {
            Instead::Loop => assert_eq!(round(NONE), of_others(Going::Removed)),
            Instead::Folder => assert_eq!(round(NONE), []),
        }
        broken.mend();
    }
    let here = |state| ["v1", "v2"].map(|tag| (format!("{HERE}:{tag}"), state));
    assert_eq!(round(NONE), here(Going::Condemned), "they have another grace");
    assert_eq!(round(NONE), here(Going::Removed));
}

#[tokio::test]
async fn garbage_that_cannot_be_read_stops_no_other_from_going() {
    let lost = Digest::of(&TestImage::saying("lost").layer);
    let link = format!("_layers/sha256/{}/link", lost.hex());
    for instead in [Instead::Loop, Instead::Folder] {
        let two = Two::new().await;
        let broken = Broken::at(&two.here(&link), instead);
        assert_eq!(collect(&two.store, NONE).unread, []);
        let collected = collect(&two.store, NONE);
        assert_eq!(collected.removed.blobs, 6, "{collected:?}");
        match instead {
            Instead::Loop => {
                assert_eq!((collected.removed.links, &collected.unread[..]), (6, &[][..]));
                assert!(std::fs::symlink_metadata(&broken.path).is_err());
            }
            Instead::Folder => {
                let [unread] = &collected.unread[..] else { panic!("{collected:?}") };
                assert_eq!((collected.removed.links, Path::new(&unread.path)), (5, &*broken.path));
                assert!(unread.reason.starts_with("it cannot be removed: "), "{unread}");
                // Its mark stands.
                for _ in 0..2 {
                    let again = collect(&two.store, NONE);
                    assert_eq!((&again.unread, again.waiting.links), (&collected.unread, 1), "{again:?}");
                    assert_eq!((again.condemned.links, again.removed.links), (0, 0), "{again:?}");
                }
            }
        }
    }
    // A blob, a folder of blobs, a list of marks: what they are for is left alone.
    let shard = lost.hex()[..2].to_owned();
    for (path, instead) in [
        (format!("docker/registry/v2/blobs/sha256/{shard}/{}/data", lost.hex()), Instead::Loop),
        (format!("docker/registry/v2/blobs/sha256/{shard}"), Instead::Loop),
        (format!("buildgrid/gc/condemned/{shard}"), Instead::Loop),
        (format!("buildgrid/gc/condemned/{shard}"), Instead::Folder),
    ] {
        let two = Two::new().await;
        collect(&two.store, LONG);
        let broken = Broken::at(&two.root.path().join(&path), instead);
        let collected = collect(&two.store, NONE);
        tells(&collected, &broken.path);
        let removed = collected.removed.blobs;
        assert!((1..6).contains(&removed), "{path} {collected:?}");
        assert_eq!(collected.spared, 0, "{path}: what was not seen keeps its mark");
        broken.mend();
        for _ in 0..2 {
            assert_eq!(collect(&two.store, NONE).unread, []);
        }
        assert!(!data(&two.root, lost).exists(), "{path}");
        assert!(two.images_are_whole().await);
    }
}

#[tokio::test]
async fn a_scrub_names_what_it_cannot_look_at_and_looks_at_the_rest() {
    let layer = |text: &str| Digest::of(&TestImage::saying(text).layer);
    let of_layer = format!("_layers/sha256/{}/link", layer("hello").hex());
    for (below, instead) in [
        ("_manifests/tags/v1/current/link", Instead::Loop),
        ("_manifests/tags/v1/current/link", Instead::Folder),
        ("_manifests/tags/v1", Instead::Loop),
        ("_manifests/revisions/sha256/<image>/link", Instead::Folder),
        (&of_layer, Instead::Loop),
        (&of_layer, Instead::Folder),
        ("_layers/sha256", Instead::Loop),
        ("", Instead::Loop),
    ] {
        let two = Two::new().await;
        let path: PathBuf = two.here(below).components().collect();
        let broken = Broken::at(&path, instead);
        std::fs::write(data(&two.root, layer("other")), "damaged").unwrap();
        let scrubbed = scrub(&two.store);
        let [unread] = &scrubbed.unread[..] else { panic!("{below} {scrubbed:?}") };
        assert_eq!(Path::new(&unread.path), path);
        assert!(scrubbed.is_damaged());
        let damaged: Vec<_> = scrubbed.damaged.iter().map(|blob| blob.digest).collect();
        assert_eq!(damaged, [layer("other")], "{below}");
        assert!(scrubbed.blobs == 12 && scrubbed.images >= 1, "{scrubbed:?}");
        two.other.put_untagged(&two.store, &image_name(THERE, "v1").repository).await;
        assert!(scrub(&two.store).is_damaged(), "{below}: that alone is damage");
        broken.mend();
        let mended = scrub(&two.store);
        assert!(!mended.is_damaged() && mended.mended == 0 && mended.images == 2, "{below} {mended:?}");
    }
    // A blob is told once, with its images.
    let two = Two::new().await;
    let broken = Broken::at(&data(&two.root, layer("hello")), Instead::Loop);
    let scrubbed = scrub(&two.store);
    let [damaged] = &scrubbed.damaged[..] else { panic!("{scrubbed:?}") };
    assert!(damaged.reason.starts_with("it cannot be read: ") && scrubbed.unread.is_empty(), "{damaged:?}");
    assert_eq!(damaged.images[0].image, format!("{HERE}:v1"));
    broken.mend();
    assert!(!scrub(&two.store).is_damaged());
}

#[tokio::test]
async fn listings_show_the_rest_and_a_sum_without_it_is_not_kept() {
    let two = Two::new().await;
    let bank = "bank".parse().unwrap();
    let whole = two.store.recounted_usage(&bank).await.unwrap();
    std::fs::remove_dir_all(two.root.path().join("buildgrid/usage")).unwrap();
    let path = repositories(&two.root).join(THERE).join("_manifests/tags/v1/current/link");
    let broken = Broken::at(&path, Instead::Folder);
    let names = || {
        let listed = two.store.list_repositories(None).unwrap();
        (
            listed.rows.into_iter().map(|row| (row.repository, row.tags)).collect::<Vec<_>>(),
            listed.unread.len(),
        )
    };
    assert_eq!(names(), (vec![(HERE.to_owned(), 1), (THERE.to_owned(), 0)], 1));
    let images = two.store.list_images(&THERE.parse().unwrap()).unwrap().unwrap();
    assert_eq!((images.rows.len(), Path::new(&images.unread[0].path)), (1, &*path));
    let levels = || {
        let used = two.store.disk_usage().unwrap();
        (used.rows.iter().any(|row| row.level == Level::Garbage), used.unread.len())
    };
    assert_eq!(levels(), (false, 1), "what nobody needs is not known");
    broken.mend();
    assert_eq!((names().1, levels()), (0, (true, 0)));
    let manifest = data(&two.root, two.other.digest());
    std::fs::write(&manifest, "damaged").unwrap();
    assert_eq!(levels(), (false, 1), "nor of an image whose manifest is damaged");
    assert_eq!(names(), (vec![(HERE.to_owned(), 1), (THERE.to_owned(), 1)], 1), "whose size is not known");
    let images = two.store.list_images(&THERE.parse().unwrap()).unwrap().unwrap();
    assert_eq!((images.rows[0].size, &*images.unread[0].path), (None, &*format!("{THERE}:v1")));
    assert!(two.store.usage(&bank).await.unwrap() < whole);
    collect(&two.store, LONG);
    std::fs::write(&manifest, &two.other.manifest).unwrap();
    assert_eq!(two.store.usage(&bank).await.unwrap(), whole, "it was not kept");
    std::fs::write(&manifest, "damaged").unwrap();
    collect(&two.store, LONG);
    assert_eq!(two.store.usage(&bank).await.unwrap(), whole, "what was counted before stands");
    std::fs::write(&manifest, &two.other.manifest).unwrap();
    std::fs::remove_dir_all(two.root.path().join("buildgrid/usage")).unwrap();

    // Here nothing of it is seen.
    let broken = Broken::at(&repositories(&two.root).join(THERE), Instead::Loop);
    assert_eq!(names(), (vec![(HERE.to_owned(), 1)], 1));
    assert_eq!(two.store.usage(&bank).await.unwrap(), 0);
    collect(&two.store, LONG);
    broken.mend();
    assert_eq!(two.store.usage(&bank).await.unwrap(), whole, "it was not kept");
    let broken = Broken::at(&repositories(&two.root).join("bank"), Instead::Loop);
    collect(&two.store, LONG);
    broken.mend();
    assert_eq!(two.store.usage(&bank).await.unwrap(), whole, "nor is what a collection has not seen");
}

#[tokio::test]
async fn a_store_that_is_away_ends_the_round_at_once() {
    let cancel = CancellationToken::new();
    let (root, store) = store();
    // More than is passed over: it is the disk then.
    for number in 0..21 {
        let name = image_name(HERE, &format!("v{number}"));
        TestImage::saying(&format!("image {number}")).publish(&store, &name).await;
        let tag = repositories(&root).join(HERE).join(format!("_manifests/tags/v{number}"));
        Broken::at(&tag.join("current/link"), Instead::Folder);
        assert_eq!(number == 20, store.collect(&keep_all(LONG)).is_err(), "{number}");
        assert_eq!(number == 20, store.scrub(Part::ALL, true, &cancel).is_err(), "{number}");
    }
    let ended = store.collect(&keep_all(LONG)).unwrap_err().to_string();
    assert!(ended.starts_with("cannot read ") && ended.contains("20 other things"), "{ended}");
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), format!("[store]\npath = {:?}\n", root.path())).unwrap();
    let ran = buildgrid(config.path()).args(["store", "gc"]).output().unwrap();
    let told = String::from_utf8(ran.stdout).unwrap();
    assert_eq!((ran.status.code(), told.matches(": it cannot be read: ").count()), (Some(1), 20), "{told}");
    let Root::Directory(folder) = root else { panic!() };
    std::fs::remove_dir_all(folder.path()).unwrap();
    let (_, collected) = BrokenOff::apart(store.collect(&keep_all(LONG)));
    let (_, scrubbed) = BrokenOff::apart(store.scrub(Part::ALL, true, &cancel));
    for ended in [collected, scrubbed] {
        assert!(matches!(ended, Some(StoreError::NoStore(_))), "{ended:?}");
    }
    assert!(!folder.path().exists(), "nor is another one made in its place");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_object_store_does_not_remove_stops_no_other_from_going() {
    let (root, store) = objects();
    let mut blobs = Vec::new();
    for number in 0..3 {
        blobs.push(store.put_blob(vec![number]).await.unwrap());
    }
    collect(&store, NONE);
    let Root::Objects(server) = &root else { panic!() };
    let delete = format!("DELETE /images/grid/{}", layout::blob(blobs[0]).as_str());
    for round in 0..2 {
        for _ in 0..3 {
            server.refuse(&delete, 403, "AccessDenied");
        }
        let collected = collect(&store, NONE);
        assert!(server.are_faults_over());
        let [unread] = &collected.unread[..] else { panic!("{collected:?}") };
        assert!(unread.path.ends_with(layout::blob(blobs[0]).as_str()), "{unread}");
        assert!(unread.reason.starts_with("it cannot be removed: AccessDenied"), "{unread}");
        let removed = if round == 0 { 2 } else { 0 };
        assert_eq!((collected.removed.blobs, collected.waiting.blobs), (removed, 1), "{collected:?}");
    }
    assert_eq!(collect(&store, NONE).removed.blobs, 1, "its mark stood");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_is_away_is_told_once() {
    let (root, store) = objects();
    TestImage::saying("hello").publish(&store, &image_name(HERE, "v1")).await;
    drop(root);
    let began = std::time::Instant::now();
    let (_, ended) = tokio::task::block_in_place(|| BrokenOff::apart(store.collect(&keep_all(LONG))));
    assert!(matches!(ended, Some(StoreError::Object { .. })), "{ended:?}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}
