//! Where a request comes from: the other end of its connection, or who a proxy says it was.

use std::net::{IpAddr, SocketAddr};
use std::sync::Once;

use http::HeaderMap;
use ipnet::{IpNet, Ipv6Net};

use super::ServerConfig;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    pub fn new(config: &ServerConfig) -> Self {
        Self(config.proxies())
    }

    /// Whether this is the address of one.
    pub(super) fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|proxy| proxy.contains(&address.to_canonical()))
    }

    /// The source of a request. Each proxy has added, at the end, whom it was asked by: the last one that is none of
    /// ours is believed, and what stands before it is anybody's word.
    pub fn source(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        let mut source = peer.ip().to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        // What cannot be read ends it: what stands before it is nobody's word.
        for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
            if !self.contain(source) {
                self.warn_of(peer);
                break;
            }
            let Some(asked_by) = str::from_utf8(hop).ok().and_then(|hop| address(hop.trim())) else { break };
            source = asked_by.to_canonical();
        }
        source
    }

    /// Of a proxy that is not configured, perhaps. Once: anybody can send the header.
    fn warn_of(&self, peer: SocketAddr) {
        static WARNED: Once = Once::new();
        let believes_none = self.0.is_empty();
        WARNED.call_once(|| {
            tracing::warn!(
                peer = %peer.ip(), believes_none,
                "a request says for whom it was forwarded; if that is a proxy of yours, name it in server.trusted_proxies: \
                 now all its requests have one source, and one who guesses passwords makes all others wait"
            );
        });
    }
}

/// The addresses that one client is taken to have: of IPv6 2^64.
pub(super) fn client_network(source: IpAddr) -> IpNet {
    match source.to_canonical() {
        IpAddr::V4(address) => IpNet::from(IpAddr::V4(address)),
        IpAddr::V6(address) => {
            Ipv6Net::new(address, 64).map_or_else(|_| IpAddr::V6(address).into(), |net| net.trunc().into())
        }
    }
}

fn address(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))
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
            ("127.0.0.1:1", &["6.6.6.6", "\u{ff}, 192.0.2.7"], "192.0.2.7"),
            ("127.0.0.1:1", &["6.6.6.6", "\u{ff}"], "127.0.0.1"),
            ("127.0.0.1:1", &["6.6.6.6", "10.1.1.1, \u{ff}, 10.2.2.2"], "10.2.2.2"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, http::HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            assert_eq!(proxies.source(peer.parse().unwrap(), &headers).to_string(), source, "{lines:?}");
        }
    }
}
