//! The collection of garbage, round by round.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Root, both, store};
use buildgrid::config::Config;
use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::{
    AskAgain, Collected, Collection, Going, InUse, Layer, Retention, Store, StoreError, TagOutcome, TagPut,
};
use buildgrid::telemetry::pulse::Pulse;
use oci_spec::image::MediaType;
use tokio_util::sync::CancellationToken;

use crate::support::blob::bytes_of;
use crate::support::image::{TestImage, image_name, put_streamed};

pub(super) const NONE: Duration = Duration::ZERO;
pub(super) const LONG: Duration = Duration::from_secs(3600);

pub(super) fn keep_all(grace: Duration) -> Collection<'static> {
    let cancel = Box::leak(Box::new(CancellationToken::new()));
    Collection { grace, dry_run: false, retention: Retention::KeepAll, cancel }
}

/// One round in which nothing is let go by retention.
pub(super) fn collect(store: &Store, grace: Duration) -> Collected {
    store.collect(&keep_all(grace)).unwrap()
}

pub(super) fn by(rules: &str, in_use: &[&str]) -> Retention {
    let rules = Config::parse("f", &format!("[retention]\n{rules}"), []).unwrap().retention;
    Retention::By { rules, in_use: InUse::read(in_use.iter().copied(), ["acme/shop"]), again: None }
}

/// Every file with its bytes, but what locks and reports are for.
pub(super) fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    files.push((path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap()))
                }
            }
        }
    }
    files.retain(|(path, _)| !path.starts_with("buildgrid/locks") && !path.starts_with("buildgrid/gc"));
    // In an object store what is empty was taken away.
    files.retain(|(_, bytes)| !bytes.is_empty());
    files.sort();
    files
}

/// Whether an image can be pulled: each of its parts is what its digest says.
pub(super) async fn is_whole(store: &Store, name: &ImageName, image: &TestImage) -> bool {
    let manifest = store.manifest(&name.repository, image.digest()).await.unwrap();
    let mut whole = manifest.is_some_and(|bytes| bytes == image.manifest);
    for part in [&image.layer, &image.config] {
        let blob = store.blob(&name.repository, Digest::of(part)).await.unwrap();
        whole &= match blob {
            Some(blob) => bytes_of(&blob).await == *part,
            None => false,
        };
    }
    whole
}

both!(what_no_image_needs_goes_a_grace_later_and_nothing_else_does);
async fn what_no_image_needs_goes_a_grace_later_and_nothing_else_does(root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("kept");
    image.publish(&store, &name).await;
    let kept = tree(root.path());
    let lost = TestImage::saying("lost");
    lost.put_untagged(&store, &name.repository).await;
    lost.put_untagged(&store, &image_name("acme/gone.storefront", "v1").repository).await;
    let layer = put_streamed(&store, b"a layer of a build that was cancelled".to_vec()).await;
    let entry = Layer { media_type: MediaType::ImageLayerGzip, digest: layer, size: 37 };
    store.index_layer(Digest::of(b"its diff id"), &entry).await.unwrap();

    let before = tree(root.path());
    let dry = store.collect(&Collection { dry_run: true, ..keep_all(NONE) }).unwrap();
    assert_eq!((dry.condemned.blobs, dry.condemned.links), (4, 6), "{dry:?}");
    assert_eq!(tree(root.path()), before, "a dry run changes nothing");

    let first = collect(&store, LONG);
    assert_eq!((first.condemned, first.in_use), (dry.condemned, 3), "{first:?}");
    let second = collect(&store, LONG);
    assert_eq!((second.waiting, second.condemned.blobs), (dry.condemned, 0), "{second:?}");
    assert_eq!(tree(root.path()), before, "the grace is not over");
    assert!(is_whole(&store, &name, &lost).await);

    let third = collect(&store, NONE);
    assert_eq!((third.removed.blobs, third.removed.links), (4, 7), "{third:?}");
    assert_eq!(third.removed.bytes, dry.condemned.bytes);
    assert_eq!(tree(root.path()), kept);
    assert_eq!(
        store.repositories().await.unwrap(),
        std::slice::from_ref(&name.repository),
        "an empty one is gone"
    );
    assert!(is_whole(&store, &name, &image).await);
    // What it left of directories stands in nobody's way.
    lost.publish(&store, &image_name("acme/gone.storefront", "v1")).await;
    assert_eq!(collect(&store, NONE).removed, Default::default());
}

both!(whoever_uses_what_is_condemned_saves_it);
async fn whoever_uses_what_is_condemned_saves_it(_root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("hello");
    let diff_id = Digest::of(b"diff id");
    let digest = Digest::of(&image.layer);
    let entry = Layer { media_type: MediaType::ImageLayerGzip, digest, size: image.layer.len() as u64 };
    // Wherever a publish is when the collection comes, both succeed.
    for step in 0..6 {
        image.put_untagged(&store, &name.repository).await;
        store.index_layer(diff_id, &entry).await.unwrap();
        assert!(collect(&store, LONG).condemned.blobs > 0, "{step}");
        if step >= 1 {
            assert_eq!(store.find_layer(diff_id, &Pulse::default()).await.unwrap(), Some(entry.clone()));
        }
        if step >= 2 {
            store.put_blob(image.config.clone()).await.unwrap();
        }
        if step >= 3 {
            store.link_blobs(&name.repository, vec![digest, Digest::of(&image.config)]).await.unwrap();
        }
        if step >= 4 {
            store.put_manifest(&name.repository, image.manifest.clone()).await.unwrap();
        }
        if step >= 5 {
            store.put_tag(&name, image.digest(), TagPut::IfAbsent).await.unwrap();
        }
        let removed = collect(&store, NONE).removed;
        let saved = [0, 1, 2, 2, 3, 3][step];
        assert_eq!(removed.blobs, 3 - saved, "{step}");
        if step < 5 {
            // What was saved has a whole grace again, and then goes as well.
            assert_eq!(collect(&store, LONG).removed.blobs, 0);
            let rest = collect(&store, NONE);
            assert_eq!(rest.removed.blobs + removed.blobs, 3, "{step} {rest:?}");
        }
    }
    assert!(is_whole(&store, &name, &image).await);
}

both!(of_what_cannot_be_read_nothing_is_taken);
async fn of_what_cannot_be_read_nothing_is_taken(root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("hello");
    image.publish(&store, &name).await;
    let lost = TestImage::saying("lost");
    lost.put_untagged(&store, &name.repository).await;
    let hex = image.digest().hex();
    let data = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let whole = std::fs::read(&data).unwrap();
    let current = root
        .path()
        .join("docker/registry/v2/repositories/acme/shop.storefront/_manifests/tags/v1/current/link");

    for rotten in [Some(b"{}".as_slice()), Some(&whole[1..]), None] {
        match rotten {
            Some(bytes) => std::fs::write(&data, bytes).unwrap(),
            None => std::fs::remove_file(&data).unwrap(),
        }
        for _ in 0..2 {
            let collected = collect(&store, NONE);
            assert_eq!(collected.removed, Default::default());
            assert_eq!(collected.unreadable[0].manifest, Some(image.digest()));
        }
        std::fs::write(&data, &whole).unwrap();
    }
    std::fs::write(&current, "sha256:").unwrap();
    for _ in 0..2 {
        let collected = collect(&store, NONE);
        assert_eq!((collected.removed, collected.unreadable[0].manifest), (Default::default(), None));
    }
    std::fs::write(&current, image.digest().to_string()).unwrap();
    assert_eq!(collect(&store, NONE).condemned.blobs, 3);
    assert_eq!(collect(&store, NONE).removed.blobs, 3);
    assert!(is_whole(&store, &name, &image).await);
}

both!(what_another_registry_has_put_stays);
async fn what_another_registry_has_put_stays(root: Root, store: Store) {
    let image = TestImage::saying("an index's");
    let child = image.digest();
    let index = serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{"digest": child, "size": 1}, {"digest": Digest::of(b"of another platform"), "size": 1}],
    });
    let index = index.to_string().into_bytes();
    // Three parts of a name, and no tag.
    let repository = root.path().join("docker/registry/v2/repositories/library/tools/make");
    for (kind, digest) in [
        ("_layers", Digest::of(&image.layer)),
        ("_layers", Digest::of(&image.config)),
        ("_manifests/revisions", child),
        ("_manifests/revisions", Digest::of(&index)),
    ] {
        let folder = repository.join(kind).join("sha256").join(digest.hex());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("link"), digest.to_string()).unwrap();
    }
    for blob in [&image.layer, &image.config, &image.manifest, &index] {
        store.put_blob(blob.clone()).await.unwrap();
    }
    // Under a name of ours as well: only what we have made is ours to remove.
    let ours = image_name("acme/shop.storefront", "v1").repository;
    let bare = br#"{"schemaVersion": 2, "config": {"digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0}}"#;
    store.put_manifest(&ours, bare.to_vec()).await.unwrap();
    let before = tree(root.path());
    for _ in 0..2 {
        assert_eq!(collect(&store, NONE).removed, Default::default());
    }
    assert_eq!(tree(root.path()), before);
}

both!(retention_lets_images_go_and_keeps_what_deploys_run);
async fn retention_lets_images_go_and_keeps_what_deploys_run(root: Root, store: Store) {
    let repository = "acme/shop.storefront";
    let images: Vec<_> = (0..5).map(|number| TestImage::saying(&format!("image {number}"))).collect();
    let name = |number: usize| image_name(repository, &format!("v{number}"));
    for (number, image) in images.iter().enumerate() {
        image.publish(&store, &name(number)).await;
        root.tick().await;
    }
    // The newest tag has been built again: what it named before is the fifth of the six now.
    let rebuilt = TestImage::saying("rebuilt");
    let digest = rebuilt.put_untagged(&store, &name(4).repository).await;
    let put = TagPut::Replace { expected: Some(images[4].digest()) };
    store.put_tag(&name(4), digest, put).await.unwrap();

    let round = |grace, retention| store.collect(&Collection { retention, ..keep_all(grace) }).unwrap();
    let rules = || by("acme = { keep_last = 2 }", &["localhost:5000/acme/shop.storefront:v1"]);
    let first = round(LONG, rules());
    let said: Vec<_> = first.retention.iter().map(|gone| (gone.image.as_str(), gone.state)).collect();
    let condemned = |number: usize| (format!("{}", name(number)), Going::Condemned);
    let expected = [condemned(0), condemned(2), condemned(3)];
    assert_eq!(said, expected.each_ref().map(|(name, state)| (name.as_str(), *state)), "{first:?}");
    let size: usize = [&images[0].layer, &images[0].config, &images[0].manifest].map(Vec::len).iter().sum();
    assert_eq!(first.retention[0].frees, size as u64);
    assert_eq!(first.condemned.blobs, 0, "they are there for a grace");

    // Asked for again meanwhile, it has a grace of its own.
    assert_eq!(store.tag_to_rely_on(&name(2)).await.unwrap(), Some(images[2].digest()));
    // Where it cannot be asked what runs, nothing goes, nor is it forgotten what was to go.
    let unknown = round(NONE, Retention::Unknown("away".to_owned()));
    assert_eq!((unknown.removed.links, unknown.retention_paused.as_deref()), (0, Some("away")));
    assert_eq!(unknown.spared, 0, "{unknown:?}");
    let states: Vec<_> = round(LONG, rules()).retention.iter().map(|gone| gone.state).collect();
    assert_eq!(states, [Going::Waiting, Going::Condemned, Going::Waiting]);
    // Where all are to be kept now, it is.
    assert_eq!(round(NONE, Retention::KeepAll).spared, 3);
    round(LONG, rules());
    assert_eq!(store.tag_to_rely_on(&name(2)).await.unwrap(), Some(images[2].digest()));
    let third = round(NONE, rules());
    let states: Vec<_> = third.retention.iter().map(|gone| gone.state).collect();
    assert_eq!(states, [Going::Removed, Going::Condemned, Going::Removed], "{third:?}");
    let tags: Vec<_> =
        store.tags(&name(0).repository).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["v1", "v2", "v4"]);
    assert!(is_whole(&store, &name(0), &images[0]).await, "one that was being pulled is pulled on");
    for _ in 0..3 {
        round(NONE, rules());
    }
    for (number, image) in images.iter().enumerate() {
        let stays = [1, 4].contains(&number);
        assert_eq!(is_whole(&store, &name(number), image).await, stays, "{number}");
    }
    assert!(is_whole(&store, &name(4), &rebuilt).await);
    let last = round(NONE, by("acme = { keep_last = 1 }", &[]));
    assert_eq!(last.going, 2, "{last:?}");
    for _ in 0..3 {
        round(NONE, by("acme = { keep_last = 1 }", &[]));
    }
    assert!(!is_whole(&store, &name(4), &images[4]).await && is_whole(&store, &name(4), &rebuilt).await);
}

#[tokio::test]
async fn one_collects_at_a_time_and_it_is_remembered_when() {
    let (root, store) = store();
    assert_eq!(store.collected_before().await.unwrap(), None);
    collect(&store, LONG);
    assert!(store.collected_before().await.unwrap().unwrap() < Duration::from_secs(10));
    let lock = std::fs::File::open(root.path().join("buildgrid/gc/collection")).unwrap();
    lock.lock().unwrap();
    let busy = store.collect(&keep_all(LONG)).unwrap_err();
    assert!(matches!(busy.error, StoreError::Busy), "{busy}");
    drop(lock);
    collect(&store, LONG);
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let stopped = store.collect(&Collection { cancel: &cancelled, ..keep_all(LONG) });
    let stopped = stopped.unwrap_err();
    assert!(matches!(stopped.error, StoreError::Stopping), "{stopped:?}");
}

both!(a_tag_whose_content_has_gone_is_not_put);
/// The one thing that the order of steps leaves open: a publisher that stood still between its last look and its tag,
/// for longer than the grace. It notices, and takes its tag back.
async fn a_tag_whose_content_has_gone_is_not_put(_root: Root, store: Store) {
    let name = image_name("acme/shop.storefront", "v1");
    let image = TestImage::saying("hello");
    image.put_untagged(&store, &name.repository).await;
    collect(&store, NONE);
    collect(&store, NONE);
    let error = store.put_tag(&name, image.digest(), TagPut::IfAbsent).await.unwrap_err();
    assert!(matches!(error, StoreError::Incomplete { .. }), "{error}");
    assert_eq!(store.tag(&name).await.unwrap(), None);
    image.put_untagged(&store, &name.repository).await;
    assert_eq!(store.put_tag(&name, image.digest(), TagPut::IfAbsent).await.unwrap(), TagOutcome::Put);
}

#[tokio::test]
async fn what_is_due_goes_before_anything_is_written() {
    let (root, store) = store();
    store.usage(&"acme".parse().unwrap()).await.unwrap();
    let digest = store.put_blob(b"nobody's".to_vec()).await.unwrap();
    collect(&store, NONE);
    // Nothing can be counted, as on a full disk.
    let counted = root.path().join("buildgrid/usage/acme.json");
    std::fs::remove_file(&counted).unwrap();
    std::fs::create_dir_all(counted.join("in the way")).unwrap();
    store.collect(&keep_all(NONE)).unwrap_err();
    let hex = digest.hex();
    let blob = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    assert!(!blob.exists());
}

both!(what_is_deployed_while_a_round_goes_on_stays);
async fn what_is_deployed_while_a_round_goes_on_stays(root: Root, store: Store) {
    let repository = "acme/shop.storefront";
    for tag in ["v1", "v2"] {
        TestImage::saying(tag).publish(&store, &image_name(repository, tag)).await;
        root.tick().await;
    }
    let round = |answer: fn() -> Result<InUse, String>| {
        let mut retention = by("acme = { keep_last = 1 }", &[]);
        let Retention::By { again, .. } = &mut retention else { panic!() };
        *again = Some(AskAgain::by(answer));
        store.collect(&Collection { retention, ..keep_all(NONE) }).unwrap()
    };
    assert_eq!(round(|| panic!("nothing is due yet")).going, 1);
    let away = round(|| Err("away".to_owned()));
    assert_eq!((away.going, away.retention_paused.as_deref()), (0, Some("away")));
    // It has another grace.
    assert_eq!(round(|| panic!("nothing is due yet")).going, 1);
    assert_eq!(round(|| Ok(InUse::read(["h/acme/shop.storefront:v1"], ["acme/shop"]))).going, 0);
    assert_eq!(round(|| panic!("nothing is due yet")).going, 1);
    assert_eq!(round(|| Ok(InUse::read([], []))).going, 0);
    assert_eq!(round(|| panic!("nothing is due yet")).going, 1);
    let gone = round(|| Ok(InUse::read([], ["acme/shop"])));
    assert_eq!(gone.retention.iter().map(|image| image.state).collect::<Vec<_>>(), [Going::Removed]);
}

#[tokio::test]
async fn what_is_deployed_while_many_images_go_stays() {
    let (_root, store) = store();
    let image = TestImage::saying("hello");
    let name = |number: u64| image_name("acme/shop.storefront", &format!("v{number}"));
    let digest = image.put_untagged(&store, &name(0).repository).await;
    for number in 0..206 {
        store.put_tag(&name(number), digest, TagPut::IfAbsent).await.unwrap();
    }
    let round = |again| {
        let mut retention = by("acme = { keep_last = 1 }", &[]);
        let Retention::By { again: asks, .. } = &mut retention else { panic!() };
        *asks = Some(again);
        store.collect(&Collection { retention, ..keep_all(NONE) }).unwrap()
    };
    assert_eq!(round(AskAgain::by(|| panic!("nothing is due yet"))).going, 205);
    // All that are left are deployed while the first hundred go.
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let round = round(AskAgain::by(move || {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        let deployed: Vec<_> = (0..206).map(|number| format!("h/acme/shop.storefront:v{number}")).collect();
        let deployed = deployed.iter().map(String::as_str).filter(|_| !first);
        Ok(InUse::read(deployed, ["acme/shop"]))
    }));
    assert_eq!((round.going, round.removed.links, asked.load(Ordering::SeqCst)), (100, 100, 3));
}

#[tokio::test]
async fn an_image_that_went_before_the_round_ended_early_is_told() {
    let (root, store) = store();
    for tag in ["v1", "v2", "v3"] {
        TestImage::saying(tag).publish(&store, &image_name("acme/shop.storefront", tag)).await;
        root.tick().await;
    }
    let cancel = CancellationToken::new();
    let round = |retention| store.collect(&Collection { retention, cancel: &cancel, ..keep_all(NONE) });
    assert_eq!(round(by("acme = { keep_last = 1 }", &[])).unwrap().going, 2);
    let mut retention = by("acme = { keep_last = 1 }", &[]);
    let Retention::By { again, .. } = &mut retention else { panic!() };
    let ends = cancel.clone();
    *again = Some(AskAgain::by(move || {
        ends.cancel();
        Ok(InUse::read([], ["acme/shop"]))
    }));
    let broken = round(retention).unwrap_err();
    assert!(matches!(broken.error, StoreError::Stopping), "{broken:?}");
    let states: Vec<_> = broken.so_far.retention.iter().map(|image| image.state).collect();
    assert_eq!((states, broken.so_far.removed.links), (vec![Going::Removed], 1));
}
