//! A whole BuildGrid for one test: worker and registry in this process, on a broker vhost, a store and
//! ports of their own. [`TestGrid::finish`] asserts that nothing is left over.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use buildgrid::config::Config;
use buildgrid::event::result::{ResultEvent, State};
use buildgrid::queue::{Queue, QueueConfig};
use buildgrid::telemetry::config::{Format, LoggingConfig};
use buildgrid::timeline::entry::LogEntry;
use buildgrid::worker::daemon::{self, Shutdown};
use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::address::free_address;
use super::broker::TestBroker;
use super::disk::never_full;
use super::patience::{PATIENCE, in_time, until};
use super::proxy::Proxy;
use super::registry::TestRegistry;
use super::timeline::TestTimeline;

type Worker = (Shutdown, JoinHandle<anyhow::Result<()>>);

pub struct TestGrid {
    pub config: Config,
    pub rabbit: TestBroker,
    pub broker: Queue,
    _folder: TempDir,
    worker: Option<Worker>,
    others: Vec<Worker>,
    pub registry: TestRegistry,
    results: Mutex<Vec<ResultEvent>>,
    listener: tokio::sync::Mutex<Listener>,
}

impl TestGrid {
    /// A grid for fake builds, with its worker running.
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A grid with its worker running, after `adjust` has changed the configuration.
    pub async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        let mut grid = Self::idle(adjust).await;
        grid.start_worker().await;
        grid
    }

    /// A grid without a worker; everything else is there.
    pub async fn idle(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::on(TestBroker::start().await, adjust).await
    }

    /// One without a worker on this broker.
    pub async fn on(rabbit: TestBroker, adjust: impl FnOnce(&mut Config)) -> Self {
        // Shown by the test runner where a test fails.
        let _ = buildgrid::telemetry::logging::init(
            &LoggingConfig { format: Format::Text, ..LoggingConfig::default() },
            true,
        );
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.worker.name = "worker-1".to_owned();
        config.worker.data_dir = folder.path().join("data");
        config.worker.status_listen = free_address();
        config.queue = rabbit.config();
        config.engine.host = "none".to_owned();
        config.disk = never_full();
        let registry = TestRegistry::start().await;
        config.store.path = registry.root().to_owned();
        config.registry.host.clone_from(&registry.host);
        adjust(&mut config);

        let broker = Queue::amqp(&config.queue, "test");
        broker.declare().await.unwrap();
        let listener = Listener::start(&config.queue).await.unwrap();
        Self {
            config,
            rabbit,
            broker,
            _folder: folder,
            worker: None,
            others: Vec::new(),
            registry,
            results: Mutex::default(),
            listener: tokio::sync::Mutex::new(listener),
        }
    }

    /// Starts the worker and waits until it is up.
    pub async fn start_worker(&mut self) {
        let listener = TcpListener::bind(self.config.worker.status_listen).await.unwrap();
        self.worker = Some(run_worker(self.config.clone(), listener).await);
    }

    /// Starts a worker beside the first, with a data directory of its own, which is answered.
    pub async fn start_other_worker(&mut self, name: &str) -> PathBuf {
        let mut config = self.config.clone();
        config.worker.name = name.to_owned();
        config.worker.data_dir.set_file_name(name);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let data_dir = config.worker.data_dir.clone();
        self.others.push(run_worker(config, listener).await);
        data_dir
    }

    /// Lets the workers that are started from now on talk to a timeline service: at its own address, or
    /// through a proxy before it.
    pub fn tell(&mut self, timeline: &TestTimeline, proxy: Option<&Proxy>) {
        let address = proxy.map_or(timeline.address, Proxy::address);
        self.config.timeline.url = format!("http://{address}");
        self.config.timeline.token_file = Some(timeline.token_file("worker"));
    }

    /// The worker's two ways to end.
    pub fn shutdown(&self) -> Shutdown {
        self.worker.as_ref().expect("the worker runs").0.clone()
    }

    /// Waits for the worker's end, which the test has asked for.
    pub async fn worker_ended(&mut self) -> anyhow::Result<()> {
        let (_, worker) = self.worker.take().expect("the worker runs");
        in_time("the worker ends", worker).await.unwrap()
    }

    /// Publishes an event's bytes as Maestro would.
    pub async fn publish(&self, body: impl Into<Vec<u8>>) {
        let (namespace, app) = ("smoke".parse().unwrap(), "web".parse().unwrap());
        self.broker.publish_deploy(&namespace, &app, body.into()).await.unwrap();
    }

    /// Waits for the result of `id` with `state`.
    pub async fn result(&self, id: &str, state: State) -> ResultEvent {
        self.nth_result(id, state, 1).await
    }

    /// Waits for the `n`th result of `id` with `state`. Results that were passed over are kept.
    pub async fn nth_result(&self, id: &str, state: State, n: usize) -> ResultEvent {
        self.heard(&state.to_string(), id, |result| result.state == state, n).await
    }

    async fn heard(
        &self,
        what: &str,
        id: &str,
        wanted: impl Fn(&ResultEvent) -> bool,
        n: usize,
    ) -> ResultEvent {
        let mut listener = self.listener.lock().await;
        let wait = async {
            loop {
                if let Some(found) = self.results(id).into_iter().filter(&wanted).nth(n - 1) {
                    return found;
                }
                let heard = listener.next(&self.config.queue).await;
                self.results.lock().unwrap().push(heard);
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => {
                panic!("no result {what} number {n} of {id}; there are {:#?}", self.results.lock().unwrap())
            }
        }
    }

    /// Waits for the result that ends `id` or has it tried again.
    pub async fn end(&self, id: &str) -> ResultEvent {
        let wanted = |result: &ResultEvent| result.state != State::Started;
        self.heard("the end", id, wanted, 1).await
    }

    /// The final results of `id`, once all that were published have been heard.
    pub async fn ends(&self, id: &str) -> Vec<ResultEvent> {
        let mut listener = self.listener.lock().await;
        let quiet = Duration::from_millis(500);
        while let Ok(heard) = tokio::time::timeout(quiet, listener.next(&self.config.queue)).await {
            self.results.lock().unwrap().push(heard);
        }
        let ends = |result: &ResultEvent| !matches!(result.state, State::Started | State::Retrying);
        self.results(id).into_iter().filter(ends).collect()
    }

    /// The results of `id` seen so far.
    pub fn results(&self, id: &str) -> Vec<ResultEvent> {
        let results = self.results.lock().unwrap();
        results.iter().filter(|result| result.id.as_str() == id).cloned().collect()
    }

    pub fn build_directory(&self, id: &str) -> PathBuf {
        self.config.worker.data_dir.join("builds").join(id)
    }

    /// The log of a build, as it stands on disk.
    pub fn log(&self, id: &str) -> Vec<LogEntry> {
        read_log(&self.build_directory(id).join("log.ndjson"))
    }

    /// Waits until the log of a build has a line with `text`.
    pub async fn log_line(&self, id: &str, text: &str) {
        let path = self.build_directory(id).join("log.ndjson");
        until(&format!("the log of {id} says {text:?}"), || {
            std::fs::read_to_string(&path).is_ok_and(|log| log.contains(text))
        })
        .await;
    }

    /// Takes one event from the dead letters, with the reason that stands in its header.
    pub async fn dead_letter(&self) -> DeadLetter {
        let channel = self.listener.lock().await.connection.create_channel().await.unwrap();
        let message = in_time("a dead letter", async {
            loop {
                let options = BasicGetOptions { no_ack: true };
                if let Some(message) = channel.basic_get("buildgrid.dead".into(), options).await.unwrap() {
                    break message;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        channel.close(200, "".into()).await.unwrap();
        let headers = message.delivery.properties.headers().clone().unwrap_or_default();
        let Some(AMQPValue::LongString(reason)) = headers.inner().get("x-buildgrid-reason") else {
            panic!("a dead letter without a reason: {headers:?}");
        };
        DeadLetter { reason: reason.to_string(), body: message.delivery.data }
    }

    /// A registry login for `namespace`.
    pub async fn credential(&self, namespace: &str) -> (String, String) {
        let made = self.registry.store.add_credential([namespace.parse().unwrap()].into()).await.unwrap();
        (made.credential.user.to_string(), made.password.expose_secret().to_owned())
    }

    /// Ends everything and asserts that nothing is left: no message, no temporary file, no spool.
    pub async fn finish(mut self) {
        for (shutdown, worker) in self.worker.take().into_iter().chain(std::mem::take(&mut self.others)) {
            shutdown.drain.cancel();
            in_time("a worker ends", worker).await.unwrap().unwrap();
        }
        self.rabbit.assert_drained().await;
        let left = files(&self.config.store.path.join("buildgrid/tmp"));
        assert!(left.is_empty(), "temporary files are left in the store: {left:?}");
        for build in std::fs::read_dir(self.config.worker.data_dir.join("builds")).into_iter().flatten() {
            let spool = build.unwrap().path().join("spool");
            assert!(!spool.exists(), "{} is left", spool.display());
        }
        self.broker.close().await;
        self.registry.stop().await;
    }
}

/// Runs a worker, and waits until it is up.
async fn run_worker(config: Config, listener: TcpListener) -> Worker {
    let shutdown = Shutdown::default();
    let running = shutdown.clone();
    let (up, is_up) = tokio::sync::oneshot::channel();
    let worker = tokio::spawn(async move {
        let queue = Queue::amqp(&config.queue, &config.worker.name);
        let ended = daemon::run(&config, queue.clone(), listener, running, || {
            let _ = up.send(());
        })
        .await;
        queue.close().await;
        ended
    });
    in_time("the worker comes up", is_up).await.expect("the worker comes up");
    (shutdown, worker)
}

pub struct DeadLetter {
    pub reason: String,
    pub body: Vec<u8>,
}

/// A consumer of all result events; what is published while the broker or its connection is away waits in
/// its queue.
struct Listener {
    connection: lapin::Connection,
    events: lapin::Consumer,
}

impl Listener {
    async fn start(config: &QueueConfig) -> lapin::Result<Self> {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(config.url.expose(), properties).await?;
        let channel = connection.create_channel().await?;
        let name = "test.results";
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.into(), options, FieldTable::default()).await?;
        let (events, bind) = (config.events.as_str().into(), QueueBindOptions::default());
        channel.queue_bind(name.into(), events, "build.#".into(), bind, FieldTable::default()).await?;
        let consume = BasicConsumeOptions::default();
        let events = channel.basic_consume(name.into(), "".into(), consume, FieldTable::default()).await?;
        Ok(Self { connection, events })
    }

    async fn next(&mut self, config: &QueueConfig) -> ResultEvent {
        loop {
            if let Some(Ok(delivery)) = self.events.next().await
                && let Ok(result) = serde_json::from_slice(&delivery.data)
            {
                // One that is lost is heard twice.
                let _ = delivery.ack(BasicAckOptions::default()).await;
                return result;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Ok(again) = Self::start(config).await {
                *self = again;
            }
        }
    }
}

pub fn read_log(path: &Path) -> Vec<LogEntry> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let entries: Vec<LogEntry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (n, entry) in entries.iter().enumerate() {
        assert_eq!(entry.seq, n as u64, "the log has a gap");
    }
    entries
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// A fake event of the namespace `smoke`, with `fake` as its `fake` object.
pub fn fake_event(id: &str, fake: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{fake}}}"#
    )
}
