//! The broker's URL: a secret, because a password may stand in it. What is printed of it is the
//! address and the virtual host, never the user's part.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// `amqp://user:password@host:port/vhost` or `amqps://…`; the virtual host is percent-encoded, the
/// default one is `%2f` (RabbitMQ URI specification, <https://www.rabbitmq.com/docs/uri-spec>).
#[derive(Clone)]
pub struct BrokerUrl {
    whole: SecretString,
    address: String,
    host: String,
    shown: String,
}

/// Never quotes the URL: a password may stand in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBrokerUrl {
    #[error("the broker's URL cannot be read: {0}; write amqp://user:password@host:5672/%2f")]
    Unreadable(url::ParseError),
    #[error("the broker's URL has the scheme {0:?}; use amqp:// or amqps://")]
    Scheme(String),
    #[error("the broker's URL names no host; write amqp://user:password@host:5672/%2f")]
    NoHost,
    #[error("the broker's URL names the empty virtual host; end it with /%2f for the default one")]
    EmptyVhost,
}

impl BrokerUrl {
    /// Host and port, as an error message names them.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The host without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The virtual host, percent-encoded as it stands in the URL.
    pub fn vhost(&self) -> &str {
        self.shown.rsplit('/').next().unwrap_or_default()
    }

    /// The whole URL with its password, for the one who connects.
    pub fn expose(&self) -> &str {
        self.whole.expose_secret()
    }
}

impl FromStr for BrokerUrl {
    type Err = InvalidBrokerUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBrokerUrl> {
        let url = Url::parse(text).map_err(InvalidBrokerUrl::Unreadable)?;
        let port = match url.scheme() {
            "amqp" => 5672,
            "amqps" => 5671,
            other => return Err(InvalidBrokerUrl::Scheme(other.to_owned())),
        };
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err(InvalidBrokerUrl::NoHost),
        };
        if host.is_empty() {
            return Err(InvalidBrokerUrl::NoHost);
        }
        if url.path() == "/" {
            return Err(InvalidBrokerUrl::EmptyVhost);
        }
        let shown_host = url.host_str().unwrap_or_default();
        let address = format!("{shown_host}:{}", url.port().unwrap_or(port));
        let shown = format!("{}://{address}{}", url.scheme(), url.path());
        Ok(Self { whole: text.to_owned().into(), address, host, shown })
    }
}

/// Scheme, host, port and virtual host.
impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// As it is shown: a configuration that is printed does not give the password away.
impl Serialize for BrokerUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_everything_but_the_user() {
        let url: BrokerUrl = "amqp://grid:hunter2@mq.example.com/builds".parse().unwrap();
        assert_eq!(url.to_string(), "amqp://mq.example.com:5672/builds");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(serde_json::to_string(&url).unwrap(), "\"amqp://mq.example.com:5672/builds\"");
        assert!(url.expose().contains("hunter2"));
        let url: BrokerUrl = "amqps://[::1]/%2f".parse().unwrap();
        assert_eq!((url.host(), url.address()), ("::1", "[::1]:5671"));
    }

    #[test]
    fn refuses_without_quoting() {
        for (bad, word) in [
            ("", "cannot be read"),
            ("amqp://me:hunter2@ho st/", "cannot be read"),
            ("https://me:hunter2@host/", "scheme"),
            ("amqp:///%2f", "host"),
            ("amqp://me:hunter2@host/", "virtual host"),
        ] {
            let error = bad.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
