//! TLS before registry and timeline service: 1.2 and later, by rustls, with a certificate that is exchanged when its files
//! are.
//!
//! Only HTTP/1.1 is offered (ALPN, RFC 7301): as without TLS, one request at a time on a connection bounds the open files.

mod accept;
mod certificate;
mod config;
mod pair;

pub use self::certificate::Tls;
pub use self::config::TlsConfig;
pub use self::pair::{Concern, Pair, Unusable, minute};
