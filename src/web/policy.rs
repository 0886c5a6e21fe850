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
#[serde(rename_all = "kebab-case", try_from = "String")]
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

/// A word that is none of the policies.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a policy; there are {there_are}", there_are = Policy::ALL.map(Policy::as_str).join(", "))]
pub struct InvalidPolicy(String);

impl FromStr for Policy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let named = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        named.ok_or_else(|| InvalidPolicy(text.to_owned()))
    }
}

impl TryFrom<String> for Policy {
    type Error = InvalidPolicy;

    fn try_from(text: String) -> Result<Self, InvalidPolicy> {
        text.parse()
    }
}

/// The highest limit of running builds that can be set.
const MOST_RUNNING: u32 = 1_000_000;

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
    pub max_running: i64,
    /// The same for single namespaces, `"acme" = 4`.
    pub max_running_in: BTreeMap<String, i64>,
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
            if let Err(error) = policy.parse::<Policy>() {
                faults.add_entry("policy.builds", name, error);
            }
        }
        if let Some(reason) = limit_fault(self.max_running) {
            faults.add("policy.max_running", reason);
        }
        for (name, &most) in &self.max_running_in {
            if let Err(error) = name.parse::<Namespace>() {
                faults.add_entry("policy.max_running_in", name, error);
            }
            if let Some(reason) = limit_fault(most) {
                faults.add_entry("policy.max_running_in", name, reason);
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
        // Others than these are faults.
        u32::try_from(most).ok().filter(|most| *most > 0).map(|most| (most, key))
    }
}

/// What is wrong with a limit of running builds.
fn limit_fault(most: i64) -> Option<String> {
    let range = 0..=i64::from(MOST_RUNNING);
    (!range.contains(&most))
        .then(|| format!("{most} is out of range; 0 (no limit) to {MOST_RUNNING} are possible"))
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
                    [policy.max_running_in]\nlocalhost = 3\n\
                    acme = 5000000000\n";
        let faults = read(text).unwrap_err();
        for found in [
            "f:2: policy.default: \"on\" is not a policy; there are parallel, serial, latest-only",
            "f:3: policy.max_running: -1 is out of range; 0 (no limit) to 1000000 are possible",
            "f:7: policy.builds.\"acme/shop\": \"serail\" is not a policy; there are parallel, serial, latest-only",
            "f:8: policy.builds.\"Acme\": namespace \"Acme\" is not a name",
            "f:9: policy.builds.\"acme/a/b\": app \"a/b\" is not a name",
            "f:12: policy.max_running_in.\"localhost\": ",
            "f:13: policy.max_running_in.\"acme\": 5000000000 is out of range; 0 (no limit) to 1000000 are possible",
        ] {
            assert!(faults.contains(found), "{found} is not in {faults}");
        }
        assert!(faults.starts_with("the configuration has 7 faults"), "{faults}");
    }

    #[test]
    fn policies_are_read_as_they_are_written() {
        for policy in Policy::ALL {
            assert_eq!(policy.as_str().parse(), Ok(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.as_str());
        }
    }
}
