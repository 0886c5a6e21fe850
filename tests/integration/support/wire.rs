//! Requests byte by byte, as no client library would send them.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

/// All that a client can see of an answer, but for the time of day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Each line as it was sent, without `date`.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Sends `request` on a connection of its own and reads until the server closes it, which a request asks for by
    /// `connection: close`.
    pub async fn to(host: &str, request: &[u8]) -> Self {
        Self::from([127, 0, 0, 1], host, request).await
    }

    /// The same from another address of this machine.
    pub async fn from(source: [u8; 4], host: &str, request: &[u8]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        let mut stream = socket.connect(host.parse().unwrap()).await.unwrap();
        // A server that has seen enough answers, and reads no further.
        let _ = stream.write_all(request).await;
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes)).await;
        let read = read.expect("the server closes the connection");
        assert!(read.is_ok() || !bytes.is_empty(), "no answer: {read:?}");
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer but {}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        Self {
            status: status.unwrap_or_else(|| panic!("not HTTP/1.1: {head}")),
            headers: headers
                .split("\r\n")
                .filter(|line| !line.starts_with("date:") && !line.is_empty())
                .map(str::to_owned)
                .collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The code of a refusal in the specification's form.
    pub fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)));
        body["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}
