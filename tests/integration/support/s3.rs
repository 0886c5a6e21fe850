//! An S3 server in this process, on a free port: that of the crate `s3s`, with objects in a temporary directory. It runs on
//! a thread of its own, so that tests may block.
//!
//! That server looks at a condition and puts in two steps, where S3 does it in one; so puts come one after the other here.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildgrid::store::StoreConfig;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::S3Access;
use s3s::auth::SimpleAuth;
use s3s::dto::PutObjectInput;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, S3Request, S3Result};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::RwLock;

pub const BUCKET: &str = "images";
pub const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

/// It ends when it is dropped.
pub struct S3 {
    pub address: SocketAddr,
    seen: Arc<Seen>,
    root: TempDir,
    files: PathBuf,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Seen {
    /// Requests as `PUT /images/key?query`.
    lines: Mutex<Vec<String>>,
    faults: Mutex<Vec<(String, Fault)>>,
    /// Puts of blobs and of parts of them: how many go on, and how many have gone on at once.
    blobs: Mutex<(usize, usize)>,
    turns: RwLock<()>,
    /// How long a removal takes.
    removal: Mutex<Duration>,
}

/// Which conditions of puts it keeps: all are taken, as by some that are like S3.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    All,
    IfNoneMatch,
    Nothing,
}

#[tonic::async_trait]
impl S3Access for Keeps {
    async fn put_object(&self, request: &mut S3Request<PutObjectInput>) -> S3Result<()> {
        if *self != Self::All {
            request.input.if_match = None;
        }
        if *self == Self::Nothing {
            request.input.if_none_match = None;
        }
        Ok(())
    }
}

/// What becomes of one request.
enum Fault {
    /// It is done, and then this; and the connection is closed without an answer.
    Lost(Box<dyn FnOnce() + Send>),
    /// It is not done, and answered with this status and code.
    Refused(StatusCode, &'static str),
}

impl S3 {
    pub fn start() -> Self {
        Self::with(Keeps::All)
    }

    /// One that takes the conditions of puts and does not keep them.
    pub fn careless() -> Self {
        Self::with(Keeps::Nothing)
    }

    /// One that puts only if absent, and over what has changed.
    pub fn careless_of_changes() -> Self {
        Self::with(Keeps::IfNoneMatch)
    }

    fn with(keeps: Keeps) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        service.set_access(keeps);
        let service = service.build();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Seen>::default();
        runtime.spawn(serve(listener, service, seen.clone()));
        let files = root.path().join(BUCKET).join("grid");
        Self { address, seen, root, files, runtime: Some(runtime) }
    }

    /// The configuration of a store in it, under the prefix `grid`.
    pub fn store(&self) -> StoreConfig {
        self.store_at(self.address)
    }

    /// The same by a proxy.
    pub fn store_at(&self, address: SocketAddr) -> StoreConfig {
        let keys = self.root.path().join(".keys");
        std::fs::write(
            &keys,
            format!("# a comment\nAWS_ACCESS_KEY_ID={KEY}\nAWS_SECRET_ACCESS_KEY = {SECRET}\n"),
        )
        .unwrap();
        restrict(&keys);
        StoreConfig {
            url: Some(format!("s3://{BUCKET}/grid")),
            region: Some("eu-central-1".to_owned()),
            endpoint: Some(format!("http://{address}")),
            allow_http: true,
            credentials_file: Some(keys),
            ..StoreConfig::default()
        }
    }

    /// Does the next request whose line, as `PUT /images/key?query`, has `words`, and then `then`; and closes its
    /// connection without an answer.
    pub fn lose_answer(&self, words: &str, then: impl FnOnce() + Send + 'static) {
        self.seen.faults.lock().unwrap().push((words.to_owned(), Fault::Lost(Box::new(then))));
    }

    /// Does not do the next request whose line has `words`, and answers with this status and code of an error.
    pub fn refuse(&self, words: &str, status: u16, code: &'static str) {
        let fault = Fault::Refused(StatusCode::from_u16(status).unwrap(), code);
        self.seen.faults.lock().unwrap().push((words.to_owned(), fault));
    }

    /// Whether all of these have come.
    pub fn are_faults_over(&self) -> bool {
        self.seen.faults.lock().unwrap().is_empty()
    }

    /// Lets each removal take so long.
    pub fn slow_removals(&self, delay: Duration) {
        *self.seen.removal.lock().unwrap() = delay;
    }

    /// The most puts of blobs, and of parts of them, that have gone on at once.
    pub fn most_blobs(&self) -> usize {
        self.seen.blobs.lock().unwrap().1
    }

    /// Where the objects of such a store are files.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Files of parts of uploads that were neither completed nor given up.
    pub fn parts(&self) -> usize {
        let entries = std::fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".part-")).count()
    }

    /// The requests since this was asked last, as `GET /images/grid/...?query`.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lines.lock().unwrap())
    }
}

pub fn restrict(file: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service, seen: Arc<Seen>) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((socket, _)) = listener.accept().await {
        let (service, seen) = (service.clone(), seen.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, seen) = (service.clone(), seen.clone());
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                seen.lines.lock().unwrap().push(line.clone());
                match seen.fault_of(&line) {
                    None => answered(&service, request, &seen).await,
                    Some(Fault::Lost(then)) => {
                        answered(&service, request, &seen).await?;
                        then();
                        // By that the connection is closed.
                        Err(std::io::Error::other("the answer is lost"))
                    }
                    Some(Fault::Refused(status, code)) => {
                        let body = format!("<Error><Code>{code}</Code><Message>Later.</Message></Error>");
                        let mut refused = Response::new(Body::from(body));
                        *refused.status_mut() = status;
                        Ok(refused)
                    }
                }
            }
        });
        tokio::spawn(async move {
            let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

impl Seen {
    fn fault_of(&self, line: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let place = faults.iter().position(|(words, _)| line.contains(words.as_str()))?;
        Some(faults.remove(place).1)
    }
}

async fn answered(
    service: &S3Service,
    request: Request<Incoming>,
    seen: &Seen,
) -> std::io::Result<Response<Body>> {
    let is_blob = *request.method() == Method::PUT && request.uri().path().contains("/v2/blobs/");
    let _counted = is_blob.then(|| Counted::begin(&seen.blobs));
    let is_part = request.uri().query().is_some_and(|query| query.contains("partNumber"));
    if is_part || matches!(*request.method(), Method::GET | Method::HEAD) {
        let _turn = seen.turns.read().await;
        return Service::call(service, request).await.map_err(std::io::Error::other);
    }
    if *request.method() == Method::DELETE {
        let delay = *seen.removal.lock().unwrap();
        tokio::time::sleep(delay).await;
    }
    let _turn = seen.turns.write().await;
    Service::call(service, request).await.map_err(std::io::Error::other)
}

/// One of those that go on, until it is dropped.
struct Counted<'a>(&'a Mutex<(usize, usize)>);

impl<'a> Counted<'a> {
    fn begin(counts: &'a Mutex<(usize, usize)>) -> Self {
        let mut locked = counts.lock().unwrap();
        locked.0 += 1;
        locked.1 = locked.1.max(locked.0);
        Self(counts)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().0 -= 1;
    }
}
