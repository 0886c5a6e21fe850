//! The publisher's second look: content that goes between its first one and its tag, as when it stood still for longer
//! than the grace of the collection.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Root, both};
use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreError, TagOutcome, TagPut};

use crate::support::image::{TestImage, image_name};

/// The second look comes soon after the tag, and is to be overtaken: so often it is tried.
const TRIES: usize = 300;

/// What the tag was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Absent,
    Another,
    /// Another, and before that the same as it is to be again.
    AnotherAfterIt,
}

fn tag_directory(root: &Path, name: &ImageName) -> PathBuf {
    let repository = root.join("docker/registry/v2/repositories").join(name.repository.to_string());
    repository.join("_manifests/tags").join(name.tag.to_string())
}

/// Removes `blob` as soon as the tag stands, until it is told to stop; answers whether it did.
fn remove_when_tagged(
    link: PathBuf,
    digest: Digest,
    blob: PathBuf,
    stop: Arc<AtomicBool>,
) -> std::thread::JoinHandle<bool> {
    let expected = digest.to_string();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if std::fs::read(&link).is_ok_and(|found| found == expected.as_bytes()) {
                std::fs::remove_file(&blob).unwrap();
                return true;
            }
        }
        false
    })
}

both!(a_tag_whose_content_goes_before_the_second_look_is_taken_back);
async fn a_tag_whose_content_goes_before_the_second_look_is_taken_back(root: Root, store: Store) {
    let (earlier, image) = (TestImage::saying("earlier"), TestImage::saying("of which a layer goes"));
    for before in [Before::Absent, Before::Another, Before::AnotherAfterIt] {
        let mut taken_back = false;
        for number in 0..TRIES {
            let name = image_name("acme/shop.storefront", &format!("{}{number}", before as u8));
            taken_back = is_taken_back(&root, &store, &name, &earlier, &image, before).await;
            if taken_back {
                break;
            }
        }
        assert!(taken_back, "{before:?}: the second look was never overtaken");
    }
}

/// Puts the tag while somebody takes a layer away. Answers whether the second look has seen that: the first one had been
/// over, for the tag stood.
async fn is_taken_back(
    root: &Root,
    store: &Store,
    name: &ImageName,
    earlier: &TestImage,
    image: &TestImage,
    before: Before,
) -> bool {
    let digest = image.put_untagged(store, &name.repository).await;
    let replace = |expected: &TestImage| TagPut::Replace { expected: Some(expected.digest()) };
    let put = match before {
        Before::Absent => TagPut::IfAbsent,
        Before::Another | Before::AnotherAfterIt => replace(earlier),
    };
    if before != Before::Absent {
        earlier.publish(store, name).await;
    }
    if before == Before::AnotherAfterIt {
        assert_eq!(store.put_tag(name, digest, replace(earlier)).await.unwrap(), TagOutcome::Put);
        assert_eq!(store.put_tag(name, earlier.digest(), replace(image)).await.unwrap(), TagOutcome::Put);
    }
    let stood = store.tag(name).await.unwrap();
    assert_eq!(stood, (before != Before::Absent).then(|| earlier.digest()));

    let hex = Digest::of(&image.layer).hex();
    let layer = root.path().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let tag = tag_directory(root.path(), name);
    let stop = Arc::new(AtomicBool::new(false));
    let remover = remove_when_tagged(tag.join("current/link"), digest, layer, stop.clone());
    let outcome = store.put_tag(name, digest, put).await;
    stop.store(true, Ordering::Relaxed);
    let removed = remover.join().unwrap();
    let error = match outcome {
        // It came too late, or saw nothing in time.
        Ok(outcome) => {
            assert_eq!(outcome, TagOutcome::Put);
            return false;
        }
        Err(error) => error,
    };
    assert!(removed, "nothing was missing: {error}");
    assert!(matches!(error, StoreError::Incomplete { manifest, .. } if manifest == digest), "{error}");
    assert_eq!(store.tag(name).await.unwrap(), stood, "{before:?}: as it was before");
    let index = |image: &TestImage| tag.join(format!("index/sha256/{}/link", image.digest().hex()));
    // In an object store what is empty was taken away.
    let has = |link: PathBuf| std::fs::read(link).is_ok_and(|link| !link.is_empty());
    assert_eq!(has(index(image)), before == Before::AnotherAfterIt, "{before:?}: what it has named");
    assert_eq!(has(index(earlier)), before != Before::Absent);
    // Once its content is there again, it can be put.
    image.put_untagged(store, &name.repository).await;
    assert_eq!(store.put_tag(name, digest, put).await.unwrap(), TagOutcome::Put);
    assert_eq!(store.tag(name).await.unwrap(), Some(digest));
    true
}
