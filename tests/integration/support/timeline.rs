//! The timeline service in this process, on a free port, with a database of its own; and a worker that is
//! played by its calls.

use std::path::PathBuf;
use std::sync::Arc;

use buildgrid::event::deploy::{BuildId, DeployEvent};
use buildgrid::event::result::{Kind, ResultEvent, State};
use buildgrid::queue::QueueConfig;
use buildgrid::store::digest::Digest;
use buildgrid::telemetry::config::{Format, LoggingConfig};
use buildgrid::timeline::TimelineConfig;
use buildgrid::timeline::client::{Lines, TimelineClient};
use buildgrid::timeline::entry::{LogEntry, Stream};
use buildgrid::timeline::protocol::{AttemptId, AttemptState, Claim, ClaimAnswer, LogSum, StateReport};
use buildgrid::web::access::{Namespaces, Principal, Role, Secret};
use buildgrid::web::db::Database;
use buildgrid::web::{self, Enqueuer, Timeline};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub struct TestTimeline {
    /// `127.0.0.1:<port>`.
    pub host: String,
    folder: TempDir,
    database: Database,
    stop: CancellationToken,
    server: JoinHandle<anyhow::Result<()>>,
}

impl TestTimeline {
    /// A service that enqueues onto the broker of `queue`.
    pub async fn start(queue: QueueConfig) -> Self {
        // Shown by the test runner where a test fails.
        let _ = buildgrid::telemetry::logging::init(
            &LoggingConfig { format: Format::Text, ..LoggingConfig::default() },
            true,
        );
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("timeline")).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let config = TimelineConfig { url: format!("http://{host}"), ..TimelineConfig::default() };
        let stop = CancellationToken::new();
        let queue = Enqueuer::on_demand(queue);
        let timeline = Timeline::new(&config, database.clone(), queue, stop.clone()).await.unwrap();
        let server = tokio::spawn(web::serve(listener, Arc::new(timeline)));
        Self { host, folder, database, stop, server }
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("timeline")
    }

    /// How a program with a new token of `role` reaches the service, for all namespaces, at `host`.
    pub async fn config_at(&self, host: &str, role: Role) -> TimelineConfig {
        let secret = Secret::token();
        let name = AttemptId::generate().to_string();
        let file = self.folder.path().join(&name);
        std::fs::write(&file, secret.expose()).unwrap();
        let principal = Principal { name, role, namespaces: Namespaces::All };
        assert!(self.database.add_token(principal, &secret, OffsetDateTime::now_utc()).await.unwrap());
        TimelineConfig { url: format!("http://{host}"), token_file: Some(file), ..TimelineConfig::default() }
    }

    pub async fn client(&self, role: Role) -> TimelineClient {
        TimelineClient::new(&self.config_at(&self.host, role).await).unwrap().unwrap()
    }

    /// Stops the service, which must end well.
    pub async fn stop(self) {
        self.stop.cancel();
        self.server.await.unwrap().unwrap();
    }
}

/// A worker's attempt at a build, as the service sees it.
pub struct PlayedAttempt {
    client: TimelineClient,
    event: DeployEvent,
    attempt: AttemptId,
    lines: Vec<u8>,
    next: u64,
}

impl PlayedAttempt {
    /// Claims the event and is told to go.
    pub async fn claim(client: &TimelineClient, body: &str) -> Self {
        let (event, _) = DeployEvent::parse(body.as_bytes()).unwrap();
        let attempt = AttemptId::generate();
        let claim = Claim {
            event: body.to_owned(),
            worker: "worker-1".to_owned(),
            attempt,
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        let answer = client.claim(&event.id, &claim).await.unwrap();
        assert_eq!(answer, ClaimAnswer::Go { next_seq: 0 });
        Self { client: client.clone(), event, attempt, lines: Vec::new(), next: 0 }
    }

    pub fn id(&self) -> &BuildId {
        &self.event.id
    }

    pub async fn enters(&self, state: AttemptState) {
        let at = OffsetDateTime::now_utc();
        let report = StateReport { state, at, commit: None, result: None, log: None };
        self.client.report(&self.event.id, self.attempt, &report).await.unwrap();
    }

    /// Writes a line; answers whether the build is to be cancelled.
    pub async fn says(&mut self, stream: Stream, step: Option<&str>, text: &str) -> bool {
        let entry = LogEntry {
            seq: self.next,
            at: OffsetDateTime::now_utc(),
            stream,
            step: step.map(str::to_owned),
            server: "worker-1".to_owned(),
            service: None,
            pod: None,
            text: text.to_owned(),
        };
        let mut line = serde_json::to_vec(&entry).unwrap();
        line.push(b'\n');
        self.lines.extend_from_slice(&line);
        self.next += 1;
        let lines = Lines::compress(&line).unwrap();
        self.client.append(&self.event.id, self.attempt, lines).await.unwrap().cancel
    }

    /// Ends the attempt, as published or, for a `reason`, failed by the build's own fault.
    pub async fn ends(self, state: State, reason: Option<&str>) {
        let image = self.event.image().url("registry.example.com");
        let result = ResultEvent {
            image: (state == State::Published).then_some(image),
            kind: (state == State::Failed).then_some(Kind::Build),
            reason: reason.map(str::to_owned),
            step: reason.map(|_| "[2/2] RUN make".to_owned()),
            excerpt: reason.map(|_| vec!["cc: no input files".to_owned()]).unwrap_or_default(),
            ..ResultEvent::of(&self.event, 1, state, "worker-1")
        };
        let report = StateReport {
            state: state.as_str().parse().unwrap(),
            at: OffsetDateTime::now_utc(),
            commit: None,
            result: Some(Box::new(result)),
            log: Some(LogSum { count: self.next, checksum: Digest::of(&self.lines) }),
        };
        self.client.report(&self.event.id, self.attempt, &report).await.unwrap();
    }
}
