//! What a namespace has in the store: known at once, by all, and never less than there is.

use std::time::Duration;

use super::{Root, both};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, TagPut};

use super::gc::collect;
use crate::support::image::{TestImage, image_name};

fn length(image: &TestImage) -> u64 {
    [&image.layer, &image.config, &image.manifest].map(|part| part.len() as u64).iter().sum()
}

/// As the publisher does.
async fn publish(store: &Store, name: &str, tag: &str, image: &TestImage) {
    let name = image_name(name, tag);
    let parts =
        [&image.layer, &image.config, &image.manifest].map(|part| (Digest::of(part), part.len() as u64));
    store.note_usage(&name.repository, parts.into()).await.unwrap();
    let digest = image.put_untagged(store, &name.repository).await;
    store.put_tag(&name, digest, TagPut::IfAbsent).await.unwrap();
}

both!(what_workers_add_is_known_at_once_and_counted_by_each_collection);
async fn what_workers_add_is_known_at_once_and_counted_by_each_collection(root: Root, store: Store) {
    let other = Store::open(&root.config()).unwrap();
    let acme = "acme".parse().unwrap();
    let images = ["one", "two", "three"].map(TestImage::saying);
    images[0].publish(&store, &image_name("acme/shop.a", "v1")).await;
    assert_eq!(store.usage(&acme).await.unwrap(), length(&images[0]), "the first time it is counted");

    publish(&other, "acme/shop.a", "v2", &images[1]).await;
    publish(&store, "acme/shop.a", "v3", &images[1]).await;
    publish(&store, "bank/shop.a", "v1", &images[2]).await;
    let sum = length(&images[0]) + length(&images[1]);
    // A manifest may be noted more than once.
    assert_eq!(other.usage(&acme).await.unwrap(), sum + images[1].manifest.len() as u64);
    // In another repository of the namespace it counts once more until it is counted.
    publish(&other, "acme/shop.b", "v1", &images[1]).await;
    assert!(store.usage(&acme).await.unwrap() >= sum + length(&images[1]));
    assert_eq!(store.recounted_usage(&acme).await.unwrap(), sum);
    assert_eq!(other.usage(&acme).await.unwrap(), sum, "what was counted is known");
    publish(&other, "acme/shop.c", "v1", &images[1]).await;
    collect(&store, Duration::ZERO);
    for store in [&store, &other] {
        assert_eq!(store.usage(&acme).await.unwrap(), sum);
        assert_eq!(store.usage(&"bank".parse().unwrap()).await.unwrap(), length(&images[2]));
        assert_eq!(store.usage(&"none".parse().unwrap()).await.unwrap(), 0);
    }
    let noted = std::fs::read_dir(root.path().join("buildgrid/usage/acme"));
    assert!(noted.is_err() || noted.unwrap().next().is_none(), "what was counted is no longer noted");
}
