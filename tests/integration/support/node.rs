//! A RabbitMQ node of a test's own: it can be killed, started again and put under alarm, which the broker
//! that all tests share cannot.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::address::free_address;
use super::broker::evaluate_on;
use super::patience::in_time;
use super::process::Server;

pub struct BrokerNode {
    name: String,
    port: u16,
    folder: TempDir,
    running: Option<Server>,
}

impl BrokerNode {
    /// Running. The node listens on loopback only, and needs no more rights than the test has.
    pub async fn start() -> Self {
        let name = format!("test-{}@localhost", uuid::Uuid::now_v7().simple());
        let mut node =
            Self { name, port: free_address().port(), folder: tempfile::tempdir().unwrap(), running: None };
        std::fs::write(node.folder.path().join("plugins"), "[].").unwrap();
        node.start_again().await;
        node
    }

    /// `user:password@host:port`.
    pub fn authority(&self) -> String {
        format!("guest:guest@127.0.0.1:{}", self.port)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its cookie is.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// Evaluates Erlang on the node, which must come to `ok`.
    pub fn evaluate(&self, expression: &str) {
        evaluate_on(&self.name, Some(self.home()), expression).unwrap();
    }

    /// Ends it without a word, as a crash of its machine does.
    pub fn kill(&mut self) {
        self.running.take().expect("the node runs").kill();
    }

    /// Starts it with the data that it had, and waits until it takes connections.
    pub async fn start_again(&mut self) {
        let home = self.folder.path();
        let file = |name: &str| home.join(name).display().to_string();
        let settings = [
            ("PATH", std::env::var("PATH").unwrap()),
            ("HOME", home.display().to_string()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODENAME", self.name.clone()),
            ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".to_owned()),
            ("RABBITMQ_NODE_PORT", self.port.to_string()),
            ("RABBITMQ_DIST_PORT", free_address().port().to_string()),
            ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}".to_owned()),
            ("RABBITMQ_LOGS", "-".to_owned()),
            ("RABBITMQ_MNESIA_BASE", file("data")),
            ("RABBITMQ_GENERATED_CONFIG_DIR", file("generated")),
            ("RABBITMQ_FEATURE_FLAGS_FILE", file("feature-flags")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", file("plugins")),
            ("RABBITMQ_PID_FILE", file("pid")),
            ("RABBITMQ_CONFIG_FILE", file("none")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", file("none")),
            ("RABBITMQ_CONF_ENV_FILE", "/dev/null".to_owned()),
        ];
        let mut sh = Command::new("sh");
        sh.env_clear().envs(settings).current_dir(home);
        // Not the wrapper in /usr/sbin, which would run it as Debian's user, with Debian's data.
        let server = Server::start(sh, &home.join("log"), &["/usr/lib/rabbitmq/bin/rabbitmq-server"]);
        self.running = Some(server);
        in_time("the broker answers", async {
            while !self.answers().await {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// Says the protocol's first words, and waits for the broker's.
    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let said = stream.write_all(b"AMQP\x00\x00\x09\x01").await;
        said.is_ok() && stream.read_u8().await.is_ok_and(|first| first == 1)
    }
}

impl Drop for BrokerNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("the broker's last words:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}
