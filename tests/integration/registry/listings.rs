//! Tags and repositories, in pages, as far as a login may see them.

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};

use crate::support::image::{TestImage, image_name};
use crate::support::registry::TestRegistry;

fn link(response: &Response) -> Option<String> {
    response.headers().get("link").map(|value| value.to_str().unwrap().to_owned())
}

async fn json_of(response: Response) -> Value {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/json");
    response.json().await.unwrap()
}

/// All entries of a listing, page by page, as a client follows the links.
async fn follow(registry: &TestRegistry, first: &str, field: &str) -> Vec<Vec<String>> {
    let (mut pages, mut next) = (Vec::new(), Some(first.to_owned()));
    while let Some(path) = next.take() {
        let response = registry.get(&path).await;
        let link = link(&response);
        next = link.map(|link| {
            let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
            path.unwrap().to_owned()
        });
        pages.push(serde_json::from_value(json_of(response).await[field].clone()).unwrap());
    }
    pages
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let registry = TestRegistry::start().await;
    let image = TestImage::saying("hello");
    for tag in ["v2", "v1", "V3", "v10"] {
        image.publish(&registry.store, &image_name("acme/shop.storefront", tag)).await;
    }
    let path = "/v2/acme/shop.storefront/tags/list";
    let response = registry.get(path).await;
    assert_eq!(link(&response), None);
    let all = json!({"name": "acme/shop.storefront", "tags": ["V3", "v1", "v10", "v2"]});
    assert_eq!(json_of(response).await, all);
    assert_eq!(registry.head(path).await.status(), StatusCode::OK);

    let pages = follow(&registry, &format!("{path}?n=3"), "tags").await;
    assert_eq!(pages, [vec!["V3", "v1", "v10"], vec!["v2"]]);
    for (query, tags) in [("?last=v1", json!(["v10", "v2"])), ("?last=w", json!([])), ("?n=0", json!([]))] {
        assert_eq!(json_of(registry.get(&format!("{path}{query}")).await).await["tags"], tags, "{query}");
    }
    // More than a page has, as clients ask that want all.
    for n in ["1000", "10000", "100000"] {
        let response = registry.get(&format!("{path}?n={n}")).await;
        assert_eq!(link(&response), None);
        assert_eq!(json_of(response).await, all, "{n}");
    }
    let response = registry.get(&format!("{path}?n=0")).await;
    assert_eq!(link(&response), None);
    for query in
        ["?n=-1", "?n=x", "?n=", "?n=100001", "?n=1000000000", "?n=99999999999999999999999", "?n=1&n=2"]
    {
        let response = registry.get(&format!("{path}{query}")).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let body = response.json::<Value>().await.unwrap();
        assert_eq!(body["errors"][0]["code"], "PAGINATION_NUMBER_INVALID");
    }
    registry.stop().await;
}

#[tokio::test]
async fn the_catalog_is_that_of_the_login() {
    let registry = TestRegistry::start().await;
    assert_eq!(json_of(registry.get("/v2/_catalog").await).await, json!({"repositories": []}));
    for repository in ["acme/shop.storefront", "acme-b/x.y", "other/secret.thing", "acme/a.b"] {
        TestImage::saying("hello").publish(&registry.store, &image_name(repository, "v1")).await;
    }
    let all = json!({"repositories": ["acme/a.b", "acme/shop.storefront"]});
    assert_eq!(json_of(registry.get("/v2/_catalog").await).await, all);
    let pages = follow(&registry, "/v2/_catalog?n=1", "repositories").await;
    assert_eq!(pages, [["acme/a.b"], ["acme/shop.storefront"]]);
    registry.stop().await;
}

#[tokio::test]
async fn the_catalog_of_several_namespaces_is_sorted_as_a_whole() {
    let mut registry = TestRegistry::start().await;
    let namespaces = ["acme", "acme-b"].map(|name| name.parse().unwrap());
    registry.acme = registry.store.add_credential(namespaces.into()).await.unwrap();
    for repository in ["acme/shop.storefront", "acme-b/x.y", "other/secret.thing"] {
        TestImage::saying("hello").publish(&registry.store, &image_name(repository, "v1")).await;
    }
    let pages = follow(&registry, "/v2/_catalog?n=1", "repositories").await;
    assert_eq!(pages, [["acme-b/x.y"], ["acme/shop.storefront"]]);
    registry.stop().await;
}
