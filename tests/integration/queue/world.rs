//! Either queue and what is around it, for the contract: what is done to a queue from outside is done
//! here, each in its own way.

use std::path::Path;
use std::time::Duration;

use buildgrid::queue::embedded::EmbeddedQueue;
use buildgrid::queue::{Queue, QueueConfig};
use lapin::options::{BasicPublishOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use tempfile::TempDir;

use crate::support::broker::{TestBroker, connect};
use crate::support::proxy::{Mode, Proxy};

/// Runs each of these functions of a [`World`] as a test of either queue.
macro_rules! contract {
    ($($case:ident)*) => {
        mod amqp {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::queue::world::World::amqp().await).await;
            })*
        }
        mod embedded {
            $(#[tokio::test]
            async fn $case() {
                super::$case(crate::queue::world::World::embedded()).await;
            })*
        }
    };
}
pub(super) use contract;

pub struct World {
    pub config: QueueConfig,
    parts: Parts,
}

enum Parts {
    Amqp { rabbit: TestBroker, proxy: Proxy },
    Embedded { folder: TempDir },
}

impl World {
    pub async fn amqp() -> Self {
        let rabbit = TestBroker::start().await;
        let (proxy, config) = rabbit.proxied().await;
        Self { config, parts: Parts::Amqp { rabbit, proxy } }
    }

    pub fn embedded() -> Self {
        let parts = Parts::Embedded { folder: tempfile::tempdir().unwrap() };
        Self { config: QueueConfig::default(), parts }
    }

    /// The queue, as a worker has it.
    pub async fn queue(&self) -> Queue {
        match &self.parts {
            Parts::Amqp { .. } => connect(&self.config).await,
            Parts::Embedded { folder } => open(folder.path(), &self.config).await.into(),
        }
    }

    /// Lets the queue lose its worker in the middle of everything, as a crash of it does; answers the
    /// queue as the next worker has it.
    pub async fn crash(&self) -> Queue {
        match &self.parts {
            Parts::Amqp { proxy, .. } => {
                proxy.set(Mode::Cut);
                // The broker notices, and the next worker is another connection.
                tokio::time::sleep(Duration::from_millis(300)).await;
                proxy.set(Mode::Pass);
                connect(&self.config).await
            }
            Parts::Embedded { folder } => {
                // What the disk has at this moment is what a process that is killed leaves behind.
                let crashed = folder.path().join("crashed");
                std::fs::create_dir(&crashed).unwrap();
                for file in ["queue.db", "queue.db-wal"] {
                    std::fs::copy(folder.path().join(file), crashed.join(file)).unwrap();
                }
                open(&crashed, &self.config).await.into()
            }
        }
    }

    /// Takes what was delivered away from `queue`, which has to notice.
    pub async fn lose(&self, queue: &Queue) {
        match &self.parts {
            Parts::Amqp { proxy, .. } => {
                proxy.set(Mode::Cut);
                crate::support::broker::status(queue, |status| !status.can_consume).await;
                proxy.set(Mode::Pass);
            }
            Parts::Embedded { .. } => queue.close().await,
        }
    }

    /// Puts an event into the queue as its retries leave it, tried already; it is taken when somebody looks.
    pub async fn put(&self, attempt: u32) {
        match &self.parts {
            Parts::Amqp { rabbit, .. } => {
                let properties = lapin::ConnectionProperties::default();
                let url = rabbit.config().url;
                let connection = lapin::Connection::connect(url.expose(), properties).await.unwrap();
                let channel = connection.create_channel().await.unwrap();
                let mut headers = FieldTable::default();
                headers.insert("x-buildgrid-attempt".into(), AMQPValue::LongInt(attempt.try_into().unwrap()));
                let properties = lapin::BasicProperties::default().with_headers(headers);
                let (options, queue) = (BasicPublishOptions::default(), self.config.builds.as_str());
                let sent = channel.basic_publish("".into(), queue.into(), options, b"{}", properties);
                sent.await.unwrap().await.unwrap();
            }
            Parts::Embedded { folder } => {
                let put = "INSERT INTO events (state, position, published_at, attempt, body) \
                           VALUES ('waiting', 0, 0, $1, $2)";
                let pool = database(folder.path()).await;
                sqlx::query(put).bind(attempt).bind(&b"{}"[..]).execute(&pool).await.unwrap();
            }
        }
    }

    /// How many events wait for their next attempt, of those that wait for so long.
    pub async fn waiting(&self, delay: &str) -> i64 {
        match &self.parts {
            Parts::Amqp { rabbit, .. } => {
                let properties = lapin::ConnectionProperties::default();
                let url = rabbit.config().url;
                let connection = lapin::Connection::connect(url.expose(), properties).await.unwrap();
                let channel = connection.create_channel().await.unwrap();
                let name = format!("{}.retry.{delay}", self.config.builds);
                let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
                let declared = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
                declared.await.unwrap().message_count().into()
            }
            Parts::Embedded { folder } => {
                let milliseconds = match delay {
                    "10s" => 10_000,
                    "1m" => 60_000,
                    _ => 600_000,
                };
                let count =
                    "SELECT count(*) FROM events WHERE state = 'waiting' AND position - published_at = $1";
                let pool = database(folder.path()).await;
                sqlx::query_scalar(count).bind(milliseconds).fetch_one(&pool).await.unwrap()
            }
        }
    }
}

/// Opens the embedded queue as the process that takes its events.
pub async fn open(directory: &Path, config: &QueueConfig) -> EmbeddedQueue {
    EmbeddedQueue::open(directory, config, "worker-1").await.unwrap()
}

/// The file of an embedded queue, past the queue.
pub async fn database(directory: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(directory.join("queue.db"));
    SqlitePool::connect_with(options.busy_timeout(Duration::from_secs(10))).await.unwrap()
}
