//! Which addresses a repository may be fetched from. An event names any URL it likes; without this
//! check a build could read what only the worker's network can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An entry of `source.allow_private_addresses`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AllowedAddress {
    Host(String),
    Network(IpNet),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, an address or a network such as 10.0.0.0/8")]
pub(crate) struct InvalidAddress(String);

impl FromStr for AllowedAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        // `Host::parse` folds case as it does in the repository's URL, so that the two compare equal.
        match ::url::Host::parse(text) {
            Ok(::url::Host::Domain(host)) => Ok(Self::Host(host)),
            _ => Err(InvalidAddress(text.to_owned())),
        }
    }
}

impl AllowedAddress {
    fn covers(&self, host: &str, address: IpAddr) -> bool {
        match self {
            Self::Host(allowed) => allowed == host,
            Self::Network(network) => network.contains(&address),
        }
    }
}

/// Whether a connection to `address`, which `host` resolved to, is permitted.
pub(super) fn permitted(host: &str, address: IpAddr, allowed: &[AllowedAddress]) -> bool {
    is_public(address) || allowed.iter().any(|entry| entry.covers(host, address.to_canonical()))
}

/// Whether an address is on the public internet, by the IANA special-purpose address registries
/// (RFC 6890 and its updates). An IPv6 address that carries an IPv4 one is as public as that one.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(address) => is_public_v4(address),
            // Only 2000::/3 is global unicast; in it, Teredo, the other protocol assignments and the
            // documentation networks are not hosts.
            None => {
                let s = address.segments();
                (s[0] & 0xe000) == 0x2000
                    && !(s[0] == 0x2001 && s[1] < 0x0200)
                    && !(s[0] == 0x2001 && s[1] == 0x0db8)
                    && !(s[0] == 0x3fff && s[1] < 0x1000)
            }
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let o = address.octets();
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || o[0] == 0
        // Shared between a carrier and its customers: RFC 6598.
        || (o[0] == 100 && (o[1] & 0xc0) == 64)
        // Protocol assignments and the retired 6to4 relay.
        || (o[0] == 192 && o[1] == 0 && o[2] == 0)
        || (o[0] == 192 && o[1] == 88 && o[2] == 99)
        // Benchmarks: RFC 2544.
        || (o[0] == 198 && (o[1] & 0xfe) == 18)
        // Multicast, reserved, broadcast.
        || o[0] >= 224)
}

/// The IPv4 address inside an IPv4-mapped (::ffff:0:0/96), NAT64 (64:ff9b::/96) or 6to4 (2002::/16) one.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_public_addresses_from_the_rest() {
        for public in [
            "8.8.8.8",
            "140.82.121.4",
            "100.128.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "172.16.0.1",
            "192.168.1.1",
            "192.0.0.170",
            "198.18.0.1",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::169.254.169.254",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn an_allowed_host_or_network_is_permitted() {
        let allowed: Vec<AllowedAddress> = ["10.0.0.0/8", "Git.Internal", "fd00::/8", "127.0.0.1"]
            .iter()
            .map(|entry| entry.parse().unwrap())
            .collect();
        let permitted = |host: &str, address: &str| permitted(host, address.parse().unwrap(), &allowed);
        assert!(permitted("x", "10.9.9.9"));
        assert!(permitted("x", "::ffff:10.9.9.9"));
        assert!(permitted("git.internal", "192.168.0.1"));
        assert!(permitted("x", "fd00::1"));
        assert!(permitted("x", "127.0.0.1"));
        assert!(!permitted("x", "127.0.0.2"));
        assert!(!permitted("other.internal", "192.168.0.1"));
        for bad in ["", "10.0.0.0/33", "http://x", "a b", "x/y"] {
            assert!(bad.parse::<AllowedAddress>().is_err(), "{bad}");
        }
    }
}
