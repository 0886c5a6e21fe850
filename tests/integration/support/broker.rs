//! A virtual host of its own on the real RabbitMQ, for one test: nothing in it is shared, and all of it
//! goes when the test ends.

#![expect(clippy::unwrap_used, reason = "a test support that fails is a failed test")]

use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use buildgrid::queue::QueueConfig;
use buildgrid::queue::amqp::{Broker, BrokerStatus, Delivery, Subscription};

use super::proxy::Proxy;

/// Far more than any step takes; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The broker under test: `BUILDGRID_TEST_AMQP` as `user:password@host:port`, or RabbitMQ's own default.
fn authority() -> String {
    std::env::var("BUILDGRID_TEST_AMQP").unwrap_or_else(|_| "guest:guest@127.0.0.1:5672".to_owned())
}

pub struct TestBroker {
    vhost: String,
    users: Mutex<Vec<String>>,
}

impl TestBroker {
    /// Makes the virtual host. Panics where no broker answers: a suite without its parts has failed.
    pub async fn start() -> Self {
        let vhost = format!("test-{}", uuid::Uuid::now_v7());
        let broker = Self { vhost, users: Mutex::default() };
        let vhost = broker.vhost.clone();
        broker.control(&["add_vhost", &vhost]).await;
        let authority = authority();
        let user = authority.split(':').next().unwrap();
        broker.control(&["set_permissions", "-p", &vhost, user, ".*", ".*", ".*"]).await;
        broker
    }

    pub fn config(&self) -> QueueConfig {
        self.config_at(&authority())
    }

    fn config_at(&self, authority: &str) -> QueueConfig {
        let url = format!("amqp://{authority}/{}", self.vhost);
        QueueConfig { url: url.parse().unwrap(), ..QueueConfig::default() }
    }

    /// A user of its own with these rights to configure, write and read; answers `name:password`.
    pub async fn user(&self, configure: &str, write: &str, read: &str) -> String {
        let (name, password) = (format!("user-{}", uuid::Uuid::now_v7()), "secret");
        self.control(&["add_user", &name, password]).await;
        self.users.lock().unwrap().push(name.clone());
        self.control(&["set_permissions", "-p", &self.vhost, &name, configure, write, read]).await;
        format!("{name}:{password}")
    }

    /// The configuration of that user.
    pub fn config_of(&self, user: &str) -> QueueConfig {
        let authority = authority();
        let (_, address) = authority.rsplit_once('@').unwrap();
        self.config_at(&format!("{user}@{address}"))
    }

    /// A proxy before the broker, and the configuration to go through it.
    pub async fn proxied(&self) -> (Proxy, QueueConfig) {
        let authority = authority();
        let (user, target) = authority.rsplit_once('@').unwrap();
        let proxy = Proxy::start(target.to_owned()).await;
        let config = self.config_at(&format!("{user}@{}", proxy.address()));
        (proxy, config)
    }

    /// Connected, with everything declared.
    pub async fn connect(&self) -> Broker {
        connect(&self.config()).await
    }

    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Runs rabbitmqctl; answers what it printed.
    pub async fn control(&self, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new("rabbitmqctl");
        let output = command.arg("--quiet").args(arguments).output().await;
        let output = output.expect("rabbitmqctl can be run");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "rabbitmqctl {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
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
        let users = std::mem::take(&mut *self.users.lock().unwrap());
        let mut left = vec![("delete_vhost", self.vhost.clone())];
        left.extend(users.into_iter().map(|user| ("delete_user", user)));
        for (verb, name) in left {
            let deleted = Command::new("rabbitmqctl").args(["--quiet", verb, &name]).output();
            if !deleted.is_ok_and(|output| output.status.success()) && !std::thread::panicking() {
                panic!("rabbitmqctl {verb} {name} failed");
            }
        }
    }
}

/// The next delivery, in good time.
pub async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
    delivery.expect("a delivery in good time").expect("the subscription lives")
}

/// Connected by `config`, with everything declared.
pub async fn connect(config: &QueueConfig) -> Broker {
    let broker = Broker::connect(config, "worker-1");
    broker.ready().await.unwrap();
    broker.declare().await.unwrap();
    broker
}

/// Waits until the status is as it should be.
pub async fn status(broker: &Broker, wanted: impl Fn(&BrokerStatus) -> bool) {
    let mut watch = broker.watch();
    let reached = async {
        let mut status = broker.status();
        while !wanted(&status) {
            status = watch.changed().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("the status stays {:?}", broker.status()));
}
