//! Repositories that are not everybody's: credentials by namespace and URL, over TLS of a private authority, and by
//! way of a proxy. None of it may reach another host, another namespace, or an error.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use buildgrid::source::{Credentials, Fault, SourceError, Sources};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Fetcher, loopback};
use crate::support::git::{GitServer, Repository};
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::tls::Authority;

const PASSWORD: &str = "correct horse/battery";
/// `Basic` of `deploy` with the password.
const BASIC: &str = "Basic ZGVwbG95OmNvcnJlY3QgaG9yc2UvYmF0dGVyeQ==";
const TOKEN: &str = "glpat-0123456789";

/// The directory of credentials, and what is fetched with those in it.
pub struct Place {
    pub directory: TempDir,
    pub fetcher: Fetcher,
}

impl Place {
    pub fn new(config: buildgrid::source::SourceConfig) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut fetcher = Fetcher::new();
        let sources = Sources::new(config, fetcher.mirrors.path().to_owned()).unwrap();
        fetcher.sources = Arc::new(sources.with_credentials(Credentials::new(Some(directory.path()))));
        Self { directory, fetcher }
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn password(&self, name: &str, url: &str, password: &str) {
        self.write(name, format!("url = \"{url}\"\nusername = \"deploy\"\npassword = \"{password}\"\n"));
    }
}

async fn server(options: &'static [&'static str]) -> (GitServer, Repository, String) {
    tokio::task::spawn_blocking(|| {
        let server = GitServer::with(options);
        let repository = server.empty("acme/x");
        repository.write("Dockerfile", "FROM scratch\n");
        let commit = repository.commit("One");
        (server, repository, commit)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_private_repository_is_fetched_by_its_namespace_alone() {
    let (server, repository, commit) =
        server(&["--authorization", BASIC, "--authorization", "Bearer glpat-0123456789"]).await;
    let mut place = Place::new(loopback());
    let error = place.fetcher.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::NeedsCredentials { how, .. } if how == "HTTP status 401"),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Build);
    assert!(error.to_string().contains("git.acme.<name> of worker.credentials_dir"), "{error}");

    place.password("git.acme.forge", &format!("{}/acme/", server.url), "wrong-one");
    let error = place.fetcher.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(
        matches!(&error, SourceError::CredentialsRefused { name, .. } if name == "git.acme.forge"),
        "{error}"
    );
    assert_eq!(error.fault(), Fault::Infrastructure);
    assert!(!error.to_string().contains("wrong-one"), "{error}");

    // Mended, it counts from the next fetch on.
    place.password("git.acme.forge", &format!("{}/acme/", server.url), PASSWORD);
    place.fetcher.fetch(&repository.url, &commit).await.unwrap();
    place.write("git.acme.forge", format!("url = \"{}\"\ntoken = \"{TOKEN}\"\n", server.url));
    place.fetcher.mirrors = TempDir::new().unwrap();
    let second = repository.commit("Two");
    place.fetcher.fetch(&repository.url, &second).await.unwrap();

    // What lies in the mirror now is not another namespace's, nor this one's without credentials.
    place.fetcher.namespace = "other".parse().unwrap();
    let error = place.fetcher.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::NeedsCredentials { .. }), "{error}");
    place.password("git.other.x", &server.url, "wrong-one");
    let error = place.fetcher.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::CredentialsRefused { .. }), "{error}");
    place.fetcher.namespace = "acme".parse().unwrap();
    std::fs::remove_file(place.directory.path().join("git.acme.forge")).unwrap();
    let error = place.fetcher.fetch(&repository.url, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::NeedsCredentials { .. }), "{error}");

    let log = place.fetcher.lines.lock().unwrap().join("\n");
    assert!(!log.contains(PASSWORD) && !log.contains(TOKEN) && !log.contains("wrong-one"), "{log}");
}

#[tokio::test]
async fn what_may_not_be_seen_is_said_to_be_missing_perhaps() {
    let proxy = GitProxy::start("", |_| Reaction::status(404)).await;
    let place = Place::new(loopback());
    let url = format!("{}/x.git", proxy.url);
    let commit = "1".repeat(40);
    let error = place.fetcher.fetch(&url, &commit).await.unwrap_err().to_string();
    assert!(error.contains("HTTP status 404") && error.contains("needs credentials"), "{error}");
    place.password("git.acme.forge", "http://127.0.0.1:1/", PASSWORD);
    let error = place.fetcher.fetch(&url, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::RepositoryNotFound { with: None, .. }), "{error}");
}

#[tokio::test]
async fn credentials_follow_no_redirect_to_another_server() {
    let (server, _, commit) = server(&["--authorization", BASIC]).await;
    let elsewhere = GitProxy::start("", |_| Reaction::status(500)).await;
    let target = format!("{}/acme/x.git/info/refs?service=git-upload-pack", elsewhere.url);
    let redirecting = RedirectingServer::start(target).await;
    let place = Place::new(loopback());
    place.password("git.acme.forge", &redirecting.url, PASSWORD);
    let error = place.fetcher.fetch(&format!("{}/acme/x.git", redirecting.url), &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::RefusedRedirect { .. }), "{error}");
    assert!(redirecting.heads.lock().unwrap()[0].contains(BASIC));
    assert!(elsewhere.seen().is_empty());
    drop(server);
}

#[tokio::test]
async fn no_redirect_leads_out_of_what_credential_and_rules_are_for() {
    let refs = "/acme/x.git/info/refs?service=git-upload-pack";
    let redirecting = RedirectingServer::start(refs.to_owned()).await;
    let (old, commit) = (format!("{}/old/y.git", redirecting.url), "1".repeat(40));
    let mut place = Place::new(loopback());
    place.password("git.acme.forge", &format!("{}/old", redirecting.url), PASSWORD);
    let words = place.fetcher.fetch(&old, &commit).await.unwrap_err().to_string();
    assert!(words.contains("/acme/x.git") && words.contains("git.acme.forge is not for"), "{words}");
    assert_eq!(redirecting.heads.lock().unwrap().len(), 1);

    // What it is for is gone to, here until it is too much.
    place.password("git.acme.forge", &redirecting.url, PASSWORD);
    let words = place.fetcher.fetch(&old, &commit).await.unwrap_err().to_string();
    assert!(words.contains("more than 5 redirects"), "{words}");

    redirecting.heads.lock().unwrap().clear();
    place.fetcher.permit = Arc::new(|url| match url.to_string().contains("/old/") {
        true => Ok(()),
        false => Err("rule 7".to_owned()),
    });
    let words = place.fetcher.fetch(&old, &commit).await.unwrap_err().to_string();
    assert!(words.contains("/acme/x.git") && words.contains("rule 7"), "{words}");
    assert_eq!(redirecting.heads.lock().unwrap().len(), 1);
}

/// Answers each request with a redirect, and keeps what it was asked.
struct RedirectingServer {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RedirectingServer {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heads = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&heads);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let asked = head(&mut stream).await;
                kept.lock().unwrap().push(asked);
                let answer = format!("HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { url, heads }
    }
}

/// The head of a request.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A proxy that makes tunnels, all of them to one address, and keeps what it was asked for.
struct Tunnels {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let asked = head(&mut stream).await;
                kept.lock().unwrap().push(asked);
                let mut server = TcpStream::connect(&target).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut server).await });
            }
        });
        Self { url, asked }
    }
}

#[tokio::test]
async fn a_private_authority_and_a_proxy_are_used_where_they_are_configured() {
    let (authority, server, repository, commit) = tokio::task::spawn_blocking(|| {
        let authority = Authority::new();
        let certificate = authority.in_one_file(&["git.test", "127.0.0.1"]);
        let server =
            GitServer::with(&["--authorization", BASIC, "--certificate", certificate.to_str().unwrap()]);
        let repository = server.empty("acme/x");
        let commit = repository.commit("One");
        (authority, server, repository, commit)
    })
    .await
    .unwrap();
    assert!(repository.url.starts_with("https://"), "{}", repository.url);
    let error = Fetcher::new().fetch(&repository.url, &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "not trusted: {error}");

    let mut config = loopback();
    config.network.ca_file = Some(authority.certificate());
    let place = Place::new(config.clone());
    place.password("git.acme.forge", &server.url, PASSWORD);
    place.fetcher.fetch(&repository.url, &commit).await.unwrap();

    // A name that only the proxy can resolve.
    let target = server.url.strip_prefix("https://").unwrap().to_owned();
    let port = target.rsplit_once(':').unwrap().1.to_owned();
    let proxy = Tunnels::start(target).await;
    config.network.proxy = proxy.url.clone();
    let place = Place::new(config.clone());
    place.password("git.acme.forge", "https://git.test/acme", "for port 443");
    place.password("git.acme.port", &format!("https://git.test:{port}/acme"), PASSWORD);
    place.fetcher.fetch(&format!("https://git.test:{port}/acme/x.git"), &commit).await.unwrap();
    let asked = proxy.asked.lock().unwrap().join("\n");
    assert!(asked.starts_with(&format!("CONNECT git.test:{port}")), "{asked}");
    assert!(!asked.contains("ZGVwbG95"), "{asked}");
    let before = proxy.asked.lock().unwrap().len();
    place.password("git.acme.forge", &server.url, PASSWORD);
    place.fetcher.fetch(&repository.url, &commit).await.unwrap();
    assert_eq!(proxy.asked.lock().unwrap().len(), before, "this machine is reached without it");

    // By plain HTTP the proxy could read along.
    place.password("git.acme.plain", "http://git.test/", PASSWORD);
    let error = place.fetcher.fetch("http://git.test/acme/x.git", &commit).await.unwrap_err();
    assert!(matches!(error, SourceError::UnprotectedCredential { .. }), "{error}");
    assert_eq!(proxy.asked.lock().unwrap().len(), before);
}
