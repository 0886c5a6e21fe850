//! What a build may do: the first look at an accepted event. Everything here is decided by the configuration
//! and the event alone, before anything is fetched; a refusal names the rule.

pub mod config;

use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;

pub use config::NamespacesConfig;
use config::Set;

use crate::build::docker::Network;
use crate::config::Config;
use crate::event::deploy::{DeployEvent, Work};
use crate::publish::name::Namespace;
use crate::source::url::RepositoryUrl;
use crate::timeline::sink::LogSink;

/// What the configuration allows.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Where fake builds are allowed.
    pub fake_namespaces: Vec<Namespace>,
    /// The time limit of an event that names none.
    pub build_timeout: Duration,
    /// The longest time limit an event may have.
    pub max_build_timeout: Duration,
    /// How long a build may go on without a sign of life.
    pub idle_timeout: Duration,
    /// What build steps can reach.
    pub network: Network,
    pub namespaces: NamespacesConfig,
}

/// How long a build may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeLimits {
    pub whole: Duration,
    /// The key that has cut it, and what the event asks for.
    pub cut: Option<(String, Duration)>,
    pub idle: Duration,
    /// The key that says so.
    pub idle_key: String,
}

impl TimeLimits {
    /// Waits until one of them is over, and says so to the one who wrote the build.
    pub async fn are_over(&self, log: &LogSink) -> String {
        let whole = Instant::now() + self.whole;
        loop {
            let idle = log.last_sign() + self.idle;
            if idle <= Instant::now() {
                return format!(
                    "the build gave no sign of life for {} s, which is the limit ({}); a step that works in silence for \
                     longer must say something now and then",
                    self.idle.as_secs(),
                    self.idle_key
                );
            }
            tokio::time::sleep_until(idle.min(whole)).await;
            if whole <= Instant::now() {
                return format!(
                    "the build did not end within its time limit of {} s; raise build.timeout_s, or make it faster",
                    self.whole.as_secs()
                );
            }
        }
    }
}

impl Rules {
    pub fn of(config: &Config) -> Self {
        Self {
            fake_namespaces: config.fake.namespaces.clone(),
            build_timeout: config.worker.build_timeout,
            max_build_timeout: config.worker.max_build_timeout,
            idle_timeout: config.worker.idle_timeout,
            network: config.engine.network,
            namespaces: config.namespaces.clone(),
        }
    }

    /// What the steps of a namespace's builds can reach.
    pub fn network(&self, namespace: &Namespace) -> Network {
        let own = self.namespaces.find(namespace, "network", |rules| &rules.network);
        own.map_or(self.network, |own| own.value)
    }

    /// What no amount of building would make right, as a sentence with the rule.
    pub fn permit(&self, event: &DeployEvent) -> Result<(), String> {
        match &event.work {
            Work::Fake(_) if !self.fake_namespaces.contains(&event.namespace) => Err(format!(
                "fake builds are not allowed in namespace {}; fake.namespaces lists where they are",
                event.namespace
            )),
            Work::Fake(_) => Ok(()),
            Work::Repository(url) => self.permit_url(&event.namespace, url),
        }
    }

    /// How much the namespace's images may take in the store, in bytes, and the key that says so.
    pub fn quota(&self, namespace: &Namespace) -> Option<Set<u64>> {
        let own = self.namespaces.find(namespace, "max_store", |rules| &rules.max_store)?;
        Some(Set { value: own.value.as_u64(), key: own.key })
    }

    /// Whether a namespace that has so much in the store may build more.
    pub fn permit_usage(&self, namespace: &Namespace, usage: u64) -> Result<(), String> {
        let Some(quota) = self.quota(namespace).filter(|quota| usage >= quota.value) else { return Ok(()) };
        let shown = |bytes| ByteSize(bytes).display().iec().to_string();
        Err(format!(
            "namespace {namespace} has {} in the store, and {} allows {}; let images go by [retention] and collect them \
             (`buildgrid store du` shows which take most), or allow more",
            shown(usage),
            quota.key,
            shown(quota.value)
        ))
    }

    /// Whether builds of the namespace may be made of what lies at `url`.
    pub fn permit_url(&self, namespace: &Namespace, url: &RepositoryUrl) -> Result<(), String> {
        let Some(allowed) = self.namespaces.find(namespace, "repositories", |rules| &rules.repositories)
        else {
            return Ok(());
        };
        if allowed.value.iter().any(|prefix| prefix.covers(url).is_some()) {
            return Ok(());
        }
        let listed: Vec<_> = allowed.value.iter().map(ToString::to_string).collect();
        let listed = if listed.is_empty() { "none".to_owned() } else { listed.join(", ") };
        Err(format!(
            "builds of namespace {namespace} may not be made of {url}: {} allows {listed}",
            allowed.key
        ))
    }

    pub fn limits(&self, event: &DeployEvent) -> TimeLimits {
        let (namespace, asked) = (&event.namespace, event.options.timeout.unwrap_or(self.build_timeout));
        let own = self.namespaces.find(namespace, "max_build_timeout", |rules| &rules.max_build_timeout);
        let (most, key) = match own {
            // What a namespace may have cannot exceed what any may.
            Some(own) if own.value < self.max_build_timeout => (own.value, own.key),
            _ => (self.max_build_timeout, "worker.max_build_timeout".to_owned()),
        };
        let idle = self.namespaces.find(namespace, "idle_timeout", |rules| &rules.idle_timeout);
        let all = || Set { value: self.idle_timeout, key: "worker.idle_timeout".to_owned() };
        let Set { value: idle, key: idle_key } = idle.unwrap_or_else(all);
        TimeLimits { whole: asked.min(most), cut: (asked > most).then_some((key, asked)), idle, idle_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rules(text: &str) -> Rules {
        let config = Config::parse("f", text, []).unwrap();
        Rules::of(&config)
    }

    fn event(namespace: &str, url: &str, timeout_s: u32) -> DeployEvent {
        let json = format!(
            r#"{{"version":1,"id":"b-1","namespace":"{namespace}","app":"web","repository":{{"url":"{url}"}},
                "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","build":{{"timeout_s":{timeout_s}}}}}"#
        );
        DeployEvent::parse(json.as_bytes()).unwrap().0
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let rules = rules(
            "[namespaces]\n\"*\" = { repositories = [\"https://git.example.com/shared/\"] }\n\
             acme = { repositories = [\"https://git.example.com/acme\"] }\nclosed = { repositories = [] }\n",
        );
        let permit = |namespace, url| rules.permit(&event(namespace, url, 60));
        assert_eq!(permit("acme", "https://git.example.com/acme/shop.git"), Ok(()));
        assert_eq!(permit("other", "https://git.example.com/shared/x"), Ok(()));
        let refused = permit("acme", "https://git.example.com/shared/x").unwrap_err();
        assert!(
            refused.contains("namespaces.acme.repositories allows https://git.example.com/acme"),
            "{refused}"
        );
        let refused = permit("other", "https://evil.example.com/x").unwrap_err();
        assert!(refused.contains("namespaces.\"*\".repositories"), "{refused}");
        let refused = permit("closed", "https://git.example.com/acme/x").unwrap_err();
        assert!(refused.ends_with("namespaces.closed.repositories allows none"), "{refused}");
    }

    #[test]
    fn a_namespace_has_its_own_network_or_that_of_all() {
        let rules = rules(
            "[engine]\nnetwork = \"none\"\n[namespaces]\nopen = { network = \"default\" }\n\
             \"*\" = { idle_timeout = \"1m\" }\n",
        );
        let network = |namespace: &str| rules.network(&namespace.parse().unwrap());
        assert_eq!((network("open"), network("acme")), (Network::Default, Network::None));
    }

    #[test]
    fn a_namespace_may_have_less_time_and_never_more() {
        let rules = rules(
            "[worker]\nmax_build_timeout = \"2h\"\nidle_timeout = \"10m\"\n[namespaces]\n\
             acme = { max_build_timeout = \"1m\", idle_timeout = \"5s\" }\nfree = { max_build_timeout = \"9h\" }\n",
        );
        let limits = |namespace, timeout_s| rules.limits(&event(namespace, "https://h/x", timeout_s));
        let seconds = Duration::from_secs;
        let acme = limits("acme", 90);
        assert_eq!((acme.whole, acme.idle), (seconds(60), seconds(5)));
        assert_eq!(acme.cut, Some(("namespaces.acme.max_build_timeout".to_owned(), seconds(90))));
        let free = limits("free", 8 * 3600);
        assert_eq!((free.whole, free.idle), (seconds(7200), seconds(600)));
        assert_eq!(free.cut.unwrap().0, "worker.max_build_timeout");
    }

    #[test]
    fn a_namespace_that_has_its_share_is_told_the_numbers() {
        let rules =
            rules("[namespaces]\nacme = { max_store = \"2 GiB\" }\n\"*\" = { max_store = \"1 GiB\" }\n");
        let permit = |namespace: &str, usage| rules.permit_usage(&namespace.parse().unwrap(), usage);
        assert_eq!(permit("acme", (2 << 30) - 1), Ok(()));
        let refused = permit("acme", 3 << 30).unwrap_err();
        assert!(
            refused.contains("has 3.0 GiB in the store, and namespaces.acme.max_store allows 2.0 GiB"),
            "{refused}"
        );
        assert!(permit("other", 1 << 30).unwrap_err().contains("namespaces.\"*\".max_store"));
        assert!(self::rules("").quota(&"acme".parse().unwrap()).is_none());
    }

    #[tokio::test]
    async fn a_build_that_says_something_is_not_idle() {
        let (log, mut lines) = LogSink::channel(crate::timeline::mask::Mask::none());
        let limits = |whole, idle| TimeLimits {
            whole: Duration::from_secs(whole),
            cut: None,
            idle: Duration::from_secs(idle),
            idle_key: "worker.idle_timeout".to_owned(),
        };
        let start = Instant::now();
        let speaking = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(700)).await;
                log.status("still here").await;
                lines.recv().await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let over = limits(1000, 1);
        let said = tokio::select! { said = over.are_over(&log) => said, () = speaking => unreachable!() };
        assert!(start.elapsed() >= Duration::from_millis(3100), "{:?}", start.elapsed());
        assert!(said.contains("no sign of life for 1 s, which is the limit (worker.idle_timeout)"), "{said}");
        log.is_alive();
        let said = limits(1, 5).are_over(&log).await;
        assert!(said.contains("within its time limit of 1 s"), "{said}");
    }

    #[test]
    fn faults_are_found_where_they_stand() {
        let invalid = Config::parse(
            "f",
            "[namespaces]\nacme = { repositories = [\"git.example.com\"] }\n\"a.b\" = {}\nx = { netwrk = 1 }\n\
             y = { idle_timeout = \"0s\" }\n",
            [],
        );
        let said = invalid.unwrap_err().to_string();
        for part in [
            "f:2: namespaces.acme",
            "f:3: namespaces.a.b",
            "f:4: namespaces.x",
            "f:5: namespaces.y.\"idle_timeout\"",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}
