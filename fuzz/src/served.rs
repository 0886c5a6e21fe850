//! A store with one image, and a registry that serves it.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use buildgrid::publish::name::{ImageName, ImageRepository};
use buildgrid::registry::{Registry, RegistryConfig, router};
use buildgrid::serving::{Limits, Proxies, serve};
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig, TagPut};
use data_encoding::BASE64;
use secrecy::ExposeSecret as _;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const REPOSITORY: &str = "acme/shop.storefront";

/// What its image is made of.
pub const LAYER: &[u8] = b"the bytes of a layer, which nobody without a login sees";
pub const CONFIG: &[u8] = b"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}";

pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// Whether something panicked since it is [listened](Served::listen).
pub static PANICKED: AtomicBool = AtomicBool::new(false);

/// One for all inputs that leave nothing behind.
pub static SERVED: LazyLock<Served> = LazyLock::new(Served::new);

pub struct Served {
    pub root: TempDir,
    pub store: Store,
    pub router: Router,
    /// The value of an `Authorization` header.
    pub login: String,
}

impl Served {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
        let login = RUNTIME.block_on(async {
            let name = image();
            let parts = vec![
                store.put_blob(LAYER.to_vec()).await.unwrap(),
                store.put_blob(CONFIG.to_vec()).await.unwrap(),
            ];
            store.link_blobs(&name.repository, parts).await.unwrap();
            let manifest = store.put_manifest(&name.repository, manifest()).await.unwrap();
            store.put_tag(&name, manifest, TagPut::IfAbsent).await.unwrap();
            let made = store.add_credential([name.repository.namespace].into()).await.unwrap();
            format!("{}:{}", made.credential.user, made.password.expose_secret())
        });
        let login = format!("Basic {}", BASE64.encode(login.as_bytes()));
        let router = router(Registry::new(RegistryConfig::default(), Proxies::default(), store.clone()));
        Self { root, store, router, login }
    }

    /// Where it is served over HTTP, from now on.
    pub fn listen(&self) -> SocketAddr {
        // A panic ends its connection alone.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.store(true, Ordering::SeqCst);
            before(panic);
        }));
        let listener = RUNTIME.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            service: "registry",
            connections: 64,
            client_timeout: Duration::from_millis(200),
            drain_timeout: Duration::ZERO,
        };
        RUNTIME.spawn(serve(
            listener,
            self.router.clone(),
            None,
            Proxies::default(),
            limits,
            Default::default(),
        ));
        address
    }

    /// Whether its image is there as it was put.
    pub async fn is_whole(&self) -> bool {
        let name = image();
        let digest = Digest::of(&manifest());
        let mut is_whole = self.store.tag(&name).await.unwrap() == Some(digest);
        is_whole &= self
            .store
            .manifest(&name.repository, digest)
            .await
            .unwrap()
            .is_some_and(|bytes| bytes == manifest());
        is_whole && self.store.is_whole(&name.repository, digest).await.unwrap()
    }
}

pub fn repository() -> ImageRepository {
    REPOSITORY.parse().unwrap()
}

fn image() -> ImageName {
    ImageName { repository: repository(), tag: "v1".parse().unwrap() }
}

/// The manifest of its image.
pub fn manifest() -> Vec<u8> {
    let descriptor = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", LAYER)],
    })
    .to_string()
    .into_bytes()
}
