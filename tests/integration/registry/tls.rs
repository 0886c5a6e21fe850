//! The registry by TLS: the clients that people use, renewal, and what is not TLS.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use buildgrid::registry::RegistryConfig;
use buildgrid::serving::tls::TlsConfig;
use buildgrid::store::digest::Digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::clients::Docker;
use super::observed::Log;
use super::sources::connect_from;
use crate::support::address::free_address;
use crate::support::docker::unique;
use crate::support::image::{TestImage, image_name};
use crate::support::patience::{in_time, until};
use crate::support::process::{as_root, buildgrid, output, run};
use crate::support::registry::TestRegistry;
use crate::support::tls::{Authority, Issued};

/// What docker takes for another machine, and the kernel for this one. All of 127.0.0.0/8 it would not verify.
const ELSEWHERE: &str = "0.0.0.0";

/// More than the kernel's socket buffers hold on both sides.
const BIG: u64 = 64 << 20;

struct Secured {
    registry: TestRegistry,
    authority: Authority,
    /// With the files of the certificate.
    folder: TempDir,
}

impl Secured {
    async fn start() -> Self {
        Self::start_with(RegistryConfig::default()).await
    }

    async fn start_with(config: RegistryConfig) -> Self {
        let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
        let tls = authority.issue(&["127.0.0.1", ELSEWHERE]).written_to(folder.path());
        let registry = TestRegistry::start_with(RegistryConfig { tls: Some(tls), ..config }).await;
        Self { registry, authority, folder }
    }

    /// Puts another certificate into the files' place; answers it.
    fn renew(&self) -> Issued {
        let issued = self.authority.issue(&["127.0.0.1"]);
        issued.written_to(self.folder.path());
        issued
    }

    async fn connect(&self) -> std::io::Result<Client> {
        self.connect_offering(&[b"h2", b"http/1.1"]).await
    }

    /// A connection of a client that trusts the authority and speaks these protocols.
    async fn connect_offering(&self, protocols: &[&[u8]]) -> std::io::Result<Client> {
        self.greet(TcpStream::connect(&self.registry.host).await?, protocols).await
    }

    async fn greet(&self, stream: TcpStream, protocols: &[&[u8]]) -> std::io::Result<Client> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.authority.certificate()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Ok(Client(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
    }

    /// Waits until new connections are shown this certificate.
    async fn shows(&self, issued: &Issued) {
        in_time("the certificate is shown", async {
            while self.connect().await.unwrap().certificate() != der(issued) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }
}

struct Client(TlsStream<TcpStream>);

impl Client {
    fn certificate(&self) -> CertificateDer<'static> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    fn protocol(&self) -> Option<&[u8]> {
        self.0.get_ref().1.alpn_protocol()
    }

    /// The beginning of the answer to a request for `/`, on a connection that stays open.
    async fn ask(&mut self) -> String {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 1024];
        let length = in_time("an answer", self.0.read(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

fn der(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
}

/// What docker trusts for one registry; gone with the value.
struct Trusted(String);

impl Trusted {
    fn new(host: &str, authority: &Path) -> Self {
        let folder = format!("/etc/docker/certs.d/{host}");
        output(as_root("mkdir").args(["-p", &folder]));
        let trusted = Self(folder);
        output(as_root("cp").arg(authority).arg(format!("{}/ca.crt", trusted.0)));
        trusted
    }
}

impl Drop for Trusted {
    fn drop(&mut self) {
        let _ = as_root("rm").args(["-r", &self.0]).status();
        // Unless it has something of others.
        let _ = as_root("rmdir").arg("--ignore-fail-on-non-empty").arg("/etc/docker/certs.d").status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_pulls_by_tls_from_whom_it_trusts() {
    for docker in Docker::all() {
        let Secured { registry, authority, folder: _folder } = Secured::start().await;
        let host = registry.host.replace("127.0.0.1", ELSEWHERE);
        let image = TestImage::saying(&unique());
        image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
        let url = format!("{host}/acme/shop.storefront:v1");
        let login = ["login", "-u", registry.user(), "--password-stdin", &host];
        let refused = docker.run(&login, registry.password()).await.failed();
        assert!(refused.contains("x509"), "{refused}");

        let trusted = Trusted::new(&host, &authority.certificate());
        let welcome = docker.run(&login, registry.password()).await.succeeded();
        assert!(welcome.contains("Login Succeeded"), "{welcome}");
        let pulled = docker.run(&["pull", &url], "").await.succeeded();
        docker.run(&["image", "rm", &url], "").await.succeeded();
        assert!(pulled.contains(&image.digest().to_string()), "{pulled}");
        drop(trusted);
        registry.stop().await;
    }
}

#[tokio::test]
async fn skopeo_pulls_by_tls_from_whom_it_trusts_with_a_login_and_what_is_public_without() {
    for is_public in [false, true] {
        let public_namespaces = is_public.then(|| "acme".parse().unwrap()).into_iter().collect();
        let config = RegistryConfig { public_namespaces, ..RegistryConfig::default() };
        let Secured { registry, authority, folder } = Secured::start_with(config).await;
        let image = TestImage::saying("hello");
        image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
        let trusted = folder.path().join("trusted");
        std::fs::create_dir(&trusted).unwrap();
        std::fs::copy(authority.certificate(), trusted.join("ca.crt")).unwrap();
        let copied = folder.path().join("copied");
        let login = format!("{}:{}", registry.user(), registry.password());
        let skopeo = |options: &[&str]| {
            let mut command = Command::new("skopeo");
            command.arg("copy").args(options);
            match is_public {
                true => command.arg("--src-no-creds"),
                false => command.args(["--src-creds", &login]),
            };
            command.arg(format!("docker://{}/acme/shop.storefront:v1", registry.host));
            command.arg(format!("dir:{}", copied.display()));
            run(command, "")
        };
        let refused = skopeo(&[]).await.failed();
        assert!(refused.contains("x509"), "{refused}");
        skopeo(&["--src-cert-dir", trusted.to_str().unwrap()]).await.succeeded();
        assert_eq!(std::fs::read(copied.join("manifest.json")).unwrap(), image.manifest);
        let layer = Digest::of(&image.layer).hex();
        assert_eq!(std::fs::read(copied.join(layer)).unwrap(), image.layer);
        registry.stop().await;
    }
}

#[tokio::test]
async fn http_1_1_is_all_that_is_offered_and_old_tls_is_refused() {
    let secured = Secured::start().await;
    for protocols in [&[&b"h2"[..], b"http/1.1"][..], &[b"http/1.1"]] {
        let mut client = secured.connect_offering(protocols).await.unwrap();
        assert_eq!(client.protocol(), Some(&b"http/1.1"[..]));
        assert!(client.ask().await.starts_with("HTTP/1.1 404"));
    }
    let mut silent = secured.connect_offering(&[]).await.unwrap();
    assert!(silent.ask().await.starts_with("HTTP/1.1 404"));
    let refused = secured.connect_offering(&[b"h2"]).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");

    for (version, is_spoken) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &secured.registry.host, version, "-brief"]);
        // Else openssl itself would refuse old versions.
        openssl.args(["-cipher", "DEFAULT:@SECLEVEL=0"]);
        let said = run(openssl, "").await;
        assert_eq!(said.success, is_spoken, "{version}: {}", said.output);
        assert!(is_spoken || said.output.contains("alert"), "{}", said.output);
    }
    secured.registry.stop().await;
}

#[tokio::test]
async fn a_request_without_tls_is_told_to_come_by_tls() {
    let secured = Secured::start().await;
    let mut stream = TcpStream::connect(&secured.registry.host).await.unwrap();
    // More than is taken of what is not heard.
    let request = format!("GET /v2/ HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time("the answer ends", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.ends_with("This port speaks TLS: ask by https://\n"), "{answer}");
    secured.registry.stop().await;
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_frees_its_place() {
    let client_timeout = Duration::from_secs(1);
    let config = RegistryConfig { client_timeout, max_connections: 1, ..RegistryConfig::default() };
    let secured = Secured::start_with(config).await;
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03"] {
        let mut stream = TcpStream::connect(&secured.registry.host).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(300), secured.connect()).await;
        assert!(waiting.is_err(), "a second connection is served");
        assert!(secured.connect().await.unwrap().ask().await.starts_with("HTTP/1.1 404"));
        in_time("its connection ends", stream.read(&mut [0; 64])).await.unwrap();
    }
    secured.registry.stop().await;
}

#[tokio::test]
async fn handshakes_of_one_source_that_are_never_done_keep_no_other_out() {
    let secured =
        Secured::start_with(RegistryConfig { max_connections: 16, ..RegistryConfig::default() }).await;
    let mut stalled = Vec::new();
    for begun in [&b""[..], b"\x16", b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03"].repeat(10) {
        let mut stream = connect_from("127.0.0.1", &secured.registry).await;
        stream.write_all(begun).await.unwrap();
        stalled.push(stream);
    }
    let another = connect_from("127.0.0.2", &secured.registry).await;
    let greeted = in_time("another is greeted", secured.greet(another, &[b"http/1.1"])).await;
    assert!(greeted.unwrap().ask().await.starts_with("HTTP/1.1 404"));
    // Its own others come in as well, once the first ones have done nothing for a while.
    let own = connect_from("127.0.0.1", &secured.registry).await;
    let greeted = in_time("its own is greeted", secured.greet(own, &[b"http/1.1"])).await;
    assert!(greeted.unwrap().ask().await.starts_with("HTTP/1.1 404"));
    secured.registry.stop().await;
}

#[tokio::test]
async fn a_handshake_that_goes_on_does_not_hold_up_the_end() {
    let secured = Secured::start().await;
    let mut stream = TcpStream::connect(&secured.registry.host).await.unwrap();
    stream.write_all(b"\x16\x03\x01").await.unwrap();
    // Which is taken after the one before.
    secured.connect().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), secured.registry.stop()).await.expect("it ends");
}

/// Subscriber and metrics are this thread's, on which the server runs too.
#[tokio::test(flavor = "current_thread")]
async fn a_renewed_certificate_is_shown_and_one_that_cannot_be_used_is_not() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (log, _subscriber) = Log::here();
    let secured = Secured::start().await;
    let mut old = secured.connect().await.unwrap();
    let first = old.certificate();

    let second = secured.renew();
    secured.shows(&second).await;
    assert!(old.ask().await.starts_with("HTTP/1.1 404"), "the connection is the old one's");
    assert_eq!(old.certificate(), first);
    let text = log.text();
    assert_eq!(text.matches("new connections get the certificate").count(), 1, "{text}");

    // Written one after the other, a while apart.
    let third = secured.authority.issue(&["127.0.0.1"]);
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| secured.folder.path().join(name));
    std::fs::write(&certificate, &third.certificate).unwrap();
    const WRONG: &str = "the new certificate cannot be used";
    until("it is said", || log.text().contains(WRONG)).await;
    for half in [third.key.len() / 2, 0] {
        std::fs::write(&key, &third.key[..half]).unwrap();
        // Two looks and more.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(secured.connect().await.unwrap().certificate(), der(&second));
        assert!(old.ask().await.starts_with("HTTP/1.1 404"));
    }
    let text = log.text();
    assert_eq!(text.matches(WRONG).count(), 3, "once for each fault: {text}");
    assert!(text.contains("is not that of the first certificate in"), "{text}");
    assert!(text.contains("it may be half written") && text.contains("has no private key in it"), "{text}");
    std::fs::write(&key, &third.key).unwrap();
    secured.shows(&third).await;

    std::fs::remove_file(&certificate).unwrap();
    until("it is said", || log.text().contains("cannot be read (No such file")).await;
    assert_eq!(secured.connect().await.unwrap().certificate(), der(&third));
    std::fs::write(&certificate, &third.certificate).unwrap();
    until("it is mended", || log.text().matches("new connections get").count() == 3).await;

    // One that all clients refuse takes the place of none that they take.
    let usable = |value: u8| {
        recorder
            .handle()
            .render()
            .contains(&format!("buildgrid_tls_files_usable{{service=\"registry\"}} {value}\n"))
    };
    assert!(usable(1));
    let ended = secured.authority.issue_for(&["127.0.0.1"], -time::Duration::MINUTE);
    std::fs::write(&key, &ended.key).unwrap();
    std::fs::write(&certificate, &ended.certificate).unwrap();
    until("it is said", || log.text().contains("the certificate has ended on")).await;
    assert_eq!(secured.connect().await.unwrap().certificate(), der(&third));
    assert!(usable(0));
    let metrics = recorder.handle().render();
    assert!(metrics.contains("buildgrid_tls_certificate_end_seconds{service=\"registry\"} 1"), "{metrics}");
    drop(old);
    secured.registry.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_blob_that_became_shorter_is_logged_and_the_client_cut_off() {
    let (log, _subscriber) = Log::here();
    let Secured { registry, authority, folder: _folder } = Secured::start().await;
    let image = TestImage::saying("hello");
    image.publish(&registry.store, &image_name("acme/shop.storefront", "v1")).await;
    let digest = Digest::of(&image.layer);
    // Its length is looked up when it is asked for, so that it has to become shorter in mid-pull.
    let hex = digest.hex();
    let blob = registry.root().join(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    std::fs::OpenOptions::new().write(true).open(&blob).unwrap().set_len(BIG).unwrap();
    let root = reqwest::Certificate::from_pem(&std::fs::read(authority.certificate()).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{}/v2/acme/shop.storefront/blobs/{digest}", registry.host);
    let asked = client.get(url).basic_auth(registry.user(), Some(registry.password()));
    let mut answer = asked.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (200, Some(BIG)));
    assert!(answer.chunk().await.unwrap().is_some());
    std::fs::OpenOptions::new().write(true).open(&blob).unwrap().set_len(1000).unwrap();
    while let Ok(Some(_)) = answer.chunk().await {}
    until("it is said", || log.text().contains("cannot read a file that is being sent")).await;
    assert!(log.text().contains("the file is shorter than it was"), "{}", log.text());
    registry.stop().await;
}

/// A configuration whose registry has this certificate, and a store.
fn configured(folder: &Path, host: &str, tls: &TlsConfig) -> std::path::PathBuf {
    let status = free_address();
    let store = folder.join("store");
    buildgrid::store::Store::open(&buildgrid::store::StoreConfig::at(store.clone())).unwrap();
    let file = folder.join("config.toml");
    let text = format!(
        "[registry]\nhost = {host:?}\nlisten = \"{}\"\nstatus_listen = \"{status}\"\ntls = {{ certificate = {:?}, key = {:?} }}\n\
         [store]\npath = {store:?}\n[engine]\nhost = \"none\"\n[worker]\ndata_dir = {folder:?}\n",
        free_address(),
        tls.certificate,
        tls.key
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn check(config: &Path) -> String {
    let output = buildgrid(config).arg("check").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn check_names_what_is_wrong_with_a_certificate() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let day = time::Duration::DAY;
    for (names, ends, host, expected) in [
        ("localhost", day * 60, "localhost:5000", "ok    registry.tls: "),
        ("localhost", day * 13, "localhost:5000", "note  registry.tls: the certificate ends on "),
        ("localhost", -day, "localhost:5000", "FAIL  registry.tls: the certificate has ended on "),
        (
            "localhost",
            day * 60,
            "images.example.com",
            "does not name images.example.com, and whoever comes by",
        ),
    ] {
        let tls = authority.issue_for(&[names], ends).written_to(folder.path());
        let said = check(&configured(folder.path(), host, &tls));
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let tls = authority.issue(&["localhost"]).written_to(folder.path());
    let config = configured(folder.path(), "localhost:5000", &tls);
    std::fs::set_permissions(&tls.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(check(&config).contains("tls.key is open to all users of this machine; chmod o= "));
    std::fs::write(&tls.key, authority.issue(&["localhost"]).key).unwrap();
    assert!(check(&config).contains("FAIL  registry.tls: the key in "));
    // With which nothing starts.
    let started = buildgrid(&config).arg("registry").output().unwrap();
    let said = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(78), "{said}");
    assert!(said.contains("registry.tls: the key in "), "{said}");
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_served_and_not_ready_until_it_is_renewed() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let tls = authority.issue_for(&["127.0.0.1"], -time::Duration::MINUTE).written_to(folder.path());
    let config = configured(folder.path(), "127.0.0.1:5000", &tls);
    let table: toml::Table = std::fs::read_to_string(&config).unwrap().parse().unwrap();
    let status = table["registry"]["status_listen"].as_str().unwrap().to_owned();
    let ready = async || {
        let answer = reqwest::get(format!("http://{status}/readyz")).await;
        match answer {
            Ok(answer) => answer.text().await.unwrap(),
            Err(_) => String::new(),
        }
    };
    let mut process = Killed(buildgrid(&config).arg("registry").spawn().unwrap());
    for expected in ["registry.tls: the certificate has ended on ", "registry.tls: ok"] {
        in_time(expected, async {
            while !ready().await.contains(expected) {
                assert!(process.0.try_wait().unwrap().is_none());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        authority.issue(&["127.0.0.1"]).written_to(folder.path());
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
