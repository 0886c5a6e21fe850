//! The real timeline service in this process, on a port and a database of its own; it can be stopped, can
//! lose its data, and comes back at the same address with the same tokens.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buildgrid::config::Config;
use buildgrid::network::NetworkConfig;
use buildgrid::queue::QueueConfig;
use buildgrid::registry::RegistryConfig;
use buildgrid::serving::tls::{Tls, TlsConfig};
use buildgrid::store::{Store, StoreConfig};
use buildgrid::timeline::TimelineConfig;
use buildgrid::timeline::client::TimelineClient;
use buildgrid::timeline::protocol::BuildDetail;
use buildgrid::web::access::{Namespaces, PasswordHash, Principal, Role, Secret};
use buildgrid::web::db::Database;
use buildgrid::web::policy::PolicyConfig;
use buildgrid::web::{Enqueuer, Timeline, serve};
use reqwest::{Method, RequestBuilder, Response};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::address::free_address;
use super::patience::in_time;
use super::registry::TestRegistry;
use super::tls::Authority;

/// The logins that it has, for all namespaces but the last one's.
const TOKENS: [(&str, Role, &str); 5] = [
    ("worker", Role::Worker, "*"),
    ("maestro", Role::Maestro, "*"),
    ("viewer", Role::Viewer, "*"),
    ("member", Role::Member, "*"),
    ("maestro-of-acme", Role::Maestro, "acme"),
];

pub struct TestTimeline {
    pub address: SocketAddr,
    folder: TempDir,
    queue: QueueConfig,
    policy: PolicyConfig,
    /// What it sees of the store, and under which name its registry is reached.
    store: StoreConfig,
    registry: RegistryConfig,
    /// What it speaks TLS with, and whom its clients trust.
    tls: Option<(TlsConfig, PathBuf)>,
    tokens: Vec<(Principal, Secret)>,
    running: Option<Running>,
}

struct Running {
    stop: CancellationToken,
    service: JoinHandle<anyhow::Result<()>>,
    database: Database,
}

impl TestTimeline {
    /// Running; what is enqueued over HTTP goes onto the broker of `queue`.
    pub async fn start(queue: &QueueConfig) -> Self {
        let mut timeline = Self::away(queue);
        timeline.start_again().await;
        timeline
    }

    /// As [`start`](Self::start), keeping a policy: the section `policy` of a configuration, as text.
    pub async fn keeping(policy: &str, queue: &QueueConfig) -> Self {
        let config = Config::parse("policy", &format!("[policy]\n{policy}\n"), []).unwrap();
        let mut timeline = Self { policy: config.policy, ..Self::away(queue) };
        timeline.start_again().await;
        timeline
    }

    /// As [`start`](Self::start), seeing the store of a registry.
    pub async fn beside(registry: &TestRegistry, queue: &QueueConfig) -> Self {
        let host = RegistryConfig { host: registry.host.clone(), ..RegistryConfig::default() };
        let mut timeline = Self { registry: host, ..Self::away(queue) };
        timeline.start_seeing(registry.root()).await;
        timeline
    }

    /// As [`start`](Self::start), with a certificate of this authority.
    pub async fn by_tls(authority: &Authority, queue: &QueueConfig) -> Self {
        let mut timeline = Self::away(queue);
        let tls = authority.issue(&["127.0.0.1"]).written_to(timeline.folder.path());
        timeline.tls = Some((tls, authority.certificate()));
        timeline.start_again().await;
        timeline
    }

    /// Starts it where it was, seeing a store.
    pub async fn start_seeing(&mut self, store: &Path) {
        self.store = StoreConfig::at(store.to_owned());
        self.start_again().await;
    }

    /// With an address, at which nobody answers yet.
    pub fn away(queue: &QueueConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = |(name, role, namespaces): (&str, Role, &str)| {
            let namespaces = namespaces.parse::<Namespaces>().unwrap();
            (Principal { name: name.to_owned(), role, namespaces }, Secret::token())
        };
        let tokens: Vec<_> = TOKENS.into_iter().map(token).collect();
        for (principal, secret) in &tokens {
            std::fs::write(folder.path().join(&principal.name), secret.expose()).unwrap();
        }
        Self {
            address: free_address(),
            queue: queue.clone(),
            policy: PolicyConfig::default(),
            store: StoreConfig::at(folder.path().join("store")),
            registry: RegistryConfig::default(),
            tls: None,
            folder,
            tokens,
            running: None,
        }
    }

    /// Starts it where it was, with the data that it had.
    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let tls = self.tls.as_ref().map(|(tls, _)| tls.clone());
        let timeline = TimelineConfig { url: self.url(), tls, ..TimelineConfig::default() };
        let tls = Tls::configured("timeline", timeline.tls.as_ref(), &timeline.host()).await.unwrap();
        let (policy, store, registry) = (self.policy.clone(), self.store.clone(), self.registry.clone());
        let config = Config { timeline, policy, store, registry, ..Config::default() };
        let database = Database::open(&self.data()).await.unwrap();
        let known = database.tokens().await.unwrap();
        for (principal, secret) in self.tokens.iter().filter(|_| known.is_empty()) {
            database.add_token(principal.clone(), secret, OffsetDateTime::now_utc()).await.unwrap();
        }
        let (stop, queue) = (CancellationToken::new(), Enqueuer::on_demand(self.queue.clone()));
        let store = Store::open_read_only(&config.store).ok();
        let timeline = Timeline::new(&config, database.clone(), queue, store, stop.clone());
        let timeline = timeline.await.unwrap().with_tls(tls);
        let service = tokio::spawn(serve(listener, Arc::new(timeline)));
        self.running = Some(Running { stop, service, database });
    }

    /// Stops it, which it must do well; does nothing while it is away.
    pub async fn stop(&mut self) {
        if let Some(Running { stop, service, .. }) = self.running.take() {
            stop.cancel();
            in_time("the timeline ends", service).await.unwrap().unwrap();
        }
    }

    /// Stops it, for good.
    pub async fn finish(mut self) {
        self.stop().await;
    }

    /// The database of the running service.
    pub fn database(&self) -> &Database {
        &self.running.as_ref().expect("the service runs").database
    }

    /// Adds a user; answers the password.
    pub async fn add_user(&self, name: &str, role: Role, namespaces: Namespaces) -> String {
        let password = "correct horse battery".to_owned();
        let hash = PasswordHash::make(&password.clone().into()).unwrap();
        let user = Principal { name: name.to_owned(), role, namespaces };
        assert!(self.database().add_user(user, hash, OffsetDateTime::now_utc()).await.unwrap());
        password
    }

    /// Loses all that it had, while it is stopped.
    pub fn lose_its_data(&self) {
        assert!(self.running.is_none());
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    fn scheme(&self) -> &str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The file with the token of a login.
    pub fn token_file(&self, login: &str) -> PathBuf {
        self.folder.path().join(login)
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// How a program with the token of a login reaches the service at `host`.
    pub fn config_at(&self, host: &str, login: &str) -> TimelineConfig {
        let (url, token_file) = (format!("{}://{host}", self.scheme()), Some(self.token_file(login)));
        let ca_file = self.tls.as_ref().map(|(_, authority)| authority.clone());
        let network = NetworkConfig { ca_file, ..NetworkConfig::default() };
        TimelineConfig { url, token_file, network, ..TimelineConfig::default() }
    }

    pub fn client(&self, login: &str) -> TimelineClient {
        let config = self.config_at(&self.address.to_string(), login);
        TimelineClient::new(&config).unwrap().unwrap()
    }

    /// A request below `/api/v1`, with the token of Maestro.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.request_of("maestro", method, path)
    }

    /// A request below `/api/v1`, with the token of this login.
    pub fn request_of(&self, login: &str, method: Method, path: &str) -> RequestBuilder {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let token = std::fs::read_to_string(self.token_file(login)).unwrap();
        client.request(method, format!("{}/api/v1/{path}", self.url())).bearer_auth(token)
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> Response {
        in_time("an answer", self.request(Method::POST, path).body(body).send()).await.unwrap()
    }

    /// A build, once it is known.
    pub async fn build(&self, id: &str) -> Option<BuildDetail> {
        let get = self.request(Method::GET, &format!("builds/{id}")).send();
        let answer = in_time("an answer", get).await.unwrap();
        match answer.status().as_u16() {
            404 => None,
            200 => Some(answer.json().await.unwrap()),
            status => panic!("{status}: {}", answer.text().await.unwrap()),
        }
    }

    /// Waits until a build is as it should be.
    pub async fn until(&self, what: &str, id: &str, wanted: impl Fn(&BuildDetail) -> bool) -> BuildDetail {
        in_time(what, async {
            loop {
                if let Some(build) = self.build(id).await.filter(|build| wanted(build)) {
                    return build;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await
    }

    /// The log of one attempt, as NDJSON.
    pub async fn log(&self, id: &str, attempt: &str) -> String {
        let get = self.request(Method::GET, &format!("builds/{id}/log?attempt={attempt}"));
        let answer = in_time("an answer", get.header("accept", "application/x-ndjson").send()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        answer.text().await.unwrap()
    }

    /// Waits until it has all that a build's directory tells of it, and compares: every attempt's log, byte for
    /// byte. Answers the build, of whose attempts each that has ended is complete.
    pub async fn has_all_of(&self, directory: &Path) -> BuildDetail {
        let id = directory.file_name().unwrap().to_str().unwrap();
        let mut told = 0;
        for (report, log) in attempts(directory) {
            let closed = in_time(&format!("{} is closed", report.display()), closed(&report)).await;
            let how = closed["closed"]["how"].as_str().unwrap();
            assert!(matches!(how, "confirmed" | "sent"), "{closed:#}");
            let attempt = closed["attempt"].as_str().unwrap();
            let mut kept = std::fs::read_to_string(&log).unwrap();
            // Half a line that a crash has left is nobody's.
            kept.truncate(kept.rfind('\n').map_or(0, |end| end + 1));
            let stored = self.log(id, attempt).await;
            let same = stored == kept;
            assert!(same, "{attempt}: {} lines here, {} there", kept.lines().count(), stored.lines().count());
            told += 1;
            let build = self.build(id).await.unwrap();
            let shown = build.attempts.iter().find(|shown| shown.id.to_string() == attempt).unwrap();
            assert_eq!(shown.entries, kept.lines().count() as u64);
            assert_eq!(shown.complete, how == "confirmed");
        }
        assert!(told > 0, "nothing is told of {}", directory.display());
        self.build(id).await.unwrap()
    }
}

/// The report and the log of each attempt in a build directory.
fn attempts(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    let numbers = names.filter_map(|name| {
        let name = name.to_str().unwrap();
        Some(name.strip_prefix("report")?.strip_suffix(".json")?.to_owned())
    });
    let files = |number| {
        (directory.join(format!("report{number}.json")), directory.join(format!("log{number}.ndjson")))
    };
    numbers.map(files).collect()
}

/// What a report says once nothing more is to be told.
async fn closed(report: &Path) -> serde_json::Value {
    loop {
        let text = std::fs::read(report).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        if record["closed"].is_object() {
            return record;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
