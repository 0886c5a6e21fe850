//! Where a request comes from: the other end of its connection, or who a proxy says it was.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use ipnet::IpNet;

use super::ServerConfig;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    pub fn new(config: &ServerConfig) -> Self {
        Self(config.proxies())
    }

    /// The source of a request. Each proxy has added, at the end, whom it was asked by: the last one that is none of
    /// ours is believed, and what stands before it is anybody's word.
    pub fn source(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let mut source = peer.ip().to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().rev().filter_map(|line| line.to_str().ok());
        for hop in lines.flat_map(|line| line.rsplit(',')) {
            if !self.0.iter().any(|proxy| proxy.contains(&source)) {
                break;
            }
            let hop = hop.trim();
            let parsed = hop.parse::<IpAddr>().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()));
            let Some(asked_by) = parsed else { break };
            source = asked_by.to_canonical();
        }
        source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn believes_its_own_proxies_alone() {
        let proxies = Proxies::new(&ServerConfig {
            trusted_proxies: vec!["127.0.0.1".to_owned(), "10.0.0.0/8".to_owned()],
        });
        for (peer, lines, source) in [
            ("127.0.0.1:1", &[][..], "127.0.0.1"),
            ("127.0.0.1:1", &["192.0.2.7"], "192.0.2.7"),
            ("127.0.0.1:1", &["6.6.6.6, 192.0.2.7, 10.1.1.1"], "192.0.2.7"),
            ("127.0.0.1:1", &["6.6.6.6", "192.0.2.7:4711", "10.1.1.1"], "192.0.2.7"),
            ("[::ffff:127.0.0.1]:1", &["2001:db8::1"], "2001:db8::1"),
            ("192.0.2.9:1", &["6.6.6.6"], "192.0.2.9"),
            ("127.0.0.1:1", &["192.0.2.7, unknown"], "127.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            assert_eq!(proxies.source(peer.parse().unwrap(), &headers).to_string(), source, "{lines:?}");
        }
    }
}
