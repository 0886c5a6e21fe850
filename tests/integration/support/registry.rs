//! A registry in this process, on a free port, with a store and logins of its own.

use std::path::Path;
use std::time::Duration;

use buildgrid::registry::{Registry, RegistryConfig, serve};
use buildgrid::serving::tls::Tls;
use buildgrid::serving::{Proxies, ServerConfig};
use buildgrid::store::{NewCredential, Store, StoreConfig};
use reqwest::{Method, RequestBuilder, Response};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct TestRegistry {
    pub store: Store,
    /// `127.0.0.1:<port>`.
    pub host: String,
    /// A login for the namespace `acme`.
    pub acme: NewCredential,
    root: TempDir,
    shutdown: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

/// Waits for as long as a registry goes by a login that it has read.
pub async fn logins_are_read_again() {
    tokio::time::sleep(Duration::from_secs(1)).await;
}

impl TestRegistry {
    pub async fn start() -> Self {
        Self::start_with(RegistryConfig::default()).await
    }

    pub async fn start_with(config: RegistryConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = StoreConfig::at(root.path());
        Self::start_of(config, &place, root).await
    }

    /// One that trusts these proxies.
    pub async fn behind(proxies: &[&str], config: RegistryConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let place = StoreConfig::at(root.path());
        let store = Store::open(&place).unwrap();
        let acme = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
        let trusted_proxies = proxies.iter().map(|proxy| (*proxy).to_owned()).collect();
        let proxies = Proxies::new(&ServerConfig { trusted_proxies });
        Self::serving(&place, root, store, acme, config, proxies).await
    }

    /// One of a store that is elsewhere.
    pub async fn start_at(config: RegistryConfig, place: &StoreConfig) -> Self {
        Self::start_of(config, place, tempfile::tempdir().unwrap()).await
    }

    async fn start_of(config: RegistryConfig, place: &StoreConfig, root: TempDir) -> Self {
        let store = Store::open(place).unwrap();
        let acme = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
        Self::serving(place, root, store, acme, config, Proxies::default()).await
    }

    /// One of a store that is there, with a login of it.
    pub async fn of(root: TempDir, store: Store, acme: NewCredential, config: RegistryConfig) -> Self {
        let place = StoreConfig::at(root.path());
        Self::serving(&place, root, store, acme, config, Proxies::default()).await
    }

    async fn serving(
        place: &StoreConfig,
        root: TempDir,
        store: Store,
        acme: NewCredential,
        mut config: RegistryConfig,
        proxies: Proxies,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        config.host.clone_from(&host);
        let shutdown = CancellationToken::new();
        let tls = Tls::configured("registry", config.tls.as_ref(), &host).await.unwrap();
        let read = Store::open_read_only(place).unwrap();
        let registry = Registry::new(config, proxies, read).with_tls(tls);
        let server = tokio::spawn(serve(listener, registry, shutdown.clone()));
        Self { store, host, acme, root, shutdown, server }
    }

    /// One in which the images of `acme` are everybody's.
    pub async fn public() -> Self {
        let public_namespaces = ["acme".parse().unwrap()].into();
        Self::start_with(RegistryConfig { public_namespaces, ..RegistryConfig::default() }).await
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn user(&self) -> &str {
        self.acme.credential.user.as_str()
    }

    pub fn password(&self) -> &str {
        self.acme.password.expose_secret()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
        client.request(method, format!("http://{}{path}", self.host))
    }

    /// GET with the login for `acme`.
    pub async fn get(&self, path: &str) -> Response {
        self.send(self.request(Method::GET, path)).await
    }

    /// HEAD with the login for `acme`.
    pub async fn head(&self, path: &str) -> Response {
        self.send(self.request(Method::HEAD, path)).await
    }

    /// Sends a request with the login for `acme`.
    pub async fn send(&self, request: RequestBuilder) -> Response {
        request.basic_auth(self.user(), Some(self.password())).send().await.unwrap()
    }

    pub fn tell_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Stops the server, which must end well.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap().unwrap();
    }
}
