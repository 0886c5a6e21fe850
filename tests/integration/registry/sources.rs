//! Sources of connections: none keeps the others out, whatever it does with its own.

use std::net::SocketAddr;
use std::time::Duration;

use buildgrid::registry::RegistryConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::connections::{BIG, read_to_end, request_for_a_big_blob};
use super::observed::Log;
use crate::support::patience::{in_time, until};
use crate::support::registry::TestRegistry;

const ASK: &[u8] = b"GET /v2/ HTTP/1.1\r\nhost: x\r\n\r\n";

fn with_places(max_connections: usize) -> RegistryConfig {
    RegistryConfig { max_connections, ..RegistryConfig::default() }
}

/// A connection from this address of this machine.
pub(super) async fn connect_from(source: &str, registry: &TestRegistry) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.connect(registry.host.parse().unwrap()).await.unwrap()
}

async fn ask(stream: &mut TcpStream, request: &[u8]) {
    stream.write_all(request).await.unwrap();
    let mut head = [0; 8];
    in_time("an answer begins", stream.read_exact(&mut head)).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1");
}

/// Whether something comes on it soon.
async fn is_answered(stream: &mut TcpStream) -> bool {
    let mut head = [0; 8];
    tokio::time::timeout(Duration::from_millis(100), stream.read_exact(&mut head)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_source_whose_pulls_never_end_keeps_no_other_out() {
    let registry = TestRegistry::start_with(with_places(16)).await;
    let request = request_for_a_big_blob(&registry).await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut stream = connect_from("127.0.0.1", &registry).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut another = connect_from("127.0.0.2", &registry).await;
    let request = request.replace("host: x", "connection: close");
    another.write_all(request.as_bytes()).await.unwrap();
    let pulled = in_time("another pulls", read_to_end(another)).await.unwrap();
    assert!(pulled.ends_with(&[7; BIG]));

    let mut served = Vec::new();
    let mut waiting = Vec::new();
    for mut stream in slow {
        match is_answered(&mut stream).await {
            true => served.push(stream),
            false => waiting.push(stream),
        }
    }
    assert_eq!((served.len(), waiting.len()), (14, 26));
    // Nobody is turned away for having had to wait.
    drop(served);
    for next in &mut waiting[..14] {
        in_time("the next is answered", next.read_exact(&mut [0; 8])).await.unwrap();
    }
    drop(waiting);
    registry.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_may_have_all_connections() {
    let registry = TestRegistry::behind(&["127.0.0.0/24"], with_places(16)).await;
    let request = request_for_a_big_blob(&registry).await;
    let mut pulls = Vec::new();
    for _ in 0..16 {
        let mut pull = connect_from("127.0.0.1", &registry).await;
        ask(&mut pull, request.as_bytes()).await;
        pulls.push(pull);
    }
    drop(pulls);
    registry.stop().await;
}

/// Subscriber and metrics are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn the_longest_idle_make_room_and_what_is_under_way_goes_on() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let registry = TestRegistry::start_with(with_places(8)).await;
    let request = request_for_a_big_blob(&registry).await;
    let mut pull = connect_from("127.0.1.1", &registry).await;
    pull.write_all(request.replace("host: x", "connection: close").as_bytes()).await.unwrap();
    // Each has asked and been answered, but for the first, which asks for ever.
    let mut half = connect_from("127.0.2.1", &registry).await;
    half.write_all(&ASK[..20]).await.unwrap();
    let mut idle = Vec::new();
    for number in 2..8 {
        let mut stream = connect_from(&format!("127.0.2.{number}"), &registry).await;
        ask(&mut stream, ASK).await;
        idle.push(stream);
    }
    let evicted = |number: u32| {
        let line = format!("buildgrid_connections_evicted_total{{service=\"registry\"}} {number}\n");
        recorder.handle().render().contains(&line)
    };
    // Longer than they have to be idle, while nobody waits.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let mut newcomer = connect_from("127.0.3.1", &registry).await;
    ask(&mut newcomer, ASK).await;
    assert!(evicted(1), "{}", recorder.handle().render());
    assert_eq!(in_time("the first has gone", half.read(&mut [0])).await.unwrap(), 0);
    for stream in &mut idle {
        // The rest of its first answer, and then another.
        let mut rest = vec![0; 4096];
        assert!(stream.read(&mut rest).await.unwrap() > 0);
        ask(stream, ASK).await;
    }
    let pulled = in_time("the pull ends", read_to_end(pull)).await.unwrap();
    assert!(pulled.ends_with(&[7; BIG]));
    drop((newcomer, idle));
    registry.stop().await;
}

/// Subscriber and metrics are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn who_has_gone_while_it_waited_takes_the_place_of_nobody() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let registry = TestRegistry::start_with(with_places(8)).await;
    let has = |name: &str, number: u32| {
        let line = format!("buildgrid_connections_{name}{{service=\"registry\"}} {number}\n");
        recorder.handle().render().contains(&line)
    };
    let mut idle = Vec::new();
    for _ in 0..7 {
        let mut stream = connect_from("127.0.4.1", &registry).await;
        ask(&mut stream, ASK).await;
        idle.push(stream);
    }
    // One closes as it should, one sends no more, and one is cut.
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = connect_from("127.0.4.1", &registry).await;
        stream.write_all(ASK).await.unwrap();
        waiting.push(stream);
    }
    until("they wait", || has("waiting", 3)).await;
    waiting.pop().unwrap().set_zero_linger().unwrap();
    waiting[0].shutdown().await.unwrap();
    drop(waiting.pop());
    until("nobody waits", || has("waiting", 0)).await;
    // Longer than they have to be idle.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(has("evicted_total", 0), "{}", recorder.handle().render());
    for stream in &mut idle {
        let mut rest = vec![0; 4096];
        assert!(stream.read(&mut rest).await.unwrap() > 0);
        ask(stream, ASK).await;
    }
    drop((idle, waiting));
    registry.stop().await;
}

/// Subscriber and metrics are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn a_source_that_wants_more_than_one_may_have_is_named_and_the_rest_is_closed() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _subscriber) = Log::here();
    let registry = TestRegistry::start_with(with_places(8)).await;
    let figure = |name: &str| {
        let name = format!("buildgrid_connections{name}{{service=\"registry\"}} ");
        let rendered = recorder.handle().render();
        let line = rendered.lines().find_map(|line| line.strip_prefix(&name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("{name} in {rendered}")).parse::<usize>().unwrap()
    };
    // Those that are served pull, however long the others take to come: an idle one would make room for them.
    let request = request_for_a_big_blob(&registry).await;
    let mut many = Vec::new();
    for _ in 0..7 {
        let mut pull = connect_from("127.0.0.1", &registry).await;
        ask(&mut pull, request.as_bytes()).await;
        many.push(pull);
    }
    while many.len() < 1000 {
        many.push(connect_from("127.0.0.1", &registry).await);
    }
    until("some are closed", || figure("_refused_total") > 80).await;
    assert_eq!((figure(""), figure("_waiting")), (7, 896));
    assert_eq!(in_time("it is closed", many[999].read(&mut [0])).await.unwrap_or_default(), 0);
    let mut another = connect_from("127.0.0.2", &registry).await;
    ask(&mut another, ASK).await;

    until("it is said that they wait", || log.text().contains("its others wait")).await;
    let text = log.text();
    for words in ["connections of one source are closed", "its others wait"] {
        let line =
            text.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {text}"));
        for field in ["source=\"127.0.0.1\"", "taken=7", "registry.max_connections", "server.trusted_proxies"]
        {
            assert!(line.contains(field), "{field}: {line}");
        }
    }
    assert_eq!(text.matches("connections of one source are closed").count(), 1, "{text}");
    assert!(text.contains("as many of it wait as may, and it has 7 of the 7 places"), "{text}");
    drop((many, another));
    until("all have gone", || figure("") == 0 && figure("_waiting") == 0).await;
    registry.stop().await;
}
