//! The configuration of a program that runs: as it was started, with the newest values of those keys that
//! can change meanwhile.

use std::fmt::{self, Display};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::Config;
use crate::telemetry::printable::printable;

/// A configuration that may be reloaded. Whoever needs a value for longer than a moment takes it with
/// [`now`](Self::now), once, and keeps to it.
#[derive(Clone)]
pub struct Live {
    started: Arc<Config>,
    newest: watch::Receiver<Arc<Config>>,
}

impl Live {
    /// What starts with `config`, and changes with what is sent.
    pub fn new(config: &Config) -> (watch::Sender<Arc<Config>>, Self) {
        let started = Arc::new(config.clone());
        let (sender, newest) = watch::channel(started.clone());
        (sender, Self { started, newest })
    }

    /// The same changes on a program that was started with other values, such as directories of its own.
    pub fn on(&self, started: Config) -> Self {
        Self { started: Arc::new(started), newest: self.newest.clone() }
    }

    pub fn now(&self) -> Config {
        self.started.reloaded(&self.newest.borrow())
    }

    /// Resolves when it has changed since this handle last saw it do so.
    pub async fn changed(&mut self) {
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// One that nobody reloads.
impl From<&Config> for Live {
    fn from(config: &Config) -> Self {
        Self::new(config).1
    }
}

impl Config {
    /// This configuration with the values of `newer` for the keys that can change while a program runs. All
    /// others need a restart.
    pub fn reloaded(&self, newer: &Self) -> Self {
        let mut config = self.clone();
        config.worker.slots = newer.worker.slots;
        config.worker.build_timeout = newer.worker.build_timeout;
        config.worker.max_build_timeout = newer.worker.max_build_timeout;
        config.worker.drain_timeout = newer.worker.drain_timeout;
        config.worker.max_log = newer.worker.max_log;
        config.worker.keep_builds = newer.worker.keep_builds;
        config.queue.max_attempts = newer.queue.max_attempts;
        config.source = newer.source.clone();
        config.source.network = self.source.network.clone();
        config.publish = newer.publish.clone();
        // Where the registry is to move, its name moves with it: at the next start.
        if newer.registry.listen == self.registry.listen {
            config.registry.host.clone_from(&newer.registry.host);
        }
        config.fake = newer.fake.clone();
        config.policy = newer.policy.clone();
        config.history = newer.history;
        config.keeping = newer.keeping;
        config.retention = newer.retention.clone();
        config.namespaces = newer.namespaces.clone();
        config.worker.idle_timeout = newer.worker.idle_timeout;
        config.disk = newer.disk;
        config.logging.level.clone_from(&newer.logging.level);
        config.logging.build_output = newer.logging.build_output;
        config.keys_in_file = newer.keys_in_file;
        config
    }

    /// The keys whose values are not those that they had `before`.
    pub fn changes(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        if let (Ok(Value::Object(these)), Ok(those)) =
            (serde_json::to_value(self), serde_json::to_value(before))
        {
            for (section, values) in these {
                let Value::Object(values) = values else { continue };
                for (name, new) in values {
                    let old = &those[&section][&name];
                    if *old != new {
                        let values = Some((shown(old), shown(&new)));
                        changes.push(Change { key: format!("{section}.{name}"), values });
                    }
                }
            }
        }
        // Whatever order a JSON object keeps.
        changes.sort_by(|one, other| one.key.cmp(&other.key));
        // Its login is not printed, and so not compared above.
        let is_listed = changes.iter().any(|change| change.key == "queue.url");
        if self.queue.url.expose() != before.queue.url.expose() && !is_listed {
            changes.push(Change { key: "queue.url".to_owned(), values: None });
        }
        changes
    }

    /// Whether the file sets nothing any more, and did `before`: it was emptied, or is gone.
    pub fn is_emptied(&self, before: &Self) -> bool {
        self.keys_in_file == 0 && before.keys_in_file > 0
    }
}

/// A key with another value than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `section.key`.
    pub key: String,
    /// The value before and the one now; none where what has changed is a secret.
    values: Option<(String, String)>,
}

impl Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.values {
            Some((old, new)) => write!(f, "{} from {old} to {new}", self.key),
            None => write!(f, "{} to another login", self.key),
        }
    }
}

/// A value as it stands in a sentence.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".to_owned(),
        Value::String(text) if !text.is_empty() => printable(text),
        value => printable(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_can_change_changes_and_the_rest_stays() {
        let started = Config::default();
        let (sender, live) = Live::new(&started);
        let mut own = Config::default();
        own.worker.data_dir = "/of/its/own".into();
        let mut live = live.on(own);
        let mut newer = Config::default();
        newer.worker.slots = 7;
        newer.worker.data_dir = "/elsewhere".into();
        newer.queue.url = "amqp://me:other@127.0.0.1:5672/%2f".parse().unwrap();
        newer.fake.namespaces.clear();
        newer.policy = Config::parse("", "[policy]\nmax_running = 3\n", []).unwrap().policy;
        let words = |changes: Vec<Change>| changes.iter().map(Change::to_string).collect::<Vec<_>>();
        assert_eq!(
            words(newer.changes(&started)),
            [
                "fake.namespaces from [\"smoke\"] to []",
                "policy.max_running from 0 to 3",
                "worker.data_dir from /var/lib/buildgrid/worker to /elsewhere",
                "worker.slots from 2 to 7",
                "queue.url to another login",
            ]
        );

        sender.send_replace(Arc::new(newer.clone()));
        live.changed().await;
        let now = live.now();
        assert_eq!((now.worker.slots, now.fake.namespaces.len()), (7, 0));
        assert!(now.policy.is_set(), "the arbiter's, too");
        assert_eq!(now.worker.data_dir, std::path::Path::new("/of/its/own"));
        let waiting: Vec<_> =
            newer.changes(&started.reloaded(&newer)).into_iter().map(|change| change.key).collect();
        assert_eq!(waiting, ["worker.data_dir", "queue.url"]);
    }

    #[test]
    fn a_registry_that_is_to_move_keeps_its_name_until_it_does() {
        let started = Config::default();
        let mut newer = Config::default();
        newer.registry.host = "images.example.com".to_owned();
        assert_eq!(started.reloaded(&newer).registry.host, "images.example.com");
        newer.registry.listen = ([127, 0, 0, 1], 5001).into();
        assert_eq!(started.reloaded(&newer).registry.host, "localhost:5000");
        let waiting = newer.changes(&started.reloaded(&newer));
        assert_eq!(
            waiting.iter().map(Change::to_string).collect::<Vec<_>>(),
            [
                "registry.host from localhost:5000 to images.example.com",
                "registry.listen from 127.0.0.1:5000 to 127.0.0.1:5001",
            ]
        );
    }

    #[test]
    fn a_file_that_sets_nothing_any_more_is_an_emptied_one() {
        let read = |text: &str| Config::parse("f", text, []).unwrap();
        let (full, empty) = (read("[worker]\nslots = 3\n"), read("# slots = 3\n[worker]\n"));
        assert!(empty.is_emptied(&full) && empty.is_emptied(&Config::default().reloaded(&full)));
        assert!(!empty.is_emptied(&empty) && !full.is_emptied(&full) && !full.is_emptied(&empty));
    }
}
