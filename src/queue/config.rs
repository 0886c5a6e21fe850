//! The section `queue` of the configuration.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::url::{BrokerUrl, InvalidBrokerUrl};
use crate::config::Faults;
use crate::network::NetworkConfig;

/// The longest name of an exchange or queue, in bytes: AMQP allows 255, and the retry queues append
/// to the name of the builds queue.
const MAX_NAME: usize = 200;

/// Who makes exchanges and queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Declare {
    /// The worker declares what is missing and refuses to start on what exists with other arguments.
    Auto,
    /// The worker only looks whether they are there; for users without the right to configure.
    Passive,
}

/// How the broker is reached and what its exchanges and queues are called.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// `amqp://user:password@host:port/vhost`, or `amqps://…` over TLS.
    pub url: BrokerUrl,
    /// A file that contains the URL, instead of `url`. It is read again at every connect, so that a
    /// password can be changed without a restart.
    pub url_file: Option<PathBuf>,
    /// Whether the worker makes exchanges and queues (`auto`) or only looks for them (`passive`).
    pub declare: Declare,
    /// The topic exchange that Maestro publishes deploy events on, with key `deploy.<namespace>.<app>`.
    pub deploys: String,
    /// The queue of builds. The retry queues are called after it: `<builds>.retry.10s`, `.1m`, `.10m`.
    pub builds: String,
    /// The exchange, and the queue, of events that could not be handled.
    pub dead: String,
    /// The topic exchange of result events, with key `build.<state>.<namespace>.<app>`.
    pub events: String,
    /// How often a build is tried before it fails for good, when the fault is not its own.
    pub max_attempts: u32,
    /// How often an event is delivered before the broker itself takes it for one that kills workers
    /// and dead-letters it.
    pub delivery_limit: u32,
    /// A connection on which nothing was heard for twice this time is given up. Whole seconds.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The longest time a connect may take: name, TCP, TLS and login together.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The section `network`.
    #[serde(skip)]
    pub network: NetworkConfig,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            url: "amqp://127.0.0.1:5672/%2f".parse().expect("the default URL is one"),
            url_file: None,
            declare: Declare::Auto,
            deploys: "maestro.deploys".to_owned(),
            builds: "buildgrid.builds".to_owned(),
            dead: "buildgrid.dead".to_owned(),
            events: "buildgrid.events".to_owned(),
            max_attempts: 5,
            delivery_limit: 20,
            heartbeat: Duration::from_secs(15),
            connect_timeout: Duration::from_secs(10),
            network: NetworkConfig::default(),
        }
    }
}

impl QueueConfig {
    /// The URL to connect to: `url`, or what `url_file` contains now. Apart from [`check`](Self::check): a
    /// registry reads the same configuration, and the file is none of its business.
    ///
    /// # Errors
    /// A sentence that names the file, and not what is in it.
    pub fn resolved_url(&self) -> Result<BrokerUrl, String> {
        let Some(file) = &self.url_file else { return Ok(self.url.clone()) };
        let named = |error: &dyn std::fmt::Display| format!("queue.url_file {}: {error}", file.display());
        let text = std::fs::read_to_string(file).map_err(|error| named(&error))?;
        text.trim().parse().map_err(|error: InvalidBrokerUrl| named(&error))
    }

    /// Notes every value that cannot be used.
    pub fn check(&self, faults: &mut Faults) {
        let names = [
            ("queue.deploys", &self.deploys),
            ("queue.builds", &self.builds),
            ("queue.dead", &self.dead),
            ("queue.events", &self.events),
        ];
        for (index, (key, name)) in names.iter().enumerate() {
            if name.is_empty() || name.len() > MAX_NAME {
                faults.add(key, format_args!("is {} bytes long; 1 to {MAX_NAME} are taken", name.len()));
            }
            if name.starts_with("amq.") {
                faults
                    .add(key, format_args!("{name:?} begins with 'amq.', which the broker keeps to itself"));
            }
            if let Some((other, _)) = names[..index].iter().find(|(_, earlier)| earlier == name) {
                faults.add(key, format_args!("{name:?} is the name of {other} too"));
            }
        }
        if !(1..=1000).contains(&self.max_attempts) {
            faults.add("queue.max_attempts", format_args!("{}; 1 to 1000 are taken", self.max_attempts));
        }
        if !(1..=1_000_000).contains(&self.delivery_limit) {
            faults
                .add("queue.delivery_limit", format_args!("{}; 1 to 1000000 are taken", self.delivery_limit));
        }
        let heartbeat = self.heartbeat.as_secs();
        if !(1..=600).contains(&heartbeat) || self.heartbeat.subsec_nanos() != 0 {
            faults.add("queue.heartbeat", "takes whole seconds from 1s to 10m");
        }
        if self.connect_timeout.is_zero() || self.connect_timeout > Duration::from_secs(600) {
            faults.add("queue.connect_timeout", "takes a time up to 10m");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(config: &QueueConfig) -> String {
        let mut faults = Faults::default();
        config.check(&mut faults);
        format!("{faults:?}")
    }

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(faults(&QueueConfig::default()), format!("{:?}", Faults::default()));
    }

    #[test]
    fn every_fault_is_named_and_no_password() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("url");
        std::fs::write(&file, "http://me:hunter2@host/").unwrap();
        let from_file = QueueConfig { url_file: Some(file), ..QueueConfig::default() };
        let refused = from_file.resolved_url().unwrap_err();
        assert!(refused.contains("queue.url_file") && !refused.contains("hunter2"), "{refused}");
        assert_eq!(faults(&from_file), faults(&QueueConfig::default()), "others need not read it");
        let found = faults(&QueueConfig {
            deploys: String::new(),
            builds: "amq.builds".to_owned(),
            events: "buildgrid.dead".to_owned(),
            max_attempts: 0,
            delivery_limit: 0,
            heartbeat: Duration::from_millis(1500),
            connect_timeout: Duration::ZERO,
            ..QueueConfig::default()
        });
        for key in [
            "queue.deploys",
            "queue.builds",
            "queue.events",
            "queue.max_attempts",
            "queue.delivery_limit",
            "queue.heartbeat",
            "queue.connect_timeout",
        ] {
            assert!(found.contains(key), "{key} is not in {found}");
        }
    }
}
