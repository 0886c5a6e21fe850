//! The section `network` of the configuration: what every connection that leaves this machine has in common,
//! to git servers, the timeline service and the broker. Which other settings they have is theirs.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use ipnet::IpNet;
use reqwest::{Certificate, Client, ClientBuilder, Proxy};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::config::Faults;

/// How servers are reached, and by whose certificates they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// The HTTP proxy for everything that speaks HTTP or HTTPS with another machine: `http://host:port`. Empty:
    /// none. The broker, the Docker engine and git over SSH never go through it.
    pub proxy: String,
    /// What is reached without the proxy: host names, which cover those below them, addresses and networks. This
    /// machine's own addresses always are.
    pub no_proxy: Vec<String>,
    /// A file of certificates (PEM) of authorities that are trusted beside the machine's. Read at every connect.
    pub ca_file: Option<PathBuf>,
}

impl NetworkConfig {
    /// Notes every value that cannot be used. `ca_file` is looked at by who connects: not every command does.
    pub fn check(&self, faults: &mut Faults) {
        if let Some(reason) = proxy_fault(&self.proxy) {
            faults.add("network.proxy", reason);
        }
        for entry in &self.no_proxy {
            let is_host = Host::parse(without_dot(entry)).is_ok();
            if entry.parse::<IpNet>().is_err() && entry.parse::<IpAddr>().is_err() && !is_host {
                faults.add(
                    "network.no_proxy",
                    format!("{entry:?} is not a host name, an address or a network such as 10.0.0.0/8"),
                );
            }
        }
    }

    /// A client for one server, which follows no redirects.
    ///
    /// # Errors
    /// `ca_file` cannot be read.
    pub fn client(&self, url: &Url) -> anyhow::Result<ClientBuilder> {
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // The environment's proxies are not taken: what is configured is all there is.
            .no_proxy();
        if let Some(proxy) = self.proxy_for(url) {
            builder = builder.proxy(Proxy::all(proxy).context("use network.proxy")?);
        }
        if url.scheme() == "http" {
            // Without TLS the machine's certificates need not be loaded, nor be there.
            return Ok(builder.tls_certs_only([]));
        }
        match self.authorities()? {
            Some(pem) => Ok(builder.tls_certs_merge(Certificate::from_pem_bundle(pem.as_bytes())?)),
            None => Ok(builder),
        }
    }

    /// The proxy by which an address is reached, if it is by one.
    pub fn proxy_for(&self, url: &Url) -> Option<&str> {
        let host = url.host()?;
        let proxy = Some(self.proxy.as_str()).filter(|proxy| !proxy.is_empty())?;
        (!is_own(&host) && !self.no_proxy.iter().any(|entry| covers(entry, &host))).then_some(proxy)
    }

    /// The certificates of `ca_file`, if there is one.
    ///
    /// # Errors
    /// It cannot be read, or has no certificate.
    pub fn authorities(&self) -> anyhow::Result<Option<String>> {
        let Some(file) = &self.ca_file else { return Ok(None) };
        let named = || format!("network.ca_file {}", file.display());
        let pem = std::fs::read_to_string(file).with_context(named)?;
        let found = Certificate::from_pem_bundle(pem.as_bytes()).with_context(named)?;
        anyhow::ensure!(!found.is_empty(), "{} has no certificate in it (PEM)", named());
        Ok(Some(pem))
    }
}

fn proxy_fault(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    match Url::parse(text) {
        // Not quoted: it may contain a password.
        Err(error) => Some(format!("is not an address: {error}")),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Some("contains a login; a proxy that asks for one cannot be used".to_owned())
        }
        Ok(url) if url.scheme() != "http" || url.host_str().is_none() || !matches!(url.path(), "" | "/") => {
            Some(format!("{text:?} is not an address of the form http://host:port"))
        }
        Ok(_) => None,
    }
}

fn without_dot(name: &str) -> &str {
    name.strip_prefix("*.").or_else(|| name.strip_prefix('.')).unwrap_or(name)
}

/// Whether a host is this machine by what it is called.
pub fn is_own(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.to_canonical().is_loopback(),
    }
}

fn covers(entry: &str, host: &Host<&str>) -> bool {
    let address: IpAddr = match host {
        Host::Domain(name) => {
            let entry = without_dot(entry).to_ascii_lowercase();
            return name.strip_suffix(&entry).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        }
        Host::Ipv4(address) => (*address).into(),
        Host::Ipv6(address) => address.to_canonical(),
    };
    let network = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
    network.is_ok_and(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(proxy: &str, no_proxy: &[&str]) -> NetworkConfig {
        NetworkConfig {
            proxy: proxy.to_owned(),
            no_proxy: no_proxy.iter().map(|entry| (*entry).to_owned()).collect(),
            ca_file: None,
        }
    }

    #[test]
    fn what_is_near_is_reached_without_the_proxy() {
        let config = config("http://proxy:3128", &["git.internal", ".corp", "10.0.0.0/8", "fd00::1"]);
        for direct in [
            "http://localhost:1/x",
            "https://127.0.0.9/x",
            "https://[::1]/x",
            "https://git.internal/x",
            "https://a.git.internal/x",
            "https://b.corp/x",
            "https://10.1.2.3/x",
            "https://[::ffff:10.1.2.3]/x",
            "https://[fd00::1]/x",
        ] {
            assert_eq!(config.proxy_for(&direct.parse().unwrap()), None, "{direct}");
        }
        for far in
            ["https://notgit.internal/x", "https://11.0.0.1/x", "https://[fd00::2]/x", "http://corp.x/"]
        {
            assert_eq!(config.proxy_for(&far.parse().unwrap()), Some("http://proxy:3128"), "{far}");
        }
        let none = NetworkConfig::default();
        assert_eq!(none.proxy_for(&"https://git.example.com/x".parse().unwrap()), None);
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_its_name() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        for (file, reason) in [(empty.path(), "has no certificate"), ("/no/such".as_ref(), "/no/such")] {
            let config = NetworkConfig { ca_file: Some(file.to_owned()), ..NetworkConfig::default() };
            let error = config.client(&"https://git.example.com/".parse().unwrap()).unwrap_err();
            assert!(format!("{error:#}").contains(reason), "{error:#}");
        }
    }

    #[test]
    fn names_every_fault_without_a_password() {
        let bad = config("http://me:hunter2@proxy:3128", &["10.0.0.0/64", "http://x"]);
        let mut faults = Faults::default();
        bad.check(&mut faults);
        let faults = format!("{faults:?}");
        for named in ["network.proxy", "10.0.0.0/64", "http://x"] {
            assert!(faults.contains(named), "{named} is not in {faults}");
        }
        assert!(!faults.contains("hunter2"), "{faults}");
        for bad in ["proxy:3128", "socks5://proxy:1", "http://proxy/path"] {
            assert!(proxy_fault(bad).is_some(), "{bad}");
        }
        assert_eq!(proxy_fault("http://proxy.example.com:3128"), None);
    }
}
