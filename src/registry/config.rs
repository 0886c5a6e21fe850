//! The section `registry` of the configuration.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::uri::Authority;
use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::publish::name::Namespace;
use crate::serving::tls::TlsConfig;

/// How images are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// What image URLs begin with: the host, and the port unless it is 443, under which clients
    /// reach the registry. They insist on TLS unless it is an address of their own machine.
    pub host: String,
    /// The address to serve `/v2/` on, by TLS with `tls`, else in plain HTTP.
    pub listen: SocketAddr,
    /// The certificate to speak TLS with. Without it, a proxy that does belongs before other machines' clients.
    pub tls: Option<TlsConfig>,
    /// The address for `/healthz`, `/readyz` and `/metrics`.
    pub status_listen: SocketAddr,
    /// The namespaces whose images anybody may pull, without a login.
    pub public_namespaces: BTreeSet<Namespace>,
    /// Connections served at once, seven eighths of them at most from one source (an address, or an IPv6 /64); more wait.
    /// Each may need two file descriptors.
    pub max_connections: usize,
    /// A client that for this long sends no complete request head, or takes none of the bytes sent
    /// to it, is disconnected.
    #[serde(with = "humantime_serde")]
    pub client_timeout: Duration,
    /// Whether clients fetch blobs from the object store themselves, by an address that the registry signs for each
    /// (307): less work for it, and they must reach the object store. Whoever learns the address can read that blob for five
    /// minutes. A store in a directory is always served by the registry.
    pub redirect: bool,
    /// How long running pulls may go on when the registry is told to stop.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            host: "localhost:5000".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            tls: None,
            status_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9442)),
            public_namespaces: BTreeSet::new(),
            // Fits into the 1024 descriptors that a process commonly may open.
            max_connections: 400,
            client_timeout: Duration::from_secs(60),
            redirect: false,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl RegistryConfig {
    pub fn check(&self, faults: &mut Faults) {
        if let Some(reason) = host_fault(&self.host) {
            faults.add("registry.host", reason);
        }
        if self.listen.port() != 0 && self.listen == self.status_listen {
            faults.add("registry.status_listen", "is the address of registry.listen; choose another port");
        }
        if self.max_connections == 0 {
            faults.add("registry.max_connections", "is 0; at least 1 is needed");
        }
        for (key, value) in
            [("registry.client_timeout", self.client_timeout), ("registry.drain_timeout", self.drain_timeout)]
        {
            if value < Duration::from_secs(1) {
                faults.add(key, format_args!("is {value:?}; at least 1s is needed"));
            }
        }
    }
}

/// Why clients would not take `host` for the host of an image URL: they do so if it is `localhost`
/// or contains a dot or a colon (docker's reference grammar), and it has no scheme and no path.
fn host_fault(host: &str) -> Option<&'static str> {
    match host.parse::<Authority>() {
        Err(_) => Some("is not a host, with a port where it is not 443 (no https:// and no path)"),
        Ok(authority) if authority.as_str().contains('@') => {
            Some("contains a login; clients log in themselves")
        }
        Ok(_) if host == "localhost" || host.contains(['.', ':']) => None,
        Ok(_) => Some("would be taken for a part of the image's name; add the port or the domain"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_from_a_section() {
        let section = "host = \"registry.example.com\"\nlisten = \"[::]:80\"\ndrain_timeout = \"2m\"";
        let config: RegistryConfig = toml::from_str(section).unwrap();
        assert_eq!(config.listen.port(), 80);
        assert_eq!(config.drain_timeout, Duration::from_secs(120));
        assert_eq!(config.client_timeout, RegistryConfig::default().client_timeout);
        let public: RegistryConfig = toml::from_str("public_namespaces = [\"acme\"]").unwrap();
        assert_eq!(public.public_namespaces, ["acme".parse().unwrap()].into());
        assert!(toml::from_str::<RegistryConfig>("public_namespaces = [\"*\"]").is_err());
        assert!(toml::from_str::<RegistryConfig>("hots = \"x\"").is_err());
    }

    #[test]
    fn a_host_is_one_that_clients_take_for_a_host() {
        for good in ["localhost", "localhost:5000", "registry.example.com", "[::1]:5000", "build:443"] {
            assert_eq!(host_fault(good), None, "{good}");
        }
        for bad in ["", "https://a.b", "a.b/c", "a b", "registry", "u:p@a.b"] {
            assert!(host_fault(bad).is_some(), "{bad}");
        }
        assert_eq!(host_fault(&RegistryConfig::default().host), None);
    }
}
