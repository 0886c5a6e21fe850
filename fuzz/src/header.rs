//! What comes on a connection to the registry.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::served::{LAYER, PANICKED, SERVED};

static ADDRESS: LazyLock<SocketAddr> = LazyLock::new(|| SERVED.listen());

/// The longest that a connection may take, several times as long as the registry waits for a client.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends a request that is not at its end, and asks for another after which the connection is closed.
const END: &[u8] = b"\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// Whatever comes, with a login and without: each connection ends, no answer is a fault of the registry's own, and
/// without a login there is nothing of an image.
pub fn check(bytes: &[u8]) {
    let answer = answer(bytes);
    assert!(!answer.windows(LAYER.len()).any(|window| window == LAYER), "a layer without a login");
    is_no_fault(&answer);
    if let Some(line) = bytes.windows(2).position(|window| window == b"\r\n") {
        let login = format!("Authorization: {}\r\n", SERVED.login);
        let (line, rest) = bytes.split_at(line + 2);
        is_no_fault(&self::answer(&[line, login.as_bytes(), rest].concat()));
    }
}

fn answer(request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(*ADDRESS).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // It may be refused before its end.
    let _ = stream.write_all(&[request, END].concat());
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "the connection does not end");
    }
    answer
}

fn is_no_fault(answer: &[u8]) {
    assert!(!PANICKED.load(Ordering::SeqCst), "something panicked");
    // Nothing at all is the answer to a request that did not come to its end in time.
    let is_http = answer.is_empty() || answer.starts_with(b"HTTP/1.");
    // Another version of HTTP is refused by a 505.
    let is_fault = |line: &[u8]| line.starts_with(b"HTTP/1.1 5") && !line.starts_with(b"HTTP/1.1 505");
    assert!(is_http && !answer.windows(12).any(is_fault), "{}", String::from_utf8_lossy(answer));
}
