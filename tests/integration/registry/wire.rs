//! Refusals, and what changes nothing, in requests that no client library would send.

use buildgrid::store::digest::Digest;
use data_encoding::BASE64;

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;
use crate::support::wire::Answer;

const REPOSITORY: &str = "acme/shop.storefront";

async fn with_image() -> (TestRegistry, TestImage) {
    let registry = TestRegistry::start().await;
    let image = put_image(&registry).await;
    (registry, image)
}

async fn put_image(registry: &TestRegistry) -> TestImage {
    let image = TestImage::saying("hello");
    for tag in ["v1", "v2"] {
        image.publish(&registry.store, &image_name(REPOSITORY, tag)).await;
    }
    image
}

fn login(registry: &TestRegistry) -> String {
    let login = BASE64.encode(format!("{}:{}", registry.user(), registry.password()).as_bytes());
    format!("authorization: Basic {login}\r\n")
}

/// GET of `target`, written as it is, with more header lines, each with its line end.
async fn get(registry: &TestRegistry, target: &str, lines: &str) -> Answer {
    let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n");
    Answer::to(&registry.host, request.as_bytes()).await
}

#[tokio::test]
async fn of_two_logins_none_is_chosen() {
    let registry = TestRegistry::start().await;
    let right = login(&registry);
    let wrong = "authorization: Basic YTpi\r\n";
    for lines in [format!("{right}{wrong}"), format!("{wrong}{right}"), format!("{right}{right}")] {
        let answer = get(&registry, "/v2/", &lines).await;
        assert_eq!((answer.status, &*answer.code()), (400, "UNSUPPORTED"));
        assert_eq!(answer.header("www-authenticate"), None);
    }
    assert_eq!(get(&registry, "/v2/", &right).await.status, 200);
    registry.stop().await;
}

#[tokio::test]
async fn a_long_head_is_refused_before_its_login_is_looked_at() {
    let registry = TestRegistry::start().await;
    let right = login(&registry);
    let padding = |length: usize| format!("{right}x-padding: {}\r\n", "x".repeat(length));
    assert_eq!(get(&registry, "/v2/", &padding(16 << 10)).await.status, 200);
    let refused = get(&registry, "/v2/", &padding(64 << 10)).await;
    assert_eq!((refused.status, &*refused.code()), (431, "UNSUPPORTED"));
    let refused = get(&registry, &format!("/v2/?{}", "x".repeat(40 << 10)), &right).await;
    assert_eq!((refused.status, &*refused.code()), (431, "UNSUPPORTED"));
    // What is longer still is not read to its end.
    for length in [64 << 10, 1 << 20] {
        let password = BASE64.encode(format!("{}:{}", registry.user(), "x".repeat(length)).as_bytes());
        let refused = get(&registry, "/v2/", &format!("authorization: Basic {password}\r\n")).await;
        assert_eq!(refused.status, 431, "{length}");
    }
    // Short enough to be read, and longer than any password is.
    let password = BASE64.encode(format!("{}:{}", registry.user(), "x".repeat(8 << 10)).as_bytes());
    let refused = get(&registry, "/v2/", &format!("authorization: Basic {password}\r\n")).await;
    assert_eq!((refused.status, &*refused.code()), (401, "UNAUTHORIZED"));
    assert_eq!(get(&registry, "/v2/", &right).await.status, 200);
    registry.stop().await;
}

#[tokio::test]
async fn a_spoofed_host_changes_nothing() {
    spoof(TestRegistry::start().await, 401).await;
}

/// Where clients are told the address to fetch a token from, which would get their logins.
#[tokio::test]
async fn a_spoofed_host_leads_no_login_elsewhere() {
    let registry = TestRegistry::public().await;
    let challenge = format!("Bearer realm=\"http://{0}/v2/_token\",service=\"{0}\"", registry.host);
    let request = b"GET /v2/ HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert_eq!(Answer::to(&registry.host, request).await.header("www-authenticate"), Some(&*challenge));
    spoof(registry, 200).await;
}

/// Whatever a request says of the host, no answer has it in it. `anonymous` is the status of a pull without a login.
async fn spoof(registry: TestRegistry, anonymous: u16) {
    let image = put_image(&registry).await;
    let (right, none) = (login(&registry), String::new());
    for (path, login, status) in [
        ("/v2/", &right, 200),
        ("/v2/", &none, 401),
        ("/v2/_catalog?n=1", &right, 200),
        (&*format!("/v2/{REPOSITORY}/tags/list?n=1"), &right, 200),
        (&*format!("/v2/{REPOSITORY}/manifests/v1"), &right, 200),
        (&*format!("/v2/{REPOSITORY}/manifests/v1"), &none, anonymous),
        ("/v2/_token", &right, 200),
        (&*format!("/v2/{REPOSITORY}/blobs/{}", Digest::of(&image.layer)), &right, 200),
        ("/v2/other/shop.storefront/tags/list", &right, 404),
    ] {
        let ask = async |target: &str, host: &str, lines: &str| {
            let request =
                format!("GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{login}{lines}\r\n");
            Answer::to(&registry.host, request.as_bytes()).await
        };
        let plain = ask(path, &registry.host, "").await;
        assert_eq!(plain.status, status, "{path}");
        if path.ends_with("tags/list?n=1") {
            let next = format!("</v2/{REPOSITORY}/tags/list?n=1&last=v1>; rel=\"next\"");
            assert_eq!(plain.header("link"), Some(&*next));
        }
        let absolute = format!("http://evil.example{path}");
        let forwarded = "x-forwarded-host: evil.example\r\nx-forwarded-proto: https\r\nx-forwarded-port: 1\r\n\
                         x-forwarded-prefix: /evil\r\nforwarded: host=evil.example;proto=https\r\n\
                         x-original-url: /v2/other/x.y/tags/list\r\nx-http-method-override: DELETE\r\n";
        for (target, host, lines) in [
            (path, "evil.example", ""),
            (path, "evil.example:1", forwarded),
            (path, "", ""),
            (&*absolute, "evil.example", ""),
            (&*absolute, "x", forwarded),
            (&*absolute.replace("http:", "https:"), "x", ""),
        ] {
            assert_eq!(ask(target, host, lines).await, plain, "{target} {host} {lines}");
        }
    }
    registry.stop().await;
}

#[tokio::test]
async fn no_spelling_of_a_name_leads_elsewhere() {
    let (registry, _) = with_image().await;
    let login = login(&registry);
    for name in [
        "acme/%2e%2e",
        "%2e%2e/shop.storefront",
        "acme/%2E%2E%2Fother",
        "acme%2Fshop.storefront/x",
        "acme/..%2f..",
        "acme/%252e%252e",
        "acme%252fshop/x",
        "acme/shop.storefront%00",
        "%00/%00",
        "acme/%ff%fe",
        "acme/%c0%ae%c0%ae",
        "acme/shop%2estorefront%2f",
        "acme/.",
        "acme/%5c..%5c..",
        "acme/shop.storefront%0a",
        "acme/%20",
        "ACME/x.y",
    ] {
        for route in ["manifests/v1", "tags/list", &format!("blobs/{}", Digest::of(b""))] {
            let answer = get(&registry, &format!("/v2/{name}/{route}"), &login).await;
            assert_eq!((answer.status, &*answer.code()), (400, "NAME_INVALID"), "{name} {route}");
        }
    }
    // Dots that stand in the path as they are make it another one, which is no route.
    for path in ["/v2/acme/../other/x.y/manifests/v1", "/v2/../v2/_catalog", "/v2/./_catalog"] {
        let answer = get(&registry, path, &login).await;
        assert_eq!((answer.status, &*answer.code()), (404, "NAME_UNKNOWN"), "{path}");
    }
    // Of one that is spelled in another way, but is the same, the answer is the same.
    let plain = get(&registry, &format!("/v2/{REPOSITORY}/manifests/v1"), &login).await;
    assert_eq!(get(&registry, "/v2/%61cme/shop%2estorefront/manifests/%761", &login).await, plain);
    registry.stop().await;
}

#[tokio::test]
async fn a_digest_is_one_or_refused() {
    let registry = TestRegistry::start().await;
    let login = login(&registry);
    let hex = Digest::of(b"").hex();
    for digest in [
        "sha256:",
        "sha256:..",
        "sha256:%2e%2e%2f",
        &*format!("sha256:{hex}0"),
        &*format!("sha256:{hex}%00"),
        &*format!("sha256:{}", &hex[1..]),
        &*format!("SHA256:{hex}"),
        &*format!("sha256%3a{hex}%0a"),
        &*format!("sha256:{hex}:x"),
        &*format!("sha512:{hex}{hex}"),
        &*format!("sha256:{}", hex.to_uppercase()),
        &*format!("%20sha256:{hex}"),
        ":",
        "sha256:%f0%9f%90%b3",
    ] {
        for route in ["manifests", "blobs"] {
            let answer = get(&registry, &format!("/v2/{REPOSITORY}/{route}/{digest}"), &login).await;
            assert_eq!((answer.status, &*answer.code()), (400, "DIGEST_INVALID"), "{route} {digest}");
        }
    }
    registry.stop().await;
}
