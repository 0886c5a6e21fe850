//! The section `server` of the configuration: what registry and timeline service share in serving.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::Faults;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The proxies before registry and timeline service, as addresses or networks. What they say of where a
    /// request comes from (`X-Forwarded-For`) is believed; without them all their requests have one source, one who
    /// guesses passwords makes all others wait, and they may have seven eighths of the connections at most.
    pub trusted_proxies: Vec<String>,
}

impl ServerConfig {
    pub fn check(&self, faults: &mut Faults) {
        for entry in &self.trusted_proxies {
            if network(entry).is_none() {
                let reason = format_args!("{entry:?} is not an address or a network such as 10.0.0.0/8");
                faults.add("server.trusted_proxies", reason);
            }
        }
    }

    pub(super) fn proxies(&self) -> Vec<IpNet> {
        self.trusted_proxies.iter().filter_map(|entry| network(entry)).collect()
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_addresses_and_networks() {
        let config = |entries: &[&str]| ServerConfig {
            trusted_proxies: entries.iter().map(|entry| (*entry).to_owned()).collect(),
        };
        assert_eq!(config(&["127.0.0.1", "10.0.0.0/8", "::1"]).proxies().len(), 3);
        let mut faults = Faults::default();
        config(&["proxy.example.com", "10.0.0.0/64"]).check(&mut faults);
        let faults = format!("{faults:?}");
        assert!(faults.contains("proxy.example.com") && faults.contains("10.0.0.0/64"), "{faults}");
    }
}
