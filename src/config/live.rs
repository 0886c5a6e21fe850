//! The configuration of a program that runs: as it was started, with the newest values of those keys that
//! can change meanwhile.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use super::Config;

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
        config.registry.host.clone_from(&newer.registry.host);
        config.fake = newer.fake.clone();
        config.policy = newer.policy.clone();
        config.namespaces = newer.namespaces.clone();
        config.worker.idle_timeout = newer.worker.idle_timeout;
        config.disk = newer.disk;
        config.logging.level.clone_from(&newer.logging.level);
        config.logging.build_output = newer.logging.build_output;
        config
    }

    /// The keys, as `section.key`, whose values are not those of `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        if let (Ok(Value::Object(these)), Ok(those)) =
            (serde_json::to_value(self), serde_json::to_value(other))
        {
            for (section, values) in these {
                let Value::Object(values) = values else { continue };
                let differs = |(key, value): (String, Value)| {
                    (those[&section][&key] != value).then(|| format!("{section}.{key}"))
                };
                keys.extend(values.into_iter().filter_map(differs));
            }
        }
        // Its password is not printed, and so not compared above.
        let url = "queue.url".to_owned();
        if self.queue.url.expose() != other.queue.url.expose() && !keys.contains(&url) {
            keys.push(url);
        }
        keys
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
        let changed = newer.differences(&started);
        assert_eq!(
            changed,
            ["fake.namespaces", "policy.max_running", "worker.data_dir", "worker.slots", "queue.url"]
        );

        sender.send_replace(Arc::new(newer.clone()));
        live.changed().await;
        let now = live.now();
        assert_eq!((now.worker.slots, now.fake.namespaces.len()), (7, 0));
        assert!(now.policy.is_set(), "the arbiter's, too");
        assert_eq!(now.worker.data_dir, std::path::Path::new("/of/its/own"));
        assert_eq!(newer.differences(&started.reloaded(&newer)), ["worker.data_dir", "queue.url"]);
    }
}
