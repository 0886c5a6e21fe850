//! The section `timeline` of the configuration: where the service is, for workers and commands, and how
//! it serves.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::Faults;
use crate::network::NetworkConfig;
use crate::serving::tls::TlsConfig;

/// How the timeline service is reached, and how it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimelineConfig {
    /// Under what address workers, commands and browsers reach the service; links in result events begin
    /// with it. Empty: there is none, and workers arbitrate and keep logs alone.
    pub url: String,
    /// A file that holds the token with which a worker, or a command, calls the service; read again at
    /// every call that was refused, so that a token can be changed without a restart.
    pub token_file: Option<PathBuf>,
    /// The address to serve pages and `/api/v1` on, by TLS with `tls`, else in plain HTTP.
    pub listen: SocketAddr,
    /// The certificate to speak TLS with. Without it, a proxy that does belongs before other machines' browsers.
    pub tls: Option<TlsConfig>,
    /// The address for `/healthz`, `/readyz` and `/metrics`.
    pub status_listen: SocketAddr,
    /// Where the service keeps its database. Used by one service at a time.
    pub data_dir: PathBuf,
    /// Connections served at once, seven eighths of them at most from one source; more wait. One who follows a log keeps
    /// one; three of four may be followers'.
    pub max_connections: usize,
    /// The section `network`.
    #[serde(skip)]
    pub network: NetworkConfig,
}

impl Default for TimelineConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            token_file: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8420)),
            tls: None,
            status_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9443)),
            data_dir: PathBuf::from("/var/lib/buildgrid-timeline"),
            max_connections: 400,
            network: NetworkConfig::default(),
        }
    }
}

impl TimelineConfig {
    pub fn check(&self, faults: &mut Faults) {
        if let Some(reason) = url_fault(&self.url) {
            faults.add("timeline.url", reason);
        }
        match self.tls {
            // By that name clients know the certificate, and browsers keep their sessions to TLS.
            Some(_) if self.url.is_empty() => {
                faults.add("timeline.tls", "needs timeline.url: the https:// address that the certificate is for");
            }
            Some(_) if self.url.starts_with("http:") => faults.add_pair(
                "timeline.url",
                "timeline.tls",
                "timeline.url begins with http://, but with timeline.tls the service speaks TLS; make it https://",
            ),
            _ => {}
        }
        if self.listen.port() != 0 && self.listen == self.status_listen {
            faults.add("timeline.status_listen", "is the address of timeline.listen; choose another port");
        }
        if self.data_dir.as_os_str().is_empty() {
            faults.add("timeline.data_dir", "is empty; name a directory");
        }
        if self.max_connections == 0 {
            faults.add("timeline.max_connections", "is 0; at least 1 is needed");
        }
    }

    /// The host and port of `url`, or nothing.
    pub fn host(&self) -> String {
        let url = Url::parse(&self.url).ok();
        url.map(|url| url.authority().to_owned()).unwrap_or_default()
    }

    /// The address without a slash at its end, if there is a service.
    pub fn base(&self) -> Option<&str> {
        Some(self.url.trim_end_matches('/')).filter(|url| !url.is_empty())
    }
}

fn url_fault(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    match Url::parse(text) {
        Err(error) => Some(format!("{text:?} is not an address: {error}")),
        Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
            Some(format!("{text:?} is not an address of the form https://host[:port]"))
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Some("contains a login; name a timeline.token_file".to_owned())
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() || !matches!(url.path(), "" | "/") => {
            Some(format!("{text:?} has more than scheme, host and port"))
        }
        Ok(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for good in ["", "http://127.0.0.1:8420", "https://builds.example.com/", "http://[::1]:1"] {
            assert_eq!(url_fault(good), None, "{good}");
        }
        for bad in ["builds", "ftp://a", "https://u:p@a", "https://a/b", "https://a?b", "https:///"] {
            assert!(url_fault(bad).is_some(), "{bad}");
        }
        let config = TimelineConfig { url: "http://a:1/".to_owned(), ..TimelineConfig::default() };
        assert_eq!(config.base(), Some("http://a:1"));
        assert_eq!(TimelineConfig::default().base(), None);
    }
}
