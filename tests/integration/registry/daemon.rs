//! `buildgrid registry` as a process: its readiness, and its end.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use buildgrid::store::{Store, StoreConfig};
use tempfile::TempDir;

use crate::support::address::free_address;
use crate::support::patience::until;

/// A registry process that has told systemd's socket that it is ready; killed when the test ends.
struct Daemon {
    folder: TempDir,
    process: Child,
    listen: SocketAddr,
    status: SocketAddr,
    systemd: UnixDatagram,
}

impl Daemon {
    fn start() -> Self {
        Self::start_within("")
    }

    /// Within what `ulimit` allows; its log is in the folder.
    fn start_within(ulimit: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Store::open(&StoreConfig::at(folder.path().join("store"))).unwrap();
        let (listen, status) = (free_address(), free_address());
        let config = folder.path().join("config.toml");
        let text = format!(
            "[registry]\nhost = \"{listen}\"\nlisten = \"{listen}\"\nstatus_listen = \"{status}\"\n\
             drain_timeout = \"1h\"\n[store]\npath = \"{}\"\n",
            folder.path().join("store").display()
        );
        std::fs::write(&config, text).unwrap();
        let socket = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&socket).unwrap();
        systemd.set_read_timeout(Some(Duration::from_secs(25))).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new("sh")
            .args(["-c", &format!("{ulimit}\nexec \"$0\" --config \"$1\" registry")])
            .arg(env!("CARGO_BIN_EXE_buildgrid"))
            .arg(&config)
            .stderr(log)
            .env("NOTIFY_SOCKET", &socket)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { folder, process, listen, status, systemd };
        assert_eq!(daemon.notified(), "READY=1");
        daemon
    }

    /// The next message to systemd.
    fn notified(&self) -> String {
        let mut message = [0; 256];
        let length = self.systemd.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).trim().to_owned()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn terminate(&self) {
        let sent = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    async fn exit_code(&mut self) -> Option<i32> {
        until("the registry ends", || self.process.try_wait().unwrap().is_some()).await;
        self.process.wait().unwrap().code()
    }

    fn ready(&self) -> String {
        let mut stream = TcpStream::connect(self.status).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The beginning of a request, whose end does not come.
fn half_a_request(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").unwrap();
    stream
}

#[tokio::test]
async fn it_is_ready_while_its_store_is_there() {
    let daemon = Daemon::start();
    until("it is ready", || daemon.ready().starts_with("HTTP/1.0 200")).await;
    let (here, away) = (daemon.folder.path().join("store"), daemon.folder.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    until("it is not ready", || daemon.ready().starts_with("HTTP/1.0 503")).await;
    let answer = daemon.ready();
    assert!(answer.contains("store: there is no store at "), "{answer}");
    std::fs::rename(&away, &here).unwrap();
    until("it is ready again", || daemon.ready().starts_with("HTTP/1.0 200")).await;
}

#[tokio::test]
async fn too_few_open_files_are_said_at_the_start_and_when_they_are_used_up() {
    let daemon = Daemon::start_within("ulimit -n 40");
    until("it is said at the start", || daemon.log().contains("fewer files may be open than")).await;
    assert!(daemon.log().contains("limit=40  needed=928"), "{}", daemon.log());
    let idle: Vec<_> = (0..60).map(|_| TcpStream::connect(daemon.listen).unwrap()).collect();
    const USED_UP: &str = "cannot take connections, and clients wait";
    until("it is said", || daemon.log().contains(USED_UP)).await;
    // Two tries and more.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(daemon.log().matches(USED_UP).count(), 1, "{}", daemon.log());
    assert!(daemon.log().contains("lower registry.max_connections"), "{}", daemon.log());
    drop(idle);
    let mut client = TcpStream::connect(daemon.listen).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(25))).unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
}

#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_allows() {
    let daemon = Daemon::start_within("ulimit -S -n 100");
    let limits = || std::fs::read_to_string(format!("/proc/{}/limits", daemon.process.id())).unwrap();
    let raised = || {
        let limits = limits();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let (soft, hard) = (line.split_whitespace().nth(3), line.split_whitespace().nth(4));
        soft == hard
    };
    until("the limit is raised", raised).await;
    assert!(!daemon.log().contains("fewer files may be open"), "{}", daemon.log());
}

#[tokio::test]
async fn half_a_request_to_the_status_pages_does_not_hold_it_up() {
    let mut daemon = Daemon::start();
    let _half = half_a_request(daemon.status);
    // Answered, so the one before it has been taken.
    daemon.ready();
    daemon.terminate();
    assert_eq!(daemon.notified(), "STOPPING=1");
    assert_eq!(daemon.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_while_pulls_run() {
    let mut daemon = Daemon::start();
    let _half = half_a_request(daemon.listen);
    let mut whole = TcpStream::connect(daemon.listen).unwrap();
    whole.write_all(b"GET /v2/ HTTP/1.0\r\n\r\n").unwrap();
    whole.read_to_string(&mut String::new()).unwrap();
    daemon.terminate();
    assert_eq!(daemon.notified(), "STOPPING=1");
    // Long enough for an end that waits for nothing.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(daemon.process.try_wait().unwrap().is_none(), "it did not wait for the request");
    daemon.terminate();
    assert_eq!(daemon.exit_code().await, Some(0));
}
