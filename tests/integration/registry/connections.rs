//! Connections: what is not HTTP, clients that stall, and the end.

use std::time::Duration;

use buildgrid::registry::RegistryConfig;
use buildgrid::store::digest::Digest;
use data_encoding::BASE64;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::observed::Log;
use crate::support::image::{image_name, put_streamed};
use crate::support::patience::until;
use crate::support::registry::TestRegistry;

/// More than the kernel's socket buffers hold on both sides.
pub(super) const BIG: usize = 64 << 20;

async fn connect(registry: &TestRegistry) -> TcpStream {
    TcpStream::connect(&registry.host).await.unwrap()
}

/// Asks for a blob of [`BIG`] bytes and reads the first of its bytes.
async fn pull_slowly(registry: &TestRegistry) -> TcpStream {
    let request = request_for_a_big_blob(registry).await;
    let mut stream = connect(registry).await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    stream
}

/// The blob is made of sevens.
pub(super) async fn request_for_a_big_blob(registry: &TestRegistry) -> String {
    let repository = image_name("acme/shop.storefront", "v1").repository;
    let digest = put_streamed(&registry.store, vec![7; BIG]).await;
    registry.store.link_blobs(&repository, vec![digest]).await.unwrap();
    let login = BASE64.encode(format!("{}:{}", registry.user(), registry.password()).as_bytes());
    format!("GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {login}\r\n\r\n")
}

pub(super) async fn read_to_end(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut bytes));
    read.await.expect("the connection ends")?;
    Ok(bytes)
}

/// Docker with the containerd image store greets with TLS and falls back to HTTP on this answer only.
#[tokio::test]
async fn a_tls_greeting_is_answered_in_http() {
    let registry = TestRegistry::start().await;
    let mut stream = connect(&registry).await;
    stream.write_all(b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03").await.unwrap();
    let answer = read_to_end(stream).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    registry.stop().await;
}

#[tokio::test]
async fn a_client_that_sends_no_whole_request_is_disconnected() {
    let config = RegistryConfig { client_timeout: Duration::from_secs(1), ..RegistryConfig::default() };
    let registry = TestRegistry::start_with(config).await;
    for begun in ["", "GET /v2/ HTTP/1.1\r\nhost:"] {
        let mut stream = connect(&registry).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(stream).await.unwrap(), b"");
    }
    registry.stop().await;
}

/// The only connection that may be served is taken by a client that does not read: another one is
/// served when the deadline has freed it.
#[tokio::test]
async fn a_client_that_takes_nothing_is_disconnected() {
    let config = RegistryConfig {
        client_timeout: Duration::from_secs(1),
        max_connections: 1,
        ..RegistryConfig::default()
    };
    let registry = TestRegistry::start_with(config).await;
    let stalled = pull_slowly(&registry).await;
    assert_eq!(registry.get("/v2/").await.status(), 200);
    let received = read_to_end(stalled).await;
    assert!(received.is_err() || received.is_ok_and(|bytes| bytes.len() < BIG));
    registry.stop().await;
}

#[tokio::test]
async fn a_running_pull_is_finished_before_the_end() {
    let registry = TestRegistry::start().await;
    let idle = connect(&registry).await;
    let pull = pull_slowly(&registry).await;
    registry.tell_to_stop();
    let bytes = read_to_end(pull).await.unwrap();
    let body = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(Digest::of(&bytes[body..]), Digest::of(&vec![7; BIG]));
    assert_eq!(read_to_end(idle).await.unwrap(), b"");
    let host = registry.host.clone();
    registry.stop().await;
    assert!(TcpStream::connect(host).await.is_err());
}

#[tokio::test]
async fn a_pull_that_does_not_end_is_cut_at_the_drain_limit() {
    let config = RegistryConfig { drain_timeout: Duration::from_secs(1), ..RegistryConfig::default() };
    let registry = TestRegistry::start_with(config).await;
    let stalled = pull_slowly(&registry).await;
    registry.stop().await;
    let received = read_to_end(stalled).await;
    assert!(received.is_err() || received.is_ok_and(|bytes| bytes.len() < BIG));
}

/// Subscriber and metrics are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn it_is_said_and_counted_when_all_places_are_taken() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _subscriber) = Log::here();
    let config = RegistryConfig { max_connections: 3, ..RegistryConfig::default() };
    let registry = TestRegistry::start_with(config).await;
    let counted = |number: u32| {
        let line = format!("buildgrid_connections{{service=\"registry\"}} {number}\n");
        recorder.handle().render().contains(&line)
    };
    let mut idle = vec![connect(&registry).await, connect(&registry).await];
    until("two are counted", || counted(2)).await;
    const TAKEN: &str = "all connections that may be served at once are taken";
    // Longer than it takes to say it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!log.text().contains(TAKEN), "one is free: {}", log.text());
    idle.push(connect(&registry).await);
    until("it is said", || log.text().contains(TAKEN)).await;
    assert!(counted(3) && log.text().contains("registry.max_connections"), "{}", log.text());
    assert!(log.text().contains("are taken, and 0 more wait"), "nobody else has come: {}", log.text());
    drop(idle);
    until("none is counted", || counted(0)).await;
    registry.stop().await;
}

/// The files below the registry's store that this process, and so the registry, has open.
fn open_blobs(registry: &TestRegistry) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    open.filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| path.starts_with(registry.root())))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_in_mid_blob_frees_its_place_and_its_file() {
    let config = RegistryConfig { max_connections: 2, ..RegistryConfig::default() };
    let registry = TestRegistry::start_with(config).await;
    let pulls = [pull_slowly(&registry).await, pull_slowly(&registry).await];
    assert_eq!(open_blobs(&registry), 2);
    let mut next = connect(&registry).await;
    next.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut first = [0];
    let waits = tokio::time::timeout(Duration::from_millis(300), next.read_exact(&mut first)).await;
    assert!(waits.is_err(), "a third connection is served");
    drop(pulls);
    let answer = read_to_end(next).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 401"), "{}", String::from_utf8_lossy(&answer));
    until("its file is closed", || open_blobs(&registry) == 0).await;
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_pulls_at_once_are_all_served_with_few_files_open() {
    const PULLS: usize = 500;
    const PLACES: usize = 20;
    let config = RegistryConfig { max_connections: PLACES, ..RegistryConfig::default() };
    let registry = TestRegistry::start_with(config).await;
    let repository = image_name("acme/shop.storefront", "v1").repository;
    let bytes: Vec<u8> = (0..256 << 10).map(|byte: u32| (byte % 251) as u8).collect();
    let digest = put_streamed(&registry.store, bytes).await;
    registry.store.link_blobs(&repository, vec![digest]).await.unwrap();
    let login = BASE64.encode(format!("{}:{}", registry.user(), registry.password()).as_bytes());
    let request = format!(
        "GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Basic {login}\r\n\r\n"
    );
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..PULLS {
        let (host, request) = (registry.host.clone(), request.clone());
        pulls.spawn(async move {
            let mut stream = TcpStream::connect(host).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = read_to_end(stream).await.unwrap();
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
            Digest::of(&answer[head + 4..])
        });
    }
    let mut most = 0;
    while let Some(pulled) = pulls.join_next().await {
        assert_eq!(pulled.unwrap(), digest);
        most = most.max(open_blobs(&registry));
    }
    assert!(most <= PLACES, "{most} files were open at once");
    registry.stop().await;
}
