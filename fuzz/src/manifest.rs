//! Manifests that others have put into the store, and what goes through all of it.

use std::fs;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Collection, Part, Retention};
use http::{Request, StatusCode, header};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::served::{CONFIG, LAYER, REPOSITORY, RUNTIME, Served, manifest, repository};

/// What stands in an input for the digests of the image beside it, which nobody would find by chance.
const WORDS: [&str; 3] = ["@layer@", "@config@", "@manifest@"];

/// It is served as it is, nothing that goes through the store fails by it, and the image beside it stays whole.
pub fn check(bytes: &[u8]) {
    let bytes = with_digests(bytes);
    let served = Served::new();
    let digest = RUNTIME.block_on(served.store.put_manifest(&repository(), bytes.clone())).unwrap();
    // As another registry puts it, which does not look whether all of it is there.
    let root = served.root.path().join("docker/registry/v2/repositories").join(REPOSITORY);
    for link in ["current".to_owned(), format!("index/sha256/{}", digest.hex())] {
        let link = root.join("_manifests/tags/strange").join(link);
        fs::create_dir_all(&link).unwrap();
        fs::write(link.join("link"), digest.to_string()).unwrap();
    }

    let body = answer(&served, &format!("manifests/{digest}"));
    assert_eq!(body, bytes, "another manifest than the one that was put");
    for subject in [digest, Digest::of(&manifest())] {
        let body = answer(&served, &format!("referrers/{subject}"));
        let index: Value = serde_json::from_slice(&body).unwrap();
        assert!(index["manifests"].is_array(), "{index}");
    }
    let store = &served.store;
    assert_eq!(store.list_repositories(None).unwrap().rows[0].tags, 2);
    assert_eq!(store.list_images(&repository()).unwrap().unwrap().rows.len(), 2);
    store.disk_usage().unwrap();
    RUNTIME.block_on(store.recounted_usage(&repository().namespace)).unwrap();
    let cancel = CancellationToken::new();
    // The second round removes what the first has marked.
    for _ in 0..2 {
        let collection = Collection {
            grace: Duration::ZERO,
            dry_run: false,
            retention: Retention::KeepAll,
            cancel: &cancel,
        };
        store.collect(&collection).unwrap();
    }
    store.scrub(Part::ALL, true, &cancel).unwrap();
    RUNTIME.block_on(async {
        assert!(served.is_whole().await, "the image beside it has lost something");
        let kept = store.manifest(&repository(), digest).await.unwrap();
        assert_eq!(
            kept.as_deref(),
            Some(&bytes[..]),
            "the manifest that a tag names has gone, or become another"
        );
    });
}

fn answer(served: &Served, path: &str) -> Vec<u8> {
    let request =
        Request::get(format!("/v2/{REPOSITORY}/{path}")).header(header::AUTHORIZATION, &served.login);
    let request = request.body(Body::empty()).unwrap();
    RUNTIME.block_on(async {
        let (head, body) = served.router.clone().oneshot(request).await.unwrap().into_parts();
        assert_eq!(head.status, StatusCode::OK, "{path}");
        to_bytes(body, usize::MAX).await.unwrap().to_vec()
    })
}

fn with_digests(bytes: &[u8]) -> Vec<u8> {
    let digests = [LAYER, CONFIG, &manifest()].map(Digest::of);
    let mut left = bytes;
    let mut all = Vec::new();
    'input: while let Some((&first, rest)) = left.split_first() {
        for (word, digest) in WORDS.iter().zip(digests) {
            if let Some(rest) = left.strip_prefix(word.as_bytes()) {
                all.extend_from_slice(digest.to_string().as_bytes());
                left = rest;
                continue 'input;
            }
        }
        all.push(first);
        left = rest;
    }
    all
}
