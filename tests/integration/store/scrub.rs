//! Verifying: what the disk has damaged is found, not served any more, and named.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Root, both, store};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Part, Scrubbed, Store, TagPut};
use tokio_util::sync::CancellationToken;

use super::any_bytes::tagged;
use super::gc::{collect, is_whole, tree};
use crate::support::image::{TestImage, image_name};
use crate::support::process::buildgrid;

fn scrub(store: &Store) -> Scrubbed {
    store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap()
}

fn data(root: &Path, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    root.join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
}

both!(what_is_damaged_is_put_aside_and_named_with_its_images);
async fn what_is_damaged_is_put_aside_and_named_with_its_images(root: Root, store: Store) {
    let (one, two) = (image_name("acme/shop.storefront", "v1"), image_name("bank/shop.x", "v2"));
    let image = TestImage::saying("hello");
    let other = TestImage::saying("other");
    image.publish(&store, &one).await;
    image.publish(&store, &two).await;
    other.publish(&store, &image_name("acme/shop.storefront", "v3")).await;
    let before = tree(root.path());
    let clean = scrub(&store);
    assert_eq!((clean.blobs, clean.images, clean.links, clean.mended), (6, 3, 9, 0), "{clean:?}");
    assert!(!clean.is_damaged());
    assert_eq!(
        clean.bytes,
        before.iter().filter(|(path, _)| path.ends_with("data")).map(|(_, b)| b.len() as u64).sum::<u64>()
    );
    assert_eq!(tree(root.path()), before);

    let layer = Digest::of(&image.layer);
    for rotten in [&image.layer[1..], b"", &[&image.layer[..], b"x"].concat()] {
        std::fs::write(data(root.path(), layer), rotten).unwrap();
        let found = scrub(&store);
        let [damaged] = &found.damaged[..] else { panic!("{found:?}") };
        assert_eq!(damaged.digest, layer);
        let images: Vec<_> = damaged.images.iter().map(|image| image.image.as_str()).collect();
        assert_eq!(images, ["acme/shop.storefront:v1", "bank/shop.x:v2"]);
        // An object of no bytes counts as not there.
        if !(root.is_objects() && rotten.is_empty()) {
            let aside = root.path().join(damaged.quarantine.as_ref().unwrap());
            assert_eq!(std::fs::read(aside).unwrap(), rotten);
        }
        assert!(store.blob(&one.repository, layer).await.unwrap().is_none(), "it is not served any more");
        // It stays known as missing, and nothing else of its images is taken for garbage.
        let again = scrub(&store);
        assert_eq!((again.damaged[0].digest, again.damaged[0].quarantine.is_none()), (layer, true));
        for _ in 0..2 {
            assert_eq!(collect(&store, std::time::Duration::ZERO).removed, Default::default());
        }
        assert!(!store.is_whole(&one.repository, image.digest()).await.unwrap());
        // Building one of the two again mends both.
        image.put_untagged(&store, &one.repository).await;
        assert!(!scrub(&store).is_damaged());
        assert!(is_whole(&store, &one, &image).await && is_whole(&store, &two, &image).await);
    }

    // A manifest: what it was made of is known to nobody, and kept.
    std::fs::write(data(root.path(), image.digest()), "{}").unwrap();
    let found = scrub(&store);
    assert_eq!((found.damaged[0].digest, found.damaged[0].images.len()), (image.digest(), 2));
    assert_eq!(store.manifest(&one.repository, image.digest()).await.unwrap(), None);
    for _ in 0..2 {
        assert_eq!(collect(&store, std::time::Duration::ZERO).removed, Default::default());
    }
    let put = TagPut::Replace { expected: Some(image.digest()) };
    image.put_untagged(&store, &one.repository).await;
    store.put_tag(&one, image.digest(), put).await.unwrap();
    assert!(!scrub(&store).is_damaged());
}

both!(links_are_mended_and_tags_where_it_is_known_what_they_named);
async fn links_are_mended_and_tags_where_it_is_known_what_they_named(root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("hello");
    image.publish(&store, &name).await;
    let whole = tree(root.path());
    let repository = root.path().join("docker/registry/v2/repositories/acme/shop.storefront");
    let current = repository.join("_manifests/tags/v1/current/link");
    let hex = image.digest().hex();
    for link in [
        repository.join(format!("_manifests/revisions/sha256/{hex}/link")),
        repository.join(format!("_layers/sha256/{}/link", Digest::of(&image.layer).hex())),
        current.clone(),
    ] {
        // A link of no bytes is one that was taken away, in an object store.
        for rotten in ["", "sha256:", "\u{0}\u{0}"].into_iter().skip(usize::from(root.is_objects())) {
            std::fs::write(&link, rotten).unwrap();
            let found = scrub(&store);
            assert_eq!((found.mended, found.is_damaged()), (1, false), "{} {found:?}", link.display());
            assert_eq!(tree(root.path()), whole);
        }
    }
    let second = TestImage::saying("second");
    let digest = second.put_untagged(&store, &name.repository).await;
    store.put_tag(&name, digest, TagPut::Replace { expected: Some(image.digest()) }).await.unwrap();
    std::fs::write(&current, "?").unwrap();
    let found = scrub(&store);
    assert_eq!(found.lost_tags, ["acme/shop.storefront:v1"]);
    assert_eq!(store.tag(&name).await.unwrap(), None);
    store.put_tag(&name, digest, TagPut::IfAbsent).await.unwrap();
    assert!(!scrub(&store).is_damaged());
}

both!(part_by_part_everything_is_read);
async fn part_by_part_everything_is_read(root: Root, store: Store) {
    for number in 0..20 {
        let name = image_name("acme/shop.storefront", &format!("v{number}"));
        TestImage::saying(&format!("image {number}")).publish(&store, &name).await;
    }
    assert_eq!(store.scrubbed_before().await.unwrap(), None);
    let (mut part, mut blobs, mut links) = (Part::ALL, 0, 0);
    for _ in 0..7 {
        part = part.next(7);
        let scrubbed = store.scrub(part, true, &CancellationToken::new()).unwrap();
        assert!(scrubbed.blobs < 60 && scrubbed.images == 20);
        (blobs, links) = (blobs + scrubbed.blobs, links + scrubbed.links);
        assert_eq!(store.scrubbed_before().await.unwrap().unwrap().1, part);
    }
    assert_eq!((blobs, links), (60, 60));
    let Root::Directory(folder) = root else { return };
    let lock = std::fs::File::open(folder.path().join("buildgrid/gc/scrub")).unwrap();
    lock.lock().unwrap();
    let busy = store.scrub(part, true, &CancellationToken::new()).unwrap_err();
    assert!(busy.to_string().contains("another process"), "{busy}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_and_stays() {
    let (root, store) = store();
    let scrub = || store.scrub(Part::ALL, true, &CancellationToken::new());
    let mut paths = Vec::new();
    for number in 0..21 {
        let digest = store.put_blob(format!("blob {number}").into_bytes()).await.unwrap();
        let hex = digest.hex();
        let path = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
        // Reading a directory fails.
        std::fs::remove_file(&path).unwrap();
        if number < 20 {
            std::fs::create_dir(&path).unwrap();
        }
        paths.push(path);
    }
    let scrubbed = scrub().unwrap();
    assert_eq!(scrubbed.damaged.len(), 20);
    for blob in &scrubbed.damaged {
        assert!(blob.reason.starts_with("it cannot be read: ") && blob.quarantine.is_none(), "{blob:?}");
        assert!(blob.in_place);
    }
    std::fs::create_dir(&paths[20]).unwrap();
    let error = scrub().unwrap_err().to_string();
    assert!(error.starts_with("cannot read "), "{error}");
    assert!(paths.iter().all(|path| path.is_dir()));
}

both!(what_a_damaged_manifest_without_a_tag_refers_to_is_kept);
async fn what_a_damaged_manifest_without_a_tag_refers_to_is_kept(root: Root, store: Store) {
    let image = TestImage::saying("hello");
    image.put_untagged(&store, &image_name("acme/shop.storefront", "v1").repository).await;
    let manifest = data(root.path(), image.digest());
    std::fs::write(&manifest, "damaged").unwrap();
    // It is kept from now on, however long it has been there.
    let file = std::fs::File::options().append(true).open(manifest).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(40 * 24 * 3600)).unwrap();
    assert!(scrub(&store).is_damaged());
    assert_eq!(scrub(&store).damaged.len(), 0, "no tag names it");
    for _ in 0..2 {
        assert_eq!(collect(&store, std::time::Duration::ZERO).unreadable.len(), 1);
    }
    assert!(data(root.path(), Digest::of(&image.layer)).exists());
}

both!(a_replaced_image_whose_manifest_is_lost_does_not_keep_its_repository_for_ever);
async fn a_replaced_image_whose_manifest_is_lost_does_not_keep_its_repository_for_ever(
    root: Root,
    store: Store,
) {
    let name = image_name("acme/shop.storefront", "v1");
    let (image, rebuilt) = (TestImage::saying("hello"), TestImage::saying("other bytes"));
    image.publish(&store, &name).await;
    let digest = rebuilt.put_untagged(&store, &name.repository).await;
    store.put_tag(&name, digest, TagPut::Replace { expected: Some(image.digest()) }).await.unwrap();
    std::fs::write(data(root.path(), image.digest()), "damaged").unwrap();
    let scrubbed = scrub(&store);
    assert_eq!((scrubbed.damaged.len(), scrubbed.is_damaged()), (1, false), "{scrubbed:?}");
    let round = || collect(&store, std::time::Duration::ZERO);
    // As long as it is in quarantine, somebody may bring it back.
    assert_eq!((round().unreadable.len(), round().removed), (1, Default::default()));
    std::fs::remove_file(root.path().join(scrubbed.damaged[0].quarantine.as_ref().unwrap())).unwrap();
    for _ in 0..4 {
        assert_eq!(round().unreadable, []);
    }
    assert!(!data(root.path(), Digest::of(&image.layer)).exists());
    assert!(is_whole(&store, &name, &rebuilt).await);
    let scrubbed = scrub(&store);
    assert_eq!((scrubbed.damaged.len(), scrubbed.images), (0, 1), "{scrubbed:?}");
}

both!(an_index_is_looked_through_with_all_that_is_below_it);
async fn an_index_is_looked_through_with_all_that_is_below_it(root: Root, store: Store) {
    let image = TestImage::saying("of one platform");
    let repository = image_name("acme/shop.storefront", "v1").repository;
    image.put_untagged(&store, &repository).await;
    // One of them many times, and one that was never put.
    let child = |digest: Digest| serde_json::json!({"digest": digest, "size": 1});
    let mut children = vec![child(image.digest()); 5000];
    children.push(child(Digest::of(b"of another platform")));
    let index = serde_json::json!({"schemaVersion": 2, "manifests": children}).to_string().into_bytes();
    let name = tagged(root.path(), &store, &index).await;
    let clean = scrub(&store);
    assert_eq!((clean.images, clean.damaged.len()), (1, 0), "{clean:?}");
    let all: usize = [&index, &image.manifest, &image.config, &image.layer].map(Vec::len).iter().sum();
    assert_eq!(store.usage(&"acme".parse().unwrap()).await.unwrap(), all as u64);
    assert_eq!(store.list_repositories(None).unwrap().rows[0].bytes, all as u64);
    for _ in 0..2 {
        assert_eq!(collect(&store, std::time::Duration::ZERO).removed, Default::default());
    }

    let layer = Digest::of(&image.layer);
    std::fs::remove_file(data(root.path(), layer)).unwrap();
    let found = scrub(&store);
    let [damaged] = &found.damaged[..] else { panic!("{found:?}") };
    assert_eq!((damaged.digest, damaged.images[0].image.as_str()), (layer, &*name.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_is_told_however_it_ends() {
    let (root, store) = store();
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("hello");
    image.publish(&store, &name).await;
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), format!("[store]\npath = {:?}\n", root.path())).unwrap();
    let command = |words: &[&str]| {
        let ran = buildgrid(config.path()).args(["store", "scrub"]).args(words).output().unwrap();
        let [out, err] = [ran.stdout, ran.stderr].map(|said| String::from_utf8(said).unwrap());
        (ran.status.code(), out, err)
    };
    // Only one of many parts is no turn of all of them.
    assert_eq!(command(&["--subset", "1/256"]).0, Some(0));
    assert_eq!(store.scrubbed_before().await.unwrap(), None);
    assert_eq!(command(&[]).0, Some(0));
    assert_eq!(store.scrubbed_before().await.unwrap().unwrap().1, Part::ALL);

    // Nothing can be noted, as on a full disk.
    let report = root.path().join("buildgrid/gc/scrub.json");
    std::fs::remove_file(&report).unwrap();
    std::fs::create_dir_all(report.join("in the way")).unwrap();
    let layer = Digest::of(&image.layer);
    let rot = || std::fs::write(data(root.path(), layer), "rotten").unwrap();
    rot();
    let (code, out, err) = command(&[]);
    assert_eq!(code, Some(1));
    for part in [&layer.to_string(), "it is in quarantine: ", "acme/shop.storefront:v1: send the event"] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert!(err.contains("scrub.json"), "{err}");
    rot();
    let broken = store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap_err();
    assert_eq!(broken.so_far.damaged.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [layer]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_and_cannot_be_moved_is_told_and_the_turn_goes_on() {
    let (root, store) = store();
    let names = ["v1", "v2"].map(|tag| image_name("acme/shop.storefront", tag));
    let images = ["hello", "other"].map(TestImage::saying);
    for (name, image) in names.iter().zip(&images) {
        image.publish(&store, name).await;
    }
    let mut layers = images.each_ref().map(|image| Digest::of(&image.layer));
    for (image, &layer) in images.iter().zip(&layers) {
        // Of the length that it must have.
        std::fs::write(data(root.path(), layer), vec![7; image.layer.len()]).unwrap();
    }
    let quarantine = root.path().join("buildgrid/quarantine");
    std::fs::write(&quarantine, "in the way").unwrap();
    let found = scrub(&store);
    let named = |found: &Scrubbed| {
        let of = found.damaged.iter().map(|blob| (blob.digest, blob.quarantine.is_some(), blob.images.len()));
        of.collect::<Vec<_>>()
    };
    layers.sort_unstable();
    assert_eq!(named(&found), layers.map(|layer| (layer, false, 1)), "{found:?}");
    for blob in &found.damaged {
        assert!(blob.in_place && blob.reason.contains("cannot be put into quarantine: "), "{blob:?}");
    }
    assert!(store.scrubbed_before().await.unwrap().is_some(), "it was a turn");
    std::fs::remove_file(&quarantine).unwrap();
    assert_eq!(named(&scrub(&store)), layers.map(|layer| (layer, true, 1)));
}
