//! A virtual host of its own on the real RabbitMQ, for one test: nothing in it is shared, and all of it
//! goes when the test ends.

#![expect(clippy::unwrap_used, reason = "a test support that fails is a failed test")]

use std::process::Command;
use std::time::Duration;

use buildgrid::queue::QueueConfig;
use buildgrid::queue::amqp::{Broker, Delivery, Subscription};

/// Far more than any step takes; a test that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The broker under test: `BUILDGRID_TEST_AMQP` as `user:password@host:port`, or RabbitMQ's own default.
fn authority() -> String {
    std::env::var("BUILDGRID_TEST_AMQP").unwrap_or_else(|_| "guest:guest@127.0.0.1:5672".to_owned())
}

pub struct TestBroker {
    vhost: String,
}

impl TestBroker {
    /// Makes the virtual host. Panics where no broker answers: a suite without its parts has failed.
    pub async fn start() -> Self {
        let broker = Self { vhost: format!("test-{}", uuid::Uuid::now_v7()) };
        let vhost = broker.vhost.clone();
        broker.control(&["add_vhost", &vhost]).await;
        let authority = authority();
        let user = authority.split(':').next().unwrap();
        broker.control(&["set_permissions", "-p", &vhost, user, ".*", ".*", ".*"]).await;
        broker
    }

    pub fn config(&self) -> QueueConfig {
        let url = format!("amqp://{}/{}", authority(), self.vhost);
        QueueConfig { url: url.parse().unwrap(), ..QueueConfig::default() }
    }

    /// Connected, with everything declared.
    pub async fn connect(&self) -> Broker {
        let broker = Broker::connect(&self.config(), "worker-1");
        broker.ready().await.unwrap();
        broker.declare().await.unwrap();
        broker
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
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let mut command = Command::new("rabbitmqctl");
        let deleted = command.args(["--quiet", "delete_vhost", &self.vhost]).output();
        if !deleted.is_ok_and(|output| output.status.success()) && !std::thread::panicking() {
            panic!("the virtual host {} could not be deleted", self.vhost);
        }
    }
}

/// The next delivery, in good time.
pub async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next()).await;
    delivery.expect("a delivery in good time").expect("the subscription lives")
}
