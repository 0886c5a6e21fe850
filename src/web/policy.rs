//! The section `policy` of the configuration: which builds of an app, and how many of a namespace, may run at
//! once. The timeline service keeps it, since it alone knows what every worker runs.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::publish::name::{AppName, Namespace};

/// What an event does where another build of its app runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// It is built beside it.
    Parallel,
    /// It waits for its turn: one after the other, first come, first served.
    Serial,
    /// As `serial`, and an event that no worker builds yet is cancelled once a later one of its ref is known.
    LatestOnly,
}

impl Policy {
    const ALL: [Self; 3] = [Self::Parallel, Self::Serial, Self::LatestOnly];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parallel => "parallel",
            Self::Serial => "serial",
            Self::LatestOnly => "latest-only",
        }
    }

    /// Whether builds of the app run one at a time.
    pub fn is_serial(self) -> bool {
        self != Self::Parallel
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Policy {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text).ok_or(())
    }
}

/// Which builds run at once. Read by the timeline service, and by `buildgrid up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyConfig {
    /// What holds for every app: `parallel`, `serial` or `latest-only`.
    pub default: Policy,
    /// What holds for the apps of a namespace, `"acme" = "serial"`, or for one app, `"acme/shop" = "latest-only"`,
    /// which goes before its namespace.
    pub builds: BTreeMap<String, String>,
    /// How many builds of one namespace run at once, so that none keeps the others waiting; 0 for no limit.
    pub max_running: u32,
    /// The same for single namespaces, `"acme" = 4`.
    pub max_running_in: BTreeMap<String, u32>,
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self {
            default: Policy::Parallel,
            builds: BTreeMap::new(),
            max_running: 0,
            max_running_in: BTreeMap::new(),
        }
    }
}

impl PolicyConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (name, policy) in &self.builds {
            if let Some(reason) = name_fault(name) {
                faults.add_entry("policy.builds", name, reason);
            }
            if policy.parse::<Policy>().is_err() {
                let there_are = Policy::ALL.map(Policy::as_str).join(", ");
                faults.add_entry(
                    "policy.builds",
                    name,
                    format_args!("{policy:?} is not a policy; there are {there_are}"),
                );
            }
        }
        for name in self.max_running_in.keys() {
            if let Err(error) = name.parse::<Namespace>() {
                faults.add_entry("policy.max_running_in", name, error);
            }
        }
    }

    /// Whether it asks for anything that somebody would have to keep.
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }

    /// What holds for an app.
    pub fn of(&self, namespace: &Namespace, app: &AppName) -> Policy {
        let set = self.builds.get(&format!("{namespace}/{app}"));
        let set = set.or_else(|| self.builds.get(namespace.as_str()));
        set.and_then(|policy| policy.parse().ok()).unwrap_or(self.default)
    }

    /// How many builds of a namespace may run at once, if that is limited, and the key that says so.
    pub fn limit(&self, namespace: &Namespace) -> Option<(u32, &'static str)> {
        let (most, key) = match self.max_running_in.get(namespace.as_str()) {
            Some(&most) => (most, "policy.max_running_in"),
            None => (self.max_running, "policy.max_running"),
        };
        (most > 0).then_some((most, key))
    }
}

/// What is wrong with the name of an app or a namespace.
fn name_fault(name: &str) -> Option<String> {
    let (namespace, app) = match name.split_once('/') {
        None => (name, None),
        Some((namespace, app)) => (namespace, Some(app)),
    };
    let wrong = namespace.parse::<Namespace>().err();
    let wrong = wrong.or_else(|| app.and_then(|app| app.parse::<AppName>().err()));
    wrong.map(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn read(text: &str) -> Result<PolicyConfig, String> {
        Config::parse("f", text, []).map(|config| config.policy).map_err(|invalid| invalid.to_string())
    }

    #[test]
    fn the_most_specific_name_wins() {
        let text = "[policy]\ndefault = \"serial\"\nbuilds = { acme = \"latest-only\", \"acme/shop\" = \"parallel\" }\n\
                    max_running = 3\nmax_running_in = { acme = 1, free = 0 }\n";
        let policy = read(text).unwrap();
        let of = |namespace: &str, app: &str| policy.of(&namespace.parse().unwrap(), &app.parse().unwrap());
        assert_eq!(of("acme", "shop"), Policy::Parallel);
        assert_eq!(of("acme", "blog"), Policy::LatestOnly);
        assert_eq!(of("other", "shop"), Policy::Serial);
        let limit = |namespace: &str| policy.limit(&namespace.parse().unwrap());
        assert_eq!(limit("acme"), Some((1, "policy.max_running_in")));
        assert_eq!((limit("other"), limit("free")), (Some((3, "policy.max_running")), None));
        assert!(policy.is_set() && !PolicyConfig::default().is_set());
    }

    #[test]
    fn every_fault_names_its_entry_and_its_line() {
        let text = "[policy]\ndefault = \"on\"\nmax_running = -1\n\n[policy.builds]\nacme = \"serial\"\n\
                    \"acme/shop\" = \"serail\"\n\"Acme\" = \"serial\"\n\"acme/a/b\" = \"serial\"\n\n\
                    [policy.max_running_in]\nlocalhost = 3\n";
        let faults = read(text).unwrap_err();
        for found in [
            "f:2: policy.default: unknown variant `on`",
            "f:3: policy.max_running: ",
            "f:7: policy.builds.\"acme/shop\": \"serail\" is not a policy; there are parallel, serial, latest-only",
            "f:8: policy.builds.\"Acme\": namespace \"Acme\" is not a name",
            "f:9: policy.builds.\"acme/a/b\": app \"a/b\" is not a name",
            "f:12: policy.max_running_in.\"localhost\": ",
        ] {
            assert!(faults.contains(found), "{found} is not in {faults}");
        }
        assert!(faults.starts_with("the configuration has 6 faults"), "{faults}");
    }

    #[test]
    fn policies_are_read_as_they_are_written() {
        for policy in Policy::ALL {
            assert_eq!(policy.as_str().parse(), Ok(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
        }
    }
}
