//! A store in an object store, where that is another thing than a directory: keys, faults of the network and of the
//! service, many publishers, and how much it is asked.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use buildgrid::store::digest::Digest;
use buildgrid::store::layout;
use buildgrid::store::{Collection, Part, Retention, Store, StoreConfig, StoreError, TagOutcome, TagPut};
use tokio_util::sync::CancellationToken;

use super::gc::{collect, is_whole};
use crate::support::image::{TestImage, image_name, put_streamed};
use crate::support::proxy::{Mode, Proxy};
use crate::support::s3::{S3, SECRET, restrict};

async fn open(config: StoreConfig) -> Result<Store, StoreError> {
    tokio::task::spawn_blocking(move || Store::open(&config)).await.unwrap()
}

#[tokio::test]
async fn a_store_is_made_once_and_errors_name_the_remedy() {
    let server = S3::start();
    let config = server.store();
    let error = Store::open_read_only(&config).unwrap_err();
    assert!(matches!(error, StoreError::NoStore(_)), "{error}");
    assert!(error.to_string().contains("s3://images/grid"), "{error}");
    Store::open(&config).unwrap();
    Store::open(&config).unwrap();
    Store::open_read_only(&config).unwrap().check().await.unwrap();
    std::fs::write(server.files().join("buildgrid/version"), "2\n").unwrap();
    assert!(Store::open(&config).unwrap_err().to_string().contains("upgrade"));
    std::fs::write(server.files().join("buildgrid/version"), "1\n").unwrap();

    let keys = tempfile::NamedTempFile::new().unwrap();
    let with_keys = |text: &str| {
        std::fs::write(keys.path(), text).unwrap();
        StoreConfig { credentials_file: Some(keys.path().to_owned()), ..server.store() }
    };
    restrict(keys.path());
    let refused =
        Store::open(&with_keys("AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE\nAWS_SECRET_ACCESS_KEY=sesame\n"));
    let refused = refused.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "{refused:?}");
    let text = format!("{refused} {refused:?}");
    assert!(text.contains("store.credentials_file") && !text.contains("sesame"), "{text}");
    for (text, word) in [("AWS_SECRET=x\n", "AWS_SECRET"), ("sesame\n", "line 1")] {
        let error = Store::open(&with_keys(text)).unwrap_err().to_string();
        assert!(error.contains(word) && !error.contains("sesame"), "{error}");
    }
    let open_to_all = with_keys("");
    std::fs::set_permissions(keys.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(Store::open(&open_to_all).unwrap_err().to_string().contains("chmod 600"));
}

#[test]
fn who_does_not_keep_conditions_is_not_published_into() {
    for (server, condition) in
        [(S3::careless(), "(If-None-Match)"), (S3::careless_of_changes(), "(If-Match)")]
    {
        for error in [Store::open(&server.store()).unwrap_err(), Store::probe(&server.store()).unwrap_err()] {
            assert!(matches!(error, StoreError::Unconditional { .. }), "{error}");
            assert!(error.to_string().contains(condition), "{error}");
        }
    }
    Store::probe(&S3::start().store()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_who_put_one_tag_one_wins() {
    let server = S3::start();
    let stores: Vec<_> = (0..4).map(|_| Store::open(&server.store()).unwrap()).collect();
    let name = image_name("acme/shop.storefront", "v1");
    let publishing = (0..100).map(|number| {
        let (store, name) = (stores[number % 4].clone(), name.clone());
        tokio::spawn(async move {
            let image = TestImage::saying(&format!("hello {number}"));
            image.put_untagged(&store, &name.repository).await;
            (store.put_tag(&name, image.digest(), TagPut::IfAbsent).await.unwrap(), image)
        })
    });
    let publishing: Vec<_> = publishing.collect();
    let (mut put, mut exists) = (Vec::new(), Vec::new());
    for one in publishing {
        match one.await.unwrap() {
            (TagOutcome::Put, image) => put.push(image),
            (TagOutcome::Exists(other), _) => exists.push(other),
        }
    }
    assert_eq!((put.len(), exists.len()), (1, 99));
    assert!(exists.iter().all(|other| *other == put[0].digest()));
    assert_eq!(stores[0].tag(&name).await.unwrap(), Some(put[0].digest()));
    assert!(is_whole(&stores[1], &name, &put[0]).await);
}

/// Publishers put what others have put without a tag before, while collectors, whose grace is over at once, take it away:
/// what a publisher was told is there, is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishers_and_collectors_go_on_at_once() {
    let server = S3::start();
    let open = || Store::open(&server.store()).unwrap();
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    let collectors: Vec<_> = (0..2)
        .map(|_| {
            let (store, stop) = (open(), stop.clone());
            std::thread::spawn(move || {
                let (mut rounds, mut removed) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let cancel = CancellationToken::new();
                    let collection = Collection {
                        grace: Duration::from_secs(1),
                        dry_run: false,
                        retention: Retention::KeepAll,
                        cancel: &cancel,
                    };
                    match store.collect(&collection) {
                        Ok(collected) => {
                            rounds += 1;
                            removed += collected.removed.blobs;
                        }
                        Err(broken) if matches!(broken.error, StoreError::Busy) => {
                            std::thread::sleep(Duration::from_millis(50))
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                (rounds, removed)
            })
        })
        .collect();
    let publishers: Vec<_> = (0..4)
        .map(|number| {
            let (store, repository) = (open(), image_name("acme/shop.storefront", "v1").repository);
            tokio::spawn(async move {
                let image = |turn: u32| TestImage::saying(&format!("turn {turn}"));
                let began = Instant::now();
                let (mut published, mut turn) = (0, 0);
                while began.elapsed() < Duration::from_secs(30) {
                    // What another has put without a tag, and a collector may have come to by now, gets one.
                    image(turn).put_untagged(&store, &repository).await;
                    let before = rand::random_range(3..12);
                    let image = image(turn.saturating_sub(before));
                    let name = image_name("acme/shop.storefront", &format!("v{number}-{turn}"));
                    image.put_untagged(&store, &repository).await;
                    match store.put_tag(&name, image.digest(), TagPut::IfAbsent).await {
                        Ok(_) => {
                            assert!(is_whole(&store, &name, &image).await);
                            published += 1;
                        }
                        // It was slower than the grace.
                        Err(StoreError::Incomplete { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    turn += 1;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                published
            })
        })
        .collect();
    let mut published = 0;
    for publisher in publishers {
        published += publisher.await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let rounds: Vec<(u32, u64)> = collectors.into_iter().map(|thread| thread.join().unwrap()).collect();
    println!("{published} published; rounds and blobs removed: {rounds:?}");
    assert!(published > 8 && rounds.iter().map(|(_, removed)| removed).sum::<u64>() > 0);
    let scrubbed = open().scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    assert!(!scrubbed.is_damaged(), "{scrubbed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_survives_cuts_or_leaves_nothing() {
    let server = S3::start();
    let proxy = Proxy::start(server.address.to_string()).await;
    let store = open(server.store_at(proxy.address())).await.unwrap();
    let bytes: Vec<u8> = (0..100_u32 << 20).map(|place| (place ^ (place >> 11)) as u8).collect();
    let digest = Digest::of(&bytes);
    let write = |store: &Store| {
        let (mut writer, bytes) = (store.blob_writer().unwrap(), bytes.clone());
        tokio::task::spawn_blocking(move || {
            writer.write_all(&bytes).unwrap();
            writer.commit()
        })
    };
    // A cut of a moment is made good by trying again.
    // Slowly at first, so that it is on its way when it is cut, on whatever machine.
    proxy.set(Mode::Throttled(1_000_000));
    let writing = write(&store);
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.set(Mode::Cut);
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.set(Mode::Pass);
    assert_eq!(writing.await.unwrap().unwrap(), (digest, 100 << 20));
    let path = server.files().join(format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &digest.hex()[..2],
        digest.hex()
    ));
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), digest);
    assert_eq!(server.parts(), 0);
    std::fs::remove_file(&path).unwrap();

    // A service that stays away is an error, and nothing is visible.
    proxy.set(Mode::Throttled(1_000_000));
    let writing = write(&store);
    tokio::time::sleep(Duration::from_millis(700)).await;
    proxy.set(Mode::Cut);
    let began = Instant::now();
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Object { .. }), "{error:?}");
    assert!(error.to_string().contains("store.endpoint"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert!(!path.exists());
    let error = store.check().await.unwrap_err();
    assert!(matches!(error, StoreError::Object { .. }), "{error}");
    assert!(error.to_string().lines().count() == 1 && !error.to_string().contains(SECRET), "{error}");
    proxy.set(Mode::Pass);
    store.check().await.unwrap();

    // Slow answers are waited for.
    proxy.set(Mode::Delayed(Duration::from_millis(300)));
    let image = TestImage::saying("slowly");
    let name = image_name("acme/shop.storefront", "v1");
    image.publish(&store, &name).await;
    assert!(is_whole(&store, &name, &image).await);
}

#[test]
fn a_round_gets_on_where_removals_are_slow() {
    let server = S3::start();
    let store = Store::open(&server.store()).unwrap();
    // All of one list, which others wait for.
    let digests = (0_u32..).map(|number| Digest::of(&number.to_le_bytes()));
    let files: Vec<_> = digests
        .filter(|digest| digest.hex().starts_with("00"))
        .map(|digest| server.files().join(layout::blob(digest).as_str()))
        .take(200)
        .collect();
    for file in &files {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "nobody's").unwrap();
    }
    assert_eq!(collect(&store, Duration::ZERO).condemned.blobs, 200);
    // One after the other, they would take longer than anybody may wait.
    server.slow_removals(Duration::from_millis(500));
    assert_eq!(collect(&store, Duration::ZERO).removed.blobs, 200);
    assert!(files.iter().all(|file| !file.exists()));
}

#[test]
fn four_parts_are_under_way_of_all_uploads_together() {
    let server = S3::start();
    let store = Store::open(&server.store()).unwrap();
    std::thread::scope(|scope| {
        for number in 0..6_u8 {
            let store = &store;
            scope.spawn(move || {
                // Smaller ones go in one request.
                let length = if number < 3 { 50 << 20 } else { 7 << 20 };
                let mut writer = store.blob_writer().unwrap();
                writer.write_all(&vec![number; length]).unwrap();
                writer.commit().unwrap();
            });
        }
    });
    assert_eq!(server.most_blobs(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_and_a_round_ask_few_times() {
    let server = S3::start();
    let store = open(server.store()).await.unwrap();
    let images = 20;
    server.take_lines();
    for number in 0..images {
        let name = image_name("acme/shop.storefront", &format!("v{number}"));
        TestImage::saying(&format!("image {number}")).publish(&store, &name).await;
    }
    let of_publish = server.take_lines().len() / images;
    put_streamed(&store, b"nobody's".to_vec()).await;
    server.take_lines();
    let collected = tokio::task::spawn_blocking({
        let store = store.clone();
        move || collect(&store, Duration::from_secs(3600))
    });
    let collected = collected.await.unwrap();
    assert_eq!((collected.images, collected.condemned.blobs), (images as u64, 1));
    let lines = server.take_lines();
    let of_round = lines.len();
    println!("{of_publish} requests for a publish, {of_round} for a round over {images} images");
    // Of one layer: put and link each part, manifest and tag, and look twice whether all is there.
    assert!(of_publish <= 50, "{of_publish}");
    // Of each image its tag and its manifest.
    assert!(of_round <= 60 + 4 * images, "{of_round}");
}
