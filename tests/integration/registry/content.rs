//! Manifests and blobs: bytes, headers, ranges and conditions.

use buildgrid::store::TagPut;
use buildgrid::store::digest::Digest;
use reqwest::{Method, Response, StatusCode};

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;

const REPOSITORY: &str = "acme/shop.storefront";

async fn with_image() -> (TestRegistry, TestImage) {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    image.publish(&registry.store, &image_name(REPOSITORY, "v1")).await;
    (registry, image)
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_api_answers_to_a_login() {
    let registry = TestRegistry::start().await;
    for path in ["/v2/", "/v2"] {
        let response = registry.get(path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(&response, "docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(response.text().await.unwrap(), "{}");
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_manifest_is_served_as_it_was_published() {
    let (registry, image) = with_image().await;
    let digest = image.digest().to_string();
    for reference in ["v1", &digest] {
        let path = format!("/v2/{REPOSITORY}/manifests/{reference}");
        // Also to a client that lists other types only: it exists, in this one form.
        for accept in [None, Some("application/vnd.oci.image.manifest.v1+json"), Some("text/plain")] {
            for method in [Method::GET, Method::HEAD] {
                let mut request = registry.request(method.clone(), &path);
                if let Some(accept) = accept {
                    request = request.header("accept", accept);
                }
                let response = registry.send(request).await;
                assert_eq!(response.status(), StatusCode::OK);
                let length = image.manifest.len().to_string();
                for (name, value) in [
                    ("content-type", "application/vnd.oci.image.manifest.v1+json"),
                    ("content-length", &length),
                    ("docker-content-digest", &digest),
                    ("etag", &format!("\"{digest}\"")),
                    ("docker-distribution-api-version", "registry/2.0"),
                    ("x-content-type-options", "nosniff"),
                ] {
                    assert_eq!(header(&response, name), Some(value), "{method} {reference} {name}");
                }
                let body = response.bytes().await.unwrap();
                assert_eq!(body, if method == Method::GET { &image.manifest[..] } else { b"" });
            }
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_manifest_without_a_media_type_gets_that_of_its_kind() {
    let registry = TestRegistry::start().await;
    let repository = image_name(REPOSITORY, "v1").repository;
    for (manifest, kind) in [
        (r#"{"schemaVersion":2,"config":{}}"#, "application/vnd.oci.image.manifest.v1+json"),
        (r#"{"schemaVersion":2,"manifests":[]}"#, "application/vnd.oci.image.index.v1+json"),
        (
            r#"{"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#,
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
        (r#"{"mediaType":"line\nend"}"#, "application/octet-stream"),
        ("not JSON", "application/octet-stream"),
    ] {
        let digest = registry.store.put_manifest(&repository, manifest.into()).await.unwrap();
        let response = registry.get(&format!("/v2/{REPOSITORY}/manifests/{digest}")).await;
        assert_eq!(header(&response, "content-type"), Some(kind));
        assert_eq!(response.text().await.unwrap(), manifest);
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_blob_is_served_whole() {
    let (registry, image) = with_image().await;
    for bytes in [&image.layer, &image.config] {
        let digest = Digest::of(bytes).to_string();
        for method in [Method::GET, Method::HEAD] {
            let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
            let response = registry.send(registry.request(method.clone(), &path)).await;
            assert_eq!(response.status(), StatusCode::OK);
            let length = bytes.len().to_string();
            for (name, value) in [
                ("content-type", Some("application/octet-stream")),
                ("content-length", Some(&*length)),
                ("docker-content-digest", Some(&*digest)),
                ("etag", Some(&*format!("\"{digest}\""))),
                ("accept-ranges", Some("bytes")),
                ("last-modified", None),
            ] {
                assert_eq!(header(&response, name), value, "{method} {name}");
            }
            let body = response.bytes().await.unwrap();
            assert_eq!(body, if method == Method::GET { &bytes[..] } else { b"" });
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_range_of_a_blob_continues_a_broken_pull() {
    let (registry, image) = with_image().await;
    let digest = Digest::of(&image.layer);
    let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let (etag, length) = (format!("\"{digest}\""), image.layer.len());
    let whole = (StatusCode::OK, None, &image.layer[..]);
    let part = |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{length}", to - 1);
        (StatusCode::PARTIAL_CONTENT, Some(range), &image.layer[from..to])
    };
    let refusal = br#"{"errors":[{"code":"RANGE_INVALID","message":"the range has none of the blob's bytes; Content-Range says how many there are"}]}"#;
    let beyond = (StatusCode::RANGE_NOT_SATISFIABLE, Some(format!("bytes */{length}")), &refusal[..]);
    for (range, condition, (status, content_range, body)) in [
        ("bytes=2-5", None, part(2, 6)),
        ("bytes=10-", None, part(10, length)),
        ("bytes=-7", None, part(length - 7, length)),
        ("bytes=0-999999", None, part(0, length)),
        ("bytes=999999-", None, beyond),
        ("bytes=0-1,4-5", None, whole.clone()),
        ("bytes=2-5", Some(&*etag), part(2, 6)),
        ("bytes=2-5", Some("\"sha256:other\""), whole.clone()),
        ("bytes=2-5", Some("garbage"), whole.clone()),
        ("bytes=2-5", Some(&*digest.to_string()), whole.clone()),
        ("bytes=2-5", Some(&*format!("W/{etag}")), whole.clone()),
        ("bytes=2-5", Some(&*format!("{etag}, \"x\"")), whole.clone()),
        ("bytes=2-5", Some("Wed, 21 Oct 2015 07:28:00 GMT"), whole),
    ] {
        let mut request = registry.request(Method::GET, &path).header("range", range);
        if let Some(condition) = condition {
            request = request.header("if-range", condition);
        }
        let response = registry.send(request).await;
        assert_eq!(response.status(), status, "{range} {condition:?}");
        assert_eq!(header(&response, "content-range"), content_range.as_deref(), "{range} {condition:?}");
        assert_eq!(response.bytes().await.unwrap(), body, "{range} {condition:?}");
        // A range is one of GET's alone.
        let head = registry.send(registry.request(Method::HEAD, &path).header("range", range)).await;
        assert_eq!(head.status(), StatusCode::OK, "{range}");
        assert_eq!(header(&head, "content-length"), Some(&*length.to_string()), "{range}");
    }
    registry.stop().await;
}

#[tokio::test]
async fn conditions_are_judged_by_the_digest() {
    let (registry, image) = with_image().await;
    let layer = Digest::of(&image.layer);
    for (path, digest) in [
        (format!("/v2/{REPOSITORY}/manifests/v1"), image.digest()),
        (format!("/v2/{REPOSITORY}/blobs/{layer}"), layer),
    ] {
        let (same, other) = (format!("\"{digest}\""), format!("\"{}\"", Digest::of(b"other")));
        for (name, value, status) in [
            ("if-none-match", &*same, StatusCode::NOT_MODIFIED),
            ("if-none-match", &*format!("{other}, W/{same}"), StatusCode::NOT_MODIFIED),
            ("if-none-match", "*", StatusCode::NOT_MODIFIED),
            ("if-none-match", &other, StatusCode::OK),
            ("if-match", &same, StatusCode::OK),
            ("if-match", &other, StatusCode::PRECONDITION_FAILED),
            ("if-modified-since", "Wed, 21 Oct 2099 07:28:00 GMT", StatusCode::OK),
        ] {
            let request = registry.request(Method::GET, &path).header(name, value);
            let response = registry.send(request).await;
            assert_eq!(response.status(), status, "{path} {name}: {value}");
            if status == StatusCode::NOT_MODIFIED {
                assert_eq!(header(&response, "etag"), Some(&*same));
                assert_eq!(header(&response, "docker-content-digest"), Some(&*digest.to_string()));
                assert_eq!(response.bytes().await.unwrap(), "");
            }
        }
    }
    registry.stop().await;
}

/// A manifest that was served before is in memory, and its tag, its link and its blob are looked at all the same.
#[tokio::test]
async fn what_is_in_memory_is_served_no_longer_than_it_is_in_the_store() {
    let (registry, image) = with_image().await;
    let name = image_name(REPOSITORY, "v1");
    let next = TestImage::saying("hello again");
    next.put_untagged(&registry.store, &name.repository).await;
    let tag = format!("/v2/{REPOSITORY}/manifests/v1");
    let path = format!("/v2/{REPOSITORY}/manifests/{}", image.digest());
    let replace = |from: &TestImage| TagPut::Replace { expected: Some(from.digest()) };
    for _ in 0..3 {
        assert_eq!(registry.get(&tag).await.bytes().await.unwrap(), image.manifest);
        registry.store.put_tag(&name, next.digest(), replace(&image)).await.unwrap();
        assert_eq!(registry.get(&tag).await.bytes().await.unwrap(), next.manifest);
        assert_eq!(registry.get(&path).await.bytes().await.unwrap(), image.manifest);
        registry.store.put_tag(&name, image.digest(), replace(&next)).await.unwrap();
    }
    let hex = image.digest().hex();
    let repository = format!("docker/registry/v2/repositories/{REPOSITORY}");
    for part in [
        format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]),
        format!("{repository}/_manifests/revisions/sha256/{hex}/link"),
    ] {
        let (part, aside) = (registry.root().join(part), registry.root().join("aside"));
        std::fs::rename(&part, &aside).unwrap();
        for path in [&tag, &path] {
            assert_eq!(registry.get(path).await.status(), StatusCode::NOT_FOUND, "{path} {}", part.display());
        }
        std::fs::rename(&aside, &part).unwrap();
        assert_eq!(registry.get(&path).await.bytes().await.unwrap(), image.manifest);
    }
    std::fs::remove_file(registry.root().join(format!("{repository}/_manifests/tags/v1/current/link")))
        .unwrap();
    assert_eq!(registry.get(&tag).await.status(), StatusCode::NOT_FOUND);
    registry.stop().await;
}

#[tokio::test]
async fn damaged_content_is_not_served() {
    let (registry, image) = with_image().await;
    let hex = image.digest().hex();
    let data = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    std::fs::write(registry.root().join(data), b"{}").unwrap();
    let response = registry.get(&format!("/v2/{REPOSITORY}/manifests/v1")).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body = response.text().await.unwrap();
    assert_eq!(body, r#"{"errors":[{"code":"UNKNOWN","message":"the registry failed; its log says why"}]}"#);
    // Nor is it remembered once it is mended.
    image.put_untagged(&registry.store, &image_name(REPOSITORY, "v1").repository).await;
    let response = registry.get(&format!("/v2/{REPOSITORY}/manifests/v1")).await;
    assert_eq!(response.bytes().await.unwrap(), image.manifest);
    registry.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_no_login_and_no_image_that_is_gone() {
    let registry = TestRegistry::public().await;
    TestImage::saying("hello").publish(&registry.store, &image_name(REPOSITORY, "v1")).await;
    let (away, elsewhere) = (registry.root().join("buildgrid"), registry.root().join("elsewhere"));
    let manifest = format!("/v2/{REPOSITORY}/manifests/v1");
    let absent = format!("/v2/{REPOSITORY}/manifests/v2");
    std::fs::rename(&away, &elsewhere).unwrap();
    // A login that was right may be for a second, and is never called wrong; no failure is counted.
    for _ in 0..30 {
        let response = registry.get("/v2/").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(header(&response, "retry-after").is_some());
        assert!(response.text().await.unwrap().contains("UNAVAILABLE"));
    }
    let anonymous = registry.request(Method::GET, &absent).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::SERVICE_UNAVAILABLE);
    std::fs::rename(&elsewhere, &away).unwrap();
    assert_eq!(registry.get(&manifest).await.status(), StatusCode::OK);
    assert_eq!(registry.request(Method::GET, &absent).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let wrong = registry.request(Method::GET, "/v2/").basic_auth(registry.user(), Some("wrong"));
    assert_eq!(wrong.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    registry.stop().await;
}
