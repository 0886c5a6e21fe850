//! The stock registry of CNCF Distribution, as Debian ships it, serves the same store read-only, by the configuration
//! that comes with BuildGrid.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig};
use serde_json::json;

use crate::support::address::free_address;
use crate::support::image::{TestImage, image_name};
use crate::support::patience::until;
use crate::support::process::run;
use crate::support::s3::{BUCKET, KEY, S3, SECRET};
use crate::support::tls::Authority;

/// A stock registry, killed when dropped.
struct Stock {
    child: Child,
    host: String,
}

impl Stock {
    /// With the shipped configuration, of which the values are changed that are this machine's.
    fn start(root: &Path, directory: &Path, changes: &[(&str, &str)]) -> Self {
        let host = free_address().to_string();
        let mut config = include_str!("../../../docs/stock-registry.yml").to_owned();
        let own = [("/var/lib/buildgrid/store", root.to_str().unwrap()), ("127.0.0.1:5000", &host)];
        for (from, to) in own.iter().chain(changes) {
            assert!(config.contains(from), "{from} is not in the shipped file");
            config = config.replace(from, to);
        }
        Self::run(host, &config, directory)
    }

    fn run(host: String, config: &str, directory: &Path) -> Self {
        let file = directory.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            // This version cannot do with one.
            .env_remove("AWS_CA_BUNDLE")
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
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    let stock = Stock::start(root.path(), directory.path(), &[]);
    serves(&store, root.path(), stock, directory.path()).await;
}

#[tokio::test]
async fn the_stock_registry_serves_the_same_bucket() {
    let (server, directory) = (S3::start(), tempfile::tempdir().unwrap());
    let store = Store::open(&server.store()).unwrap();
    let host = free_address().to_string();
    // YAML is a superset of JSON.
    let config = json!({
        "version": 0.1,
        "storage": {
            "s3": {
                "bucket": BUCKET, "rootdirectory": "/grid",
                "region": "eu-central-1", "regionendpoint": format!("http://{}", server.address),
                "accesskey": KEY, "secretkey": SECRET,
            },
            "redirect": {"disable": true},
            "maintenance": {"readonly": {"enabled": true}},
        },
        "http": {"addr": host},
    });
    let stock = Stock::run(host, &config.to_string(), directory.path());
    serves(&store, server.files(), stock, directory.path()).await;
}

async fn serves(store: &Store, root: &Path, mut stock: Stock, directory: &Path) {
    let (hello, again) = (TestImage::saying("hello"), TestImage::saying("hello again"));
    let name = image_name("acme/shop.storefront", "v1");
    hello.publish(store, &name).await;
    again.publish(store, &image_name("acme/shop.storefront", "v2")).await;
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
        let target = tempfile::tempdir_in(directory).unwrap();
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

    // It changes nothing, and says so.
    let before = files(root);
    let pushed = client.post(format!("http://{}/v2/acme/shop.storefront/blobs/uploads/", stock.host)).send();
    assert_eq!(pushed.await.unwrap().status(), 405);
    let deleted = format!("http://{}/v2/acme/shop.storefront/manifests/{}", stock.host, again.digest());
    assert_eq!(client.delete(deleted).send().await.unwrap().status(), 405);
    assert_eq!(files(root), before);
}

#[tokio::test]
async fn the_stock_registry_has_logins_for_all_or_nothing_and_tls() {
    let (root, directory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    TestImage::saying("hello").publish(&store, &image_name("acme/shop.storefront", "v1")).await;
    let authority = Authority::new();
    let tls = authority.issue(&["127.0.0.1"]).written_to(directory.path());
    let logins = directory.path().join("htpasswd");
    // As `htpasswd -nbB anna secret` writes it.
    std::fs::write(&logins, "anna:$2y$04$udYb5ZGmgsqBpmrt2fuNMODFfwkV7ENxsSotHGT9WZ9yYtTHpNwcG\n").unwrap();
    // What stands in comments.
    let changes = [
        ("/etc/buildgrid/tls/registry.crt", tls.certificate.to_str().unwrap()),
        ("/etc/buildgrid/tls/registry.key", tls.key.to_str().unwrap()),
        ("path: /etc/buildgrid/stock.htpasswd", &format!("path: {}", logins.display())),
        ("\n  #tls", "\n  tls"),
        ("\n  #  ", "\n    "),
        ("\n#auth", "\nauth"),
        ("\n#  htpasswd", "\n  htpasswd"),
        ("\n#    ", "\n    "),
    ];
    let mut stock = Stock::start(root.path(), directory.path(), &changes);
    stock.ready().await;
    let trusted = reqwest::Certificate::from_pem(&std::fs::read(authority.certificate()).unwrap()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_merge([trusted]).build().unwrap();
    let get = || client.get(format!("https://{}/v2/acme/shop.storefront/tags/list", stock.host));
    assert_eq!(get().send().await.unwrap().status(), 401);
    assert_eq!(get().basic_auth("anna", Some("wrong")).send().await.unwrap().status(), 401);
    let answer = get().basic_auth("anna", Some("secret")).send().await.unwrap();
    assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["tags"], json!(["v1"]));
}

/// All files with what is in them.
fn files(root: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = crate::support::grid::files(root);
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}
