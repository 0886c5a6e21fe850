//! What the search finds, and what it does not find for others.

use buildgrid::web::access::{Namespaces, Role};
use reqwest::{Method, StatusCode, header};
use serde_json::json;

use super::{Service, claim, event};

const COMMIT: &str = "abcd1234abcd1234abcd1234abcd1234abcd1234";

#[tokio::test(flavor = "multi_thread")]
async fn anything_is_found_by_what_one_has_of_it() {
    let service = Service::start().await;
    let digest = format!("sha256:{}", "5f".repeat(32));
    let image = format!("registry.example.com/acme/shop.fake:{COMMIT}");
    service.published("b-77", COMMIT, &image, &digest, 98_700_000).await;
    service.claimed().await;
    let report = json!({"namespace": "acme", "app": "shop", "state": "done"});
    let put = service.maestro(Method::PUT, "/deploys/roll%20back").json(&report).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let own = service.signed_in("mara", Role::Viewer, "acme smoke".parse().unwrap()).await;
    let all = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    let other = service.signed_in("otto", Role::Admin, "globex".parse().unwrap()).await;
    let search = async |session: &str, query: &str| {
        let path: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        service.page(session, &format!("/search?q={path}")).await
    };
    let nothing = "Nothing is called so";
    let (build, app) = ("href=\"/builds/b-77\"", "href=\"/acme/shop\"");
    for (query, found) in [
        ("abcd", build),
        (" ABCD1234 ", build),
        (COMMIT, build),
        ("b-77", build),
        ("sho", app),
        ("acme/shop", app),
        ("shop-418", build),
        (&digest, build),
        ("sha256:5f5f5f5f", build),
        (&image, build),
        ("acme/shop.fake:abcd", build),
        ("shop.fake:abcd1234abcd", build),
        ("main", "href=\"/acme/shop?ref=refs%2Fheads%2Fmain\""),
        ("refs/heads/ma", "href=\"/acme/shop?ref=refs%2Fheads%2Fmain\""),
        ("roll", "href=\"/deploys/roll%20back?namespace=acme\""),
    ] {
        for session in [&own, &all] {
            let page = search(session, query).await;
            assert!(page.contains(found) && !page.contains(nothing), "{query}: {page}");
        }
        // What another namespace has is answered like what is not there.
        let hidden = search(&other, query).await;
        assert!(hidden.contains(nothing) && !hidden.contains("/builds/b-77"), "{query}: {hidden}");
    }
    for query in ["nonsense", "abc", "ffff", "%", "_", "'; --", "sha256:5f", "globex/shop"] {
        let page = search(&own, query).await;
        assert!(page.contains(nothing), "{query}: {page}");
    }
    // What is before the slash names a namespace or nothing, never all of them.
    for query in ["/shop", "/s", "X/sho", "//sho", "?/shop", "globex/shop", "acme/shop", " / shop"] {
        let page = search(&other, query).await;
        assert!(!page.contains(app), "{query}: {page}");
    }
    let app_alone = search(&own, "shop.other:abcd").await;
    assert!(app_alone.contains(app) && !app_alone.contains(build), "{app_alone}");
    let hostile = search(&own, "\"><script>alert(1)</script>\u{202e}").await;
    assert!(!hostile.contains("<script>alert") && hostile.contains("&#60;script&#62;"), "{hostile}");
    for odd in ["/search", "/search?q=", "/search?q=%00", &format!("/search?q={}", "é".repeat(2000))] {
        let page = service.nobody(Method::GET, odd).header(header::COOKIE, &own).send().await.unwrap();
        assert_eq!(page.status(), StatusCode::OK, "{odd:.40}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_hides_nothing_of_ones_own() {
    let service = Service::start().await;
    let digest = |number: usize| format!("sha256:5f5f5f5f{number:056x}");
    // Others' come first in every order: more of them than a search shows.
    for number in 0..12 {
        let (id, commit) = (format!("g-{number}"), format!("abcd{number:036x}"));
        image_of(&service, &id, ("globex", "shop"), &commit, &digest(number)).await;
    }
    let image = format!("registry.example.com/acme/shop.fake:{COMMIT}");
    service.published("b-77", COMMIT, &image, &digest(99), 98_700_000).await;
    let own = service.signed_in("mara", Role::Viewer, "acme smoke".parse().unwrap()).await;
    for query in ["abcd", "sha256:5f5f5f5f", "shop-418", "shop.fake:abcd", "acme/shop.fake:abcd"] {
        let page = service.page(&own, &format!("/search?q={query}")).await;
        assert!(page.contains("href=\"/builds/b-77\"") && !page.contains("/builds/g-"), "{query}: {page}");
    }
    service.timeline.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_found_among_all_those_of_its_commit() {
    let service = Service::start().await;
    let digest = |number: usize| format!("sha256:{number:064x}");
    image_of(&service, "b-77", ("acme", "shop"), COMMIT, &digest(77)).await;
    // Those of the repository's other apps are later, and more than a search shows.
    for number in 0..12 {
        let (id, app) = (format!("o-{number}"), format!("other-{number}"));
        image_of(&service, &id, ("acme", &app), COMMIT, &digest(number)).await;
    }
    let own = service.signed_in("mara", Role::Viewer, "acme smoke".parse().unwrap()).await;
    let all = service.signed_in("ada", Role::Admin, Namespaces::All).await;
    for query in [format!("h/acme/shop.fake:{COMMIT}"), "shop.fake:abcd".to_owned()] {
        for session in [&own, &all] {
            let page = service.page(session, &format!("/search?q={query}")).await;
            assert!(
                page.contains("href=\"/builds/b-77\"") && !page.contains("/builds/o-"),
                "{query}: {page}"
            );
        }
    }
    for other in [format!("h/acme/shop.fake:{COMMIT}-slim"), format!("h/acme/shop.web:{COMMIT}")] {
        let page = service.page(&own, &format!("/search?q={other}")).await;
        assert!(!page.contains("/builds/"), "{other}: {page}");
    }
    service.timeline.finish().await;
}

/// A build that made an image.
async fn image_of(service: &Service, id: &str, (namespace, app): (&str, &str), commit: &str, digest: &str) {
    let mut event: serde_json::Value = serde_json::from_str(&event(id, namespace, app)).unwrap();
    event["commit"] = json!(commit);
    let attempt = buildgrid::timeline::protocol::AttemptId::generate().to_string();
    let body = claim(&event.to_string(), &attempt);
    let claimed = service.worker(Method::PUT, &format!("/builds/{id}")).json(&body).send().await.unwrap();
    assert_eq!(claimed.status(), StatusCode::OK);
    let result = json!({"version": 1, "id": id, "deploy_id": "shop-418", "attempt": 1,
        "namespace": namespace, "app": app, "services": ["web"], "repository": "fake", "commit": commit,
        "state": "published", "kind": null, "reused": false, "image": format!("h/{namespace}/{app}.fake:{commit}"),
        "digest": digest, "size": 1, "reason": null, "step": null, "excerpt": [], "log_url": null,
        "worker": "worker-1", "started_at": null, "finished_at": null});
    let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let report = json!({"state": "published", "at": "2026-11-23T10:16:50.000Z", "result": result,
        "log": {"count": 0, "checksum": nothing}});
    let path = format!("/builds/{id}/attempts/{attempt}/state");
    let reported = service.worker(Method::POST, &path).json(&report).send().await.unwrap();
    assert_eq!(reported.status(), StatusCode::OK);
}
