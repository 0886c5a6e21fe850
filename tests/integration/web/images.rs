//! The page of an image: what the store has of it, beside what builds and deploys say.

use buildgrid::web::access::{Namespaces, Role};
use reqwest::{Method, StatusCode, header};
use serde_json::json;

use super::{Service, claim, event, nowhere};
use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;
use crate::support::timeline::TestTimeline;

const COMMITS: [&str; 2] =
    ["1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"];

impl Service {
    /// A build of acme/shop that ended with this image.
    pub(super) async fn published(&self, id: &str, commit: &str, image: &str, digest: &str, size: usize) {
        let mut event: serde_json::Value = serde_json::from_str(&event(id, "acme", "shop")).unwrap();
        event["commit"] = commit.into();
        let attempt = buildgrid::timeline::protocol::AttemptId::generate().to_string();
        let claimed = claim(&event.to_string(), &attempt);
        let claimed = self.worker(Method::PUT, &format!("/builds/{id}")).json(&claimed).send().await.unwrap();
        assert_eq!(claimed.status(), StatusCode::OK);
        let result = json!({"version": 1, "id": id, "deploy_id": "shop-418", "attempt": 1, "namespace": "acme",
            "app": "shop", "services": ["web", "worker"], "repository": "fake", "commit": commit,
            "state": "published", "kind": null, "reused": false, "image": image, "digest": digest, "size": size,
            "reason": null, "step": null, "excerpt": [], "log_url": null, "worker": "worker-1",
            "started_at": "2026-11-23T10:15:02.000Z", "finished_at": "2026-11-23T10:16:50.000Z"});
        let nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let report = json!({"state": "published", "at": "2026-11-23T10:16:50.000Z", "result": result,
            "log": {"count": 0, "checksum": nothing}});
        let path = format!("/builds/{id}/attempts/{attempt}/state");
        let reported = self.worker(Method::POST, &path).json(&report).send().await.unwrap();
        assert_eq!(reported.status(), StatusCode::OK, "{}", reported.text().await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_shows_its_layers_beside_those_of_the_one_before() {
    let registry = TestRegistry::start().await;
    let mut service = Service::beside(&registry).await;
    for (number, commit) in COMMITS.iter().enumerate() {
        let image = TestImage::saying(&format!("hello {number}"));
        let name = image_name("acme/shop.fake", commit);
        let digest = image.publish(&registry.store, &name).await;
        let url = name.url(&registry.host);
        service.published(&format!("b-{number}"), commit, &url, &digest.to_string(), image.layer.len()).await;
    }
    let deploy = json!({"namespace": "acme", "app": "shop", "state": "done", "services": ["web"]});
    let put = service.maestro(Method::PUT, "/deploys/shop-418").json(&deploy).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::OK);
    let session = service.signed_in("mara", Role::Viewer, "acme".parse().unwrap()).await;
    let [first, second] = COMMITS.map(|commit| format!("/images/acme/shop.fake:{commit}"));
    let page = service.page(&session, &second).await;
    let layer = buildgrid::store::digest::Digest::of(&TestImage::saying("hello 1").layer).to_string();
    assert!(page.contains(&layer) && page.contains("linux/amd64") && page.contains("/greeting"), "{page}");
    assert!(page.contains(&format!("compared with <a href=\"{first}\">")), "{page}");
    assert!(page.contains("that is what a node with <code>1111111</code> pulls"), "{page}");
    assert!(
        page.contains("href=\"/builds/b-1\"") && page.contains("/deploys/shop-418?namespace=acme"),
        "{page}"
    );
    let page = service.page(&session, &first).await;
    assert!(page.contains("No earlier image") && !page.contains("are new"), "{page}");

    // What another namespace has is answered like what nobody has.
    let other = service.signed_in("otto", Role::Admin, "globex".parse::<Namespaces>().unwrap()).await;
    let get =
        |session: &str, path: &str| service.nobody(Method::GET, path).header(header::COOKIE, session).send();
    let (hidden, absent) =
        (get(&other, &second).await.unwrap(), get(&session, &second.replace('2', "3")).await.unwrap());
    assert_eq!((hidden.status(), absent.status()), (StatusCode::NOT_FOUND, StatusCode::NOT_FOUND));
    let (hidden, absent) = (hidden.text().await.unwrap(), absent.text().await.unwrap());
    // But for the letter of who asks.
    assert_eq!(hidden.replace(COMMITS[1], "X"), absent.replace(&COMMITS[1].replace('2', "3"), "X"));
    for nothing in
        ["/images/acme/shop.fake", "/images/acme/shop:x", "/images/acme/..%2fversion:x", "/images/acme/%ff"]
    {
        let answer = get(&session, nothing).await.unwrap();
        assert!(matches!(answer.status().as_u16(), 400 | 404), "{nothing}: {}", answer.status());
    }

    // A blob that is not what it was is not shown.
    let config = buildgrid::store::digest::Digest::of(&TestImage::saying("hello 1").config).hex();
    let blob =
        registry.root().join(format!("docker/registry/v2/blobs/sha256/{}/{config}/data", &config[..2]));
    std::fs::write(&blob, b"{}").unwrap();
    assert!(service.page(&session, &second).await.contains("cannot be read"));
    // Without the store, what the build said is what is known.
    service.timeline.stop().await;
    service.timeline.start_seeing(&registry.root().join("none")).await;
    let page = service.page(&session, &second).await;
    assert!(
        page.contains("does not see the store") && page.contains("skopeo inspect --config docker://"),
        "{page}"
    );
    assert!(page.contains("href=\"/builds/b-1\"") && !page.contains(&layer), "{page}");
    service.timeline.finish().await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_no_build_is_known_of_is_shown_out_of_the_store() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello from before");
    image.publish(&registry.store, &image_name("acme/shop.fake", COMMITS[0])).await;
    let service = Service::of(TestTimeline::beside(&registry, &nowhere()).await);
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let page = service.page(&session, &format!("/images/acme/shop.fake:{}", COMMITS[0])).await;
    assert!(page.contains("linux/amd64") && !page.contains("/builds/"), "{page}");
    assert!(page.contains(&format!("docker pull {}/acme/shop.fake:{}", registry.host, COMMITS[0])), "{page}");
    service.timeline.finish().await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn maker_and_predecessor_are_found_behind_any_number_of_builds() {
    let registry = TestRegistry::start().await;
    let service = Service::beside(&registry).await;
    for (number, commit) in COMMITS.iter().enumerate() {
        let image = TestImage::saying(&format!("hello {number}"));
        let name = image_name("acme/shop.fake", commit);
        let digest = image.publish(&registry.store, &name).await.to_string();
        let url = name.url(&registry.host);
        service.published(&format!("made-{number}"), commit, &url, &digest, 1).await;
        // Then others under another variant, of the same commit among them.
        for other in 0..55 {
            let digest = format!("sha256:{:064x}", 1000 * number + other);
            let (commit, url) = match other % 2 {
                0 => (format!("{other:040x}"), format!("{}/acme/shop.fake:{other:040x}-slim", registry.host)),
                _ => ((*commit).to_owned(), format!("{url}-slim")),
            };
            service.published(&format!("other-{number}-{other}"), &commit, &url, &digest, 1).await;
        }
    }
    let session = service.signed_in("mara", Role::Viewer, Namespaces::All).await;
    let page = service.page(&session, &format!("/images/acme/shop.fake:{}", COMMITS[1])).await;
    assert!(page.contains("href=\"/builds/made-1\"") && !page.contains("/builds/other"), "{page}");
    let first = format!("/images/acme/shop.fake:{}", COMMITS[0]);
    assert!(page.contains(&format!("compared with <a href=\"{first}\">")), "{page}");
    service.timeline.finish().await;
    registry.stop().await;
}
