//! The stock registry of CNCF Distribution, as Debian ships it, serves the same store read-only.

use std::process::{Child, Command, Stdio};

use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig};
use serde_json::json;

use crate::support::address::free_address;
use crate::support::image::{TestImage, image_name};
use crate::support::patience::until;
use crate::support::process::run;

/// A stock registry, killed when dropped.
struct Stock {
    child: Child,
    host: String,
}

impl Stock {
    fn start(root: &std::path::Path, directory: &std::path::Path) -> Self {
        let host = free_address().to_string();
        // YAML is a superset of JSON.
        let config = json!({
            "version": 0.1,
            "storage": {
                "filesystem": {"rootdirectory": root},
                "maintenance": {"readonly": {"enabled": true}},
            },
            "http": {"addr": host},
        });
        let file = directory.join("registry.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs docker-registry (Debian's package): {error}"));
        Self { child, host }
    }

    async fn ready(&mut self) {
        until("the stock registry listens", || {
            assert!(self.child.try_wait().unwrap().is_none(), "the stock registry has ended");
            std::net::TcpStream::connect(&self.host).is_ok()
        })
        .await;
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn the_stock_registry_serves_the_store() {
    let (root, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(&StoreConfig { path: root.path().to_owned() }).unwrap();
    let (hello, again) = (TestImage::saying("hello"), TestImage::saying("hello again"));
    let name = image_name("acme/shop.storefront", "v1");
    hello.publish(&store, &name).await;
    again.publish(&store, &image_name("acme/shop.storefront", "v2")).await;
    let mut stock = Stock::start(root.path(), directory.path());
    stock.ready().await;

    let get = async |path: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let response = client.get(format!("http://{}{path}", stock.host)).send().await.unwrap();
        response.error_for_status().unwrap().json::<serde_json::Value>().await.unwrap()
    };
    assert_eq!(get("/v2/_catalog").await, json!({"repositories": ["acme/shop.storefront"]}));
    let tags = json!({"name": "acme/shop.storefront", "tags": ["v1", "v2"]});
    assert_eq!(get("/v2/acme/shop.storefront/tags/list").await, tags);

    let by_digest = format!("@{}", again.digest());
    for (reference, image) in [(":v1", &hello), (":v2", &again), (&*by_digest, &again)] {
        let target = tempfile::tempdir_in(directory.path()).unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--src-tls-verify=false", "--src-no-creds"]);
        skopeo.arg(format!("docker://{}/acme/shop.storefront{reference}", stock.host));
        skopeo.arg(format!("dir:{}", target.path().display()));
        run(skopeo, "").await.succeeded();
        assert_eq!(std::fs::read(target.path().join("manifest.json")).unwrap(), image.manifest);
        for blob in [&image.layer, &image.config] {
            assert_eq!(std::fs::read(target.path().join(Digest::of(blob).hex())).unwrap(), *blob);
        }
    }

    // A tag that is replaced while the stock registry runs is seen by it.
    let put = buildgrid::store::TagPut::Replace { expected: Some(hello.digest()) };
    store.put_tag(&name, again.digest(), put).await.unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let response = client
        .head(format!("http://{}/v2/acme/shop.storefront/manifests/v1", stock.host))
        .header("accept", "application/vnd.oci.image.manifest.v1+json")
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["docker-content-digest"], again.digest().to_string());
}
