//! Namespaces whose images everybody may pull: what is read without a login, and that logins count all the same.

use buildgrid::registry::RegistryConfig;
use buildgrid::store::NewCredential;
use buildgrid::store::digest::Digest;
use data_encoding::BASE64;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::support::image::{TestImage, image_name};
use crate::support::registry::{TestRegistry, logins_are_read_again};

const REPOSITORY: &str = "acme/shop.storefront";
const PRIVATE: &str = "other/vault.secrets";

/// An image of a public namespace, and one of another with a login.
async fn with_images() -> (TestRegistry, TestImage, NewCredential) {
    let registry = TestRegistry::public().await;
    let image = TestImage::saying("hello");
    for repository in [REPOSITORY, PRIVATE] {
        image.publish(&registry.store, &image_name(repository, "v1")).await;
    }
    let other = registry.store.add_credential(["other".parse().unwrap()].into()).await.unwrap();
    (registry, image, other)
}

fn with_login(request: RequestBuilder, login: &NewCredential) -> RequestBuilder {
    request.basic_auth(&login.credential.user, Some(login.password.expose_secret()))
}

async fn seen(request: RequestBuilder) -> (StatusCode, Option<String>, String) {
    let response = request.send().await.unwrap();
    let challenge = response.headers().get("www-authenticate");
    let challenge = challenge.map(|challenge| challenge.to_str().unwrap().to_owned());
    (response.status(), challenge, response.text().await.unwrap())
}

async fn token(response: Response) -> String {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["token"], body["access_token"]);
    // Docker takes less for a minute (distribution, `minimumTokenLifetimeSeconds`).
    assert!(body["expires_in"].as_u64().unwrap() >= 60);
    body["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn public_images_need_no_login_and_all_else_does() {
    let (registry, image, _) = with_images().await;
    let (layer, digest) = (Digest::of(&image.layer), image.digest());
    let challenge = Some(format!("Bearer realm=\"http://{0}/v2/_token\",service=\"{0}\"", registry.host));
    for (path, status) in [
        (format!("/v2/{REPOSITORY}/manifests/v1"), 200),
        (format!("/v2/{REPOSITORY}/manifests/{digest}"), 200),
        (format!("/v2/{REPOSITORY}/blobs/{layer}"), 200),
        (format!("/v2/{REPOSITORY}/tags/list"), 200),
        (format!("/v2/{REPOSITORY}/referrers/{digest}"), 200),
        (format!("/v2/{REPOSITORY}/manifests/v2"), 404),
        ("/v2/acme/absent.x/tags/list".to_owned(), 404),
        ("/v2/acme/..%2fother/manifests/v1".to_owned(), 400),
        ("/v2/".to_owned(), 401),
        ("/v2".to_owned(), 401),
        ("/v2/_catalog".to_owned(), 401),
        (format!("/v2/{PRIVATE}/manifests/v1"), 401),
        (format!("/v2/{PRIVATE}/blobs/{layer}"), 401),
        ("/v2/other/absent.x/manifests/v1".to_owned(), 401),
        ("/v2/absent/absent.x/manifests/v1".to_owned(), 401),
        ("/v2/acme-b/absent.x/manifests/v1".to_owned(), 401),
        ("/v2/anything".to_owned(), 401),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let request = registry.request(method.clone(), &path);
            let anonymous = request.try_clone().unwrap().bearer_auth("anonymous");
            let answer = seen(request.try_clone().unwrap()).await;
            assert_eq!(answer.0, status, "{method} {path}");
            assert_eq!(answer.1, challenge.clone().filter(|_| status == 401), "{method} {path}");
            assert_eq!(seen(anonymous).await, answer, "{method} {path} with a token");

            // What is wrong is refused, also where nothing would have been needed. (Not with each method: who is
            // wrong too often is told to wait.)
            if method == Method::HEAD {
                continue;
            }
            for wrong in [
                request.try_clone().unwrap().basic_auth(registry.user(), Some("wrong")),
                request.try_clone().unwrap().basic_auth("acme-unknown", Some(registry.password())),
                request.try_clone().unwrap().basic_auth("", Some("")),
                request.try_clone().unwrap().bearer_auth("Anonymous"),
                request.try_clone().unwrap().bearer_auth(BASE64.encode(b"anonymous")),
                request.try_clone().unwrap().header("authorization", "Negotiate YTpi"),
                request.try_clone().unwrap().header("authorization", ""),
            ] {
                assert_eq!(seen(wrong).await.0, StatusCode::UNAUTHORIZED, "{method} {path}");
            }
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn a_token_is_as_good_as_its_login_and_no_longer() {
    let (registry, image, other) = with_images().await;
    let ask =
        || registry.request(Method::GET, "/v2/_token?service=x&scope=repository:other/vault.secrets:pull");
    let anonymous = token(ask().send().await.unwrap()).await;
    let own = token(with_login(ask(), &other).send().await.unwrap()).await;
    let get = |path: &str| registry.request(Method::GET, path);
    let private = format!("/v2/{PRIVATE}/manifests/v1");
    for (token, path, status) in [
        (&anonymous, "/v2/", 401),
        (&anonymous, &*private, 401),
        (&anonymous, &format!("/v2/{REPOSITORY}/manifests/v1"), 200),
        (&own, "/v2/", 200),
        (&own, &*private, 200),
        (&own, &format!("/v2/{REPOSITORY}/manifests/v1"), 200),
        (&own, "/v2/absent/x.y/manifests/v1", 404),
    ] {
        assert_eq!(seen(get(path).bearer_auth(token)).await.0, status, "{path} {token}");
    }
    assert_eq!(token_of_wrong(&registry, &other).await, StatusCode::UNAUTHORIZED);
    // Clients that try the other way first, OAuth's, go on with this one (containerd, BuildKit).
    let posted =
        registry.request(Method::POST, "/v2/_token").body("grant_type=password").send().await.unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);

    // A login reads what is its own and what is public, and lists both.
    let catalog = seen(with_login(get("/v2/_catalog"), &other)).await.2;
    let both: Value = serde_json::from_str(&catalog).unwrap();
    assert_eq!(both, json!({"repositories": [REPOSITORY, PRIVATE]}));
    let public = with_login(get(&format!("/v2/{REPOSITORY}/manifests/v1")), &other);
    assert_eq!(public.send().await.unwrap().bytes().await.unwrap(), image.manifest);

    registry.store.remove_credential(&other.credential.user).await.unwrap();
    logins_are_read_again().await;
    assert_eq!(seen(get(&private).bearer_auth(&own)).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(seen(with_login(ask(), &other)).await.0, StatusCode::UNAUTHORIZED);
    registry.stop().await;
}

async fn token_of_wrong(registry: &TestRegistry, login: &NewCredential) -> StatusCode {
    let request =
        registry.request(Method::GET, "/v2/_token").basic_auth(&login.credential.user, Some("wrong"));
    request.send().await.unwrap().status()
}

/// Without a public namespace nobody is anybody.
#[tokio::test]
async fn where_nothing_is_public_no_token_stands_for_nobody() {
    let registry = TestRegistry::start_with(RegistryConfig::default()).await;
    TestImage::saying("hello").publish(&registry.store, &image_name(REPOSITORY, "v1")).await;
    for path in ["/v2/", "/v2/_token", &format!("/v2/{REPOSITORY}/manifests/v1")] {
        for request in [
            registry.request(Method::GET, path),
            registry.request(Method::GET, path).bearer_auth("anonymous"),
        ] {
            let (status, challenge, _) = seen(request).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert_eq!(challenge.as_deref(), Some("Basic realm=\"BuildGrid registry\""));
        }
        assert_eq!(registry.get(path).await.status(), StatusCode::OK, "{path}");
    }
    registry.stop().await;
}
