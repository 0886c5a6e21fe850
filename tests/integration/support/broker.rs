//! A virtual host of its own on the real RabbitMQ, for one test: nothing in it is shared, and all of it
//! goes when the test ends.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use buildgrid::queue::{Delivery, Queue, QueueConfig, QueueStatus, Subscription};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::node::BrokerNode;
use super::patience::{PATIENCE, in_time};
use super::process::{as_root, output};
use super::proxy::Proxy;

/// The broker under test: `BUILDGRID_TEST_AMQP` as `user:password@host:port`, or RabbitMQ's own default.
fn authority() -> String {
    std::env::var("BUILDGRID_TEST_AMQP").unwrap_or_else(|_| "guest:guest@127.0.0.1:5672".to_owned())
}

/// The name of the broker's node, where it is not RabbitMQ's usual one: as RabbitMQ's own tools are told.
fn node() -> Option<String> {
    std::env::var("RABBITMQ_NODENAME").ok()
}

/// Evaluates Erlang on a node, which must come to `ok`: what rabbitmqctl does as well, but that
/// starts a virtual machine and needs a second of processor time a call, which this need not. The node's
/// cookie is in `home`, or where Debian's broker has it.
pub fn evaluate_on(node: &str, home: Option<&Path>, expression: &str) -> Result<(), String> {
    let mut command = match home {
        Some(_) => Command::new("env"),
        None => as_root("env"),
    };
    let home = home.unwrap_or(Path::new("/var/lib/rabbitmq"));
    let mut child = command
        .arg(format!("HOME={}", home.display()))
        .args(["erl_call", "-e", "-sname", node])
        // The node takes one connection of one name; erl_call's own random ones are alike within a second.
        .args(["-h", &uuid::Uuid::now_v7().simple().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("erl_call can be run (Debian's package erlang-base)");
    child.stdin.take().unwrap().write_all(format!("{expression}.\n").as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    match done.stdout.as_slice() {
        b"{ok, ok}" => Ok(()),
        _ => Err(String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()),
    }
}

/// Where a virtual host is made.
struct Place {
    /// `user:password@host:port`.
    authority: String,
    node: String,
    /// Of a node that is a test's own.
    home: Option<PathBuf>,
}

impl Place {
    /// The broker that all tests share.
    fn shared() -> Self {
        Self { authority: authority(), node: node().unwrap_or_else(|| "rabbit".to_owned()), home: None }
    }

    fn evaluate(&self, expression: &str) -> Result<(), String> {
        evaluate_on(&self.node, self.home.as_deref(), expression)
    }
}

/// The expression that gives a user these rights to configure, write and read.
fn permit(user: &str, vhost: &str, [configure, write, read]: [&str; 3]) -> String {
    format!(
        r#"rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>,
            <<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"test">>)"#
    )
}

pub struct TestBroker {
    place: Place,
    vhost: String,
    users: Mutex<Vec<String>>,
}

impl TestBroker {
    /// Makes the virtual host. Panics where no broker answers: a suite without its parts has failed.
    pub async fn start() -> Self {
        Self::at(Place::shared())
    }

    /// Makes it on a node of the test's own, with which it ends.
    pub fn on(node: &BrokerNode) -> Self {
        let home = Some(node.home().to_owned());
        Self::at(Place { authority: node.authority(), node: node.name().to_owned(), home })
    }

    fn at(place: Place) -> Self {
        let vhost = format!("test-{}", uuid::Uuid::now_v7());
        let user = place.authority.split(':').next().unwrap();
        let permit = permit(user, &vhost, [".*"; 3]);
        place.evaluate(&format!(r#"ok = rabbit_vhost:add(<<"{vhost}">>, <<"test">>), {permit}"#)).unwrap();
        Self { place, vhost, users: Mutex::default() }
    }

    pub fn config(&self) -> QueueConfig {
        self.config_at(&self.place.authority)
    }

    fn config_at(&self, authority: &str) -> QueueConfig {
        let url = format!("amqp://{authority}/{}", self.vhost);
        QueueConfig { url: url.parse().unwrap(), ..QueueConfig::default() }
    }

    /// A user of its own with these rights to configure, write and read; answers `name:password`.
    pub async fn user(&self, configure: &str, write: &str, read: &str) -> String {
        let (name, password) = (format!("user-{}", uuid::Uuid::now_v7()), "secret");
        let add =
            format!(r#"rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"test">>)"#);
        self.place.evaluate(&add).unwrap();
        self.users.lock().unwrap().push(name.clone());
        self.place.evaluate(&permit(&name, &self.vhost, [configure, write, read])).unwrap();
        format!("{name}:{password}")
    }

    /// The configuration of that user.
    pub fn config_of(&self, user: &str) -> QueueConfig {
        let (_, address) = self.place.authority.rsplit_once('@').unwrap();
        self.config_at(&format!("{user}@{address}"))
    }

    /// A proxy before the broker, and the configuration to go through it.
    pub async fn proxied(&self) -> (Proxy, QueueConfig) {
        let (user, target) = self.place.authority.rsplit_once('@').unwrap();
        let proxy = Proxy::start(target.to_owned()).await;
        let config = self.config_at(&format!("{user}@{}", proxy.address()));
        (proxy, config)
    }

    /// Connected, with everything declared.
    pub async fn connect(&self) -> Queue {
        connect(&self.config()).await
    }

    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Runs rabbitmqctl against the shared broker; answers what it printed.
    pub async fn control(&self, arguments: &[&str]) -> String {
        assert!(self.place.home.is_none(), "a node of a test's own is asked by `evaluate`");
        let mut command = as_root("rabbitmqctl");
        command.arg("--quiet").args(arguments);
        if let Some(node) = node() {
            command.args(["--node", &node]);
        }
        tokio::task::spawn_blocking(move || output(&mut command)).await.unwrap()
    }

    /// Waits until every queue is empty, and has no consumer that could still give something back. Asks the
    /// queues themselves: what `rabbitmqctl list_queues` tells of them is some seconds old.
    pub async fn assert_drained(&self) {
        self.until_left(|messages, consumers| (messages, consumers) == (0, 0)).await;
    }

    /// Waits until no message waits in any queue: all are with workers, or done.
    pub async fn until_empty(&self) {
        self.until_left(|messages, _| messages == 0).await;
    }

    /// Waits until an event waits in the retry queue of this delay.
    pub async fn until_waiting(&self, delay: &str) {
        let (connection, channel) = self.channel().await;
        let name = format!("{}.retry.{delay}", self.config().builds);
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        in_time("an event waits", async {
            let count = async || {
                let queue = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
                queue.await.unwrap().message_count()
            };
            while count().await == 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        connection.close(200, "done".into()).await.unwrap();
    }

    /// Whether no message waits in any queue.
    pub async fn is_empty(&self) -> bool {
        let (connection, channel) = self.channel().await;
        let left = self.left(&channel).await;
        connection.close(200, "done".into()).await.unwrap();
        left.into_iter().all(|(_, messages, _)| messages == 0)
    }

    /// Waits until each queue is left with messages and consumers as wanted.
    async fn until_left(&self, wanted: impl Fn(u32, u32) -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let (connection, channel) = self.channel().await;
        loop {
            let left = self.left(&channel).await;
            let Some((name, messages, consumers)) =
                left.into_iter().find(|(_, messages, consumers)| !wanted(*messages, *consumers))
            else {
                return connection.close(200, "done".into()).await.unwrap();
            };
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{name} is left with {messages} messages and {consumers} consumers");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn channel(&self) -> (lapin::Connection, lapin::Channel) {
        let (config, properties) = (self.config(), lapin::ConnectionProperties::default());
        let connection = lapin::Connection::connect(config.url.expose(), properties).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }

    /// Every queue, with its messages that wait and its consumers.
    async fn left(&self, channel: &lapin::Channel) -> Vec<(String, u32, u32)> {
        let config = self.config();
        let retries = ["10s", "1m", "10m"].map(|delay| format!("{}.retry.{delay}", config.builds));
        let mut left = Vec::new();
        // From where events come to where they go, so that none is missed between two looks.
        for name in retries.into_iter().chain([config.builds, config.dead]) {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declare = channel.queue_declare(name.as_str().into(), passive, FieldTable::default());
            let queue = in_time("the state of a queue", declare).await.unwrap();
            left.push((name, queue.message_count(), queue.consumer_count()));
        }
        left
    }

    /// Closes every connection to this virtual host from the broker's side, as an administrator would.
    pub async fn cut(&self) {
        self.control(&["close_all_connections", "--vhost", &self.vhost, "cut by a test"]).await;
    }

    /// Closes the connections of one client, known by the name it gave, and of no other.
    pub async fn cut_client(&self, name: &str) {
        let listed = self.control(&["list_connections", "pid", "vhost", "client_properties"]).await;
        let ours = |line: &&str| line.contains(&self.vhost) && line.contains(name);
        let pids: Vec<&str> =
            listed.lines().filter(ours).filter_map(|line| line.split('\t').next()).collect();
        assert!(!pids.is_empty(), "{name} is not connected: {listed}");
        for pid in pids {
            self.control(&["close_connection", pid, "cut by a test"]).await;
        }
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // All of it ends with its node.
        if self.place.home.is_some() {
            return;
        }
        let users = std::mem::take(&mut *self.users.lock().unwrap());
        let mut left = vec![("rabbit_vhost:delete", self.vhost.clone())];
        left.extend(users.into_iter().map(|user| ("rabbit_auth_backend_internal:delete_user", user)));
        for (delete, name) in left {
            let deleted = self.place.evaluate(&format!(r#"{delete}(<<"{name}">>, <<"test">>)"#));
            if let Err(error) = deleted
                && !std::thread::panicking()
            {
                panic!("{delete} {name}: {error}");
            }
        }
    }
}

/// The next delivery, in good time.
pub async fn next(subscription: &mut Subscription) -> Delivery {
    in_time("a delivery", subscription.next()).await.expect("the subscription lives")
}

/// Connected by `config`, with everything declared.
pub async fn connect(config: &QueueConfig) -> Queue {
    let queue = Queue::amqp(config, "worker-1");
    queue.ready().await.unwrap();
    queue.declare().await.unwrap();
    queue
}

/// Waits until the status is as it should be.
pub async fn status(queue: &Queue, wanted: impl Fn(&QueueStatus) -> bool) {
    let mut watch = queue.watch();
    let reached = async {
        let mut status = queue.status();
        while !wanted(&status) {
            status = watch.changed().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("the status stays {:?}", queue.status()));
}
