//! Addresses to listen on later.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const LOWEST: u16 = 10_000;

/// An address on loopback that is free now, for who has to name it before it listens there.
///
/// Its port lies below the range that the system gives to outgoing connections and to who asks for any port: one
/// from within may be somebody else's local end when it is wanted.
pub fn free_address() -> SocketAddr {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let given: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
    // Where that is nearly all, there is no better one than any.
    if given <= LOWEST {
        return TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    }
    loop {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(LOWEST..given)));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
