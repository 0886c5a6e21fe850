//! Refusals: logins, foreign namespaces, names that cannot be, and everything that would write.

use std::time::Duration;

use buildgrid::store::digest::Digest;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use crate::support::image::{TestImage, image_name};
use crate::support::patience::in_time;
use crate::support::registry::TestRegistry;

/// All that a client can see of an answer, but for the time of day.
async fn seen(response: Response) -> (StatusCode, HeaderMap, String) {
    let status = response.status();
    let mut headers = response.headers().clone();
    headers.remove("date");
    (status, headers, response.text().await.unwrap())
}

async fn code(response: Response) -> (StatusCode, String) {
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["docker-distribution-api-version"], "registry/2.0");
    let body: Value = response.json().await.unwrap();
    assert!(!body["errors"][0]["message"].as_str().unwrap().is_empty());
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn every_route_needs_a_login() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    let layer = Digest::of(&image.layer);
    for path in [
        "/v2/",
        "/v2",
        "/v2/_catalog",
        "/v2/acme/shop.storefront/manifests/v1",
        &format!("/v2/acme/shop.storefront/manifests/{}", image.digest()),
        &format!("/v2/acme/shop.storefront/blobs/{layer}"),
        "/v2/acme/shop.storefront/tags/list",
        "/v2/acme/shop.storefront/manifests/absent",
        "/v2/anything/else/at/all",
    ] {
        for method in [Method::GET, Method::HEAD] {
            let anonymous = registry.request(method.clone(), path);
            let (user, password) = (registry.user(), registry.password());
            for request in [
                anonymous.try_clone().unwrap(),
                anonymous.try_clone().unwrap().basic_auth(user, Some("wrong")),
                anonymous.try_clone().unwrap().basic_auth(user, None::<&str>),
                anonymous.try_clone().unwrap().basic_auth("acme-unknown", Some(password)),
                anonymous.try_clone().unwrap().basic_auth("../version", Some(password)),
                anonymous.try_clone().unwrap().bearer_auth(password),
                anonymous.try_clone().unwrap().header("authorization", "Basic !"),
            ] {
                let response = request.send().await.unwrap();
                let challenge = response.headers()["www-authenticate"].to_str().unwrap().to_owned();
                assert_eq!(challenge, "Basic realm=\"BuildGrid registry\"");
                if method == Method::GET {
                    assert_eq!(code(response).await, (StatusCode::UNAUTHORIZED, "UNAUTHORIZED".into()));
                } else {
                    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
                }
            }
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_login_that_is_refused_a_hundred_times_is_told_to_wait_and_no_other_is() {
    let registry = TestRegistry::start().await;
    let wrong =
        |user: &str| registry.request(Method::GET, "/v2/").basic_auth(user, Some("old password")).send();
    for number in 0..51 {
        assert_eq!(wrong("acme-old").await.unwrap().status(), StatusCode::UNAUTHORIZED, "{number}");
    }
    let response = wrong("acme-old").await.unwrap();
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(code(response).await, (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS".into()));
    // One machine's old password is no reason to refuse another's right one, behind the same address.
    assert_eq!(registry.get("/v2/").await.status(), StatusCode::OK);
    for number in 0..50 {
        let user = format!("acme-{number}");
        assert_eq!(wrong(&user).await.unwrap().status(), StatusCode::UNAUTHORIZED, "{number}");
    }
    assert_eq!(wrong("another").await.unwrap().status(), StatusCode::TOO_MANY_REQUESTS, "the source");
    assert_eq!(registry.get("/v2/").await.status(), StatusCode::OK);
    registry.stop().await;
}

#[tokio::test]
async fn a_login_that_is_removed_or_rotated_is_refused_within_a_second() {
    let mut registry = TestRegistry::start().await;
    let user = registry.acme.credential.user.clone();
    let with =
        |password: &str| registry.request(Method::GET, "/v2/").basic_auth(&user, Some(password)).send();
    assert_eq!(registry.get("/v2/").await.status(), StatusCode::OK);
    let rotated = registry.store.rotate_credential(&user).await.unwrap().unwrap();
    let passwords = [&registry.acme, &rotated].map(|login| login.password.expose_secret().to_owned());
    // The new one is known at once.
    assert_eq!(with(&passwords[1]).await.unwrap().status(), StatusCode::OK);
    tokio::time::sleep(A_SECOND).await;
    assert_eq!(with(&passwords[0]).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(with(&passwords[1]).await.unwrap().status(), StatusCode::OK);
    // Use does not make it last.
    registry.store.remove_credential(&user).await.unwrap();
    let removed = std::time::Instant::now();
    registry.acme = rotated;
    until_refused(&registry).await;
    assert!(removed.elapsed() < 3 * A_SECOND, "{:?}", removed.elapsed());
    registry.stop().await;
}

/// As long as a login is believed that was read.
const A_SECOND: Duration = Duration::from_secs(1);

async fn until_refused(registry: &TestRegistry) {
    in_time("the login is refused", async {
        while registry.get("/v2/").await.status() != StatusCode::UNAUTHORIZED {}
    })
    .await;
}

#[tokio::test]
async fn forbidden_and_absent_look_alike() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    // There for others, and readable by its own login.
    image.publish(&registry.store, &image_name("other/shop.storefront", "v1")).await;
    let other = registry.store.add_credential(["other".parse().unwrap()].into()).await.unwrap();
    let layer = Digest::of(&image.layer);
    for (route, unknown) in [
        ("manifests/v1", "MANIFEST_UNKNOWN"),
        (&*format!("manifests/{}", image.digest()), "MANIFEST_UNKNOWN"),
        (&*format!("blobs/{layer}"), "BLOB_UNKNOWN"),
        ("tags/list", "NAME_UNKNOWN"),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let forbidden = registry.request(method.clone(), &format!("/v2/other/shop.storefront/{route}"));
            let password = secrecy::ExposeSecret::expose_secret(&other.password);
            let own = forbidden.try_clone().unwrap().basic_auth(&other.credential.user, Some(password));
            assert_eq!(own.send().await.unwrap().status(), StatusCode::OK, "{route}");

            let forbidden = seen(registry.send(forbidden).await).await;
            assert_eq!(forbidden.0, StatusCode::NOT_FOUND, "{route}");
            if method == Method::GET {
                assert!(forbidden.2.contains(unknown), "{}", forbidden.2);
            }
            for absent in
                ["acme/shop.storefront", "other/absent.storefront", "absent/a.b", "acme/plain", "a.b/c.d"]
            {
                let request = registry.request(method.clone(), &format!("/v2/{absent}/{route}"));
                assert_eq!(seen(registry.send(request).await).await, forbidden, "{method} {absent} {route}");
            }
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn content_is_readable_only_through_a_repository_that_links_it() {
    let registry = TestRegistry::start().await;
    let (image, neighbour) = (TestImage::saying("hello"), TestImage::saying("neighbour"));
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    neighbour.publish(&registry.store, &image_name("acme/shop.other", "v1")).await;
    let (layer, config) = (Digest::of(&image.layer), Digest::of(&image.config));
    for path in [
        format!("/v2/acme/shop.other/blobs/{layer}"),
        format!("/v2/acme/shop.other/blobs/{config}"),
        format!("/v2/acme/shop.other/manifests/{}", image.digest()),
        // A manifest is not a layer, nor a layer a manifest.
        format!("/v2/acme/shop.storefront/blobs/{}", image.digest()),
        format!("/v2/acme/shop.storefront/manifests/{layer}"),
    ] {
        assert_eq!(registry.get(&path).await.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(registry.head(&path).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    registry.stop().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let registry = TestRegistry::start().await;
    let hex = Digest::of(b"").hex();
    let (invalid, absent) = (StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND);
    for (path, status, expected) in [
        ("/v2/acme/shop.storefront/manifests/absent", absent, "MANIFEST_UNKNOWN"),
        ("/v2/acme/shop.storefront/manifests/-not-a-tag", absent, "MANIFEST_UNKNOWN"),
        ("/v2/acme/shop.storefront/manifests/..%2f..%2fversion", absent, "MANIFEST_UNKNOWN"),
        ("/v2/acme/shop.storefront/manifests/sha256:12", invalid, "DIGEST_INVALID"),
        (&format!("/v2/acme/shop.storefront/manifests/sha512:{hex}"), invalid, "DIGEST_INVALID"),
        ("/v2/acme/shop.storefront/blobs/v1", invalid, "DIGEST_INVALID"),
        (&format!("/v2/acme/shop.storefront/blobs/sha256:{}", hex.to_uppercase()), invalid, "DIGEST_INVALID"),
        (&format!("/v2/acme/shop.storefront/blobs/sha256:{hex}"), absent, "BLOB_UNKNOWN"),
        ("/v2/acme/shop.storefront/tags/list", absent, "NAME_UNKNOWN"),
        ("/v2/Acme/shop.storefront/tags/list", invalid, "NAME_INVALID"),
        ("/v2/acme/-/manifests/v1", invalid, "NAME_INVALID"),
        ("/v2/acme%2f..%2f/shop.storefront/manifests/v1", invalid, "NAME_INVALID"),
        ("/v2/acme/..%2f..%2fbuildgrid/manifests/v1", invalid, "NAME_INVALID"),
        ("/v2/acme/%ff/manifests/v1", invalid, "NAME_INVALID"),
        ("/v2/acme/manifests/v1", absent, "NAME_UNKNOWN"),
        ("/v2/a/b/c/manifests/v1", absent, "NAME_UNKNOWN"),
        ("/v2/a/b/c/d/e/blobs/x", absent, "NAME_UNKNOWN"),
        ("/v2/acme/shop.storefront/blobs/uploads/", absent, "NAME_UNKNOWN"),
        ("/v2/acme/shop.storefront/referrers/x", invalid, "DIGEST_INVALID"),
        ("/v2/_catalog/x", absent, "NAME_UNKNOWN"),
        ("/v2/x", absent, "NAME_UNKNOWN"),
    ] {
        assert_eq!(code(registry.get(path).await).await, (status, expected.to_owned()), "{path}");
        assert_eq!(registry.head(path).await.status(), status, "HEAD {path}");
    }
    let elsewhere = registry.get("/").await;
    assert_eq!(elsewhere.status(), StatusCode::NOT_FOUND);
    assert!(elsewhere.text().await.unwrap().contains("/v2/"));
    registry.stop().await;
}

#[tokio::test]
async fn nothing_can_be_written_whoever_asks() {
    let registry = TestRegistry::start().await;
    let digest = Digest::of(b"");
    let methods = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    for path in [
        "/v2/",
        "/v2/_catalog",
        "/v2/acme/shop.storefront/blobs/uploads/",
        "/v2/acme/shop.storefront/blobs/uploads/0193b2d6",
        "/v2/acme/shop.storefront/manifests/v1",
        &format!("/v2/acme/shop.storefront/blobs/{digest}"),
        "/v2/other/shop.storefront/blobs/uploads/?mount=x&from=y",
        "/v2/any/thing/else",
    ] {
        for method in &methods {
            let request = registry.request(method.clone(), path).body("content");
            let login = request.try_clone().unwrap().basic_auth(registry.user(), Some(registry.password()));
            for request in [request, login] {
                let response = request.send().await.unwrap();
                assert_eq!(response.headers()["allow"], "GET, HEAD", "{method} {path}");
                assert_eq!(response.headers().get("www-authenticate"), None);
                let refused = code(response).await;
                assert_eq!(
                    refused,
                    (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED".into()),
                    "{method} {path}"
                );
            }
        }
    }
    registry.stop().await;
}
