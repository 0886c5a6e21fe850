//! The Docker engine under test: its base image, builds on it, and what is left of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buildgrid::build::credentials::BuildCredentials;
use buildgrid::build::docker::{
    BuildRequest, Context, DockerEngine, Dockerfile, EngineBuildId, EngineConfig, Network, Way,
};
use buildgrid::build::engine::{BuildError, BuiltImage};
use buildgrid::event::deploy::BuildId;
use buildgrid::store::digest::Digest;
use buildgrid::telemetry::pulse::Pulse;
use buildgrid::timeline::entry::Stream;
use buildgrid::timeline::mask::Mask;
use buildgrid::timeline::sink::LogSink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::process::output;

/// The base image of the tests: busybox alone, made here, because nothing can be pulled.
pub const BASE: &str = "buildgrid-test/busybox:latest";
/// The engine's socket.
pub const SOCKET: &str = "/var/run/docker.sock";

/// The engine, as the configuration names it.
pub fn host() -> String {
    format!("unix://{SOCKET}")
}

/// Runs the docker client, which must succeed, and answers what it printed.
pub fn docker(arguments: &[&str]) -> String {
    output(Command::new("docker").args(arguments))
}

/// Makes the base image unless the engine has it; one at a time, whether tests are threads or processes.
pub fn base_image() {
    let lock = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox.lock");
    let lock = File::create(lock).expect("create the lock file");
    lock.lock().expect("lock");
    output(Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/base-image")).arg(BASE));
}

/// A word that no other test uses.
pub fn unique() -> String {
    BuildId::generate().to_string()
}

/// The engine, with its base image.
pub fn engine() -> DockerEngine {
    base_image();
    engine_at(SOCKET)
}

pub fn engine_at(socket: impl AsRef<Path>) -> DockerEngine {
    let host = format!("unix://{}", socket.as_ref().display());
    let config = EngineConfig { host, timeout: Duration::from_secs(10), ..EngineConfig::default() };
    DockerEngine::connect(&config, std::time::Duration::from_secs(3600)).expect("an engine")
}

/// A build context of these files, in pieces of an odd size.
pub fn context(files: &[(&str, &str)]) -> Context {
    let bytes: Vec<_> = files.iter().map(|(name, content)| (*name, content.as_bytes())).collect();
    context_of(&bytes)
}

/// As [`context`], of files that are no text.
pub fn context_of(files: &[(&str, &[u8])]) -> Context {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).expect("add a file");
    }
    let bytes = archive.into_inner().expect("finish the archive");
    let pieces: Vec<_> = bytes.chunks(1000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
    Context::Tar(Box::pin(futures::stream::iter(pieces)))
}

/// A request to build `dockerfile` in an otherwise empty context.
pub fn request(dockerfile: &str) -> BuildRequest {
    BuildRequest {
        id: EngineBuildId::generate(),
        namespace: "acme".parse().expect("a namespace"),
        dockerfile: "Dockerfile".to_owned(),
        text: Dockerfile::new(dockerfile.as_bytes()),
        target: None,
        args: BTreeMap::new(),
        labels: BTreeMap::new(),
        platform: None,
        no_cache: false,
        network: Network::Default,
        credentials: BuildCredentials::default(),
        context: context(&[("Dockerfile", dockerfile)]),
    }
}

/// What came of a build.
pub struct Built {
    pub result: Result<BuiltImage, BuildError>,
    pub log: Vec<Logged>,
}

/// A line of a build's log.
#[derive(Debug, Clone, PartialEq)]
pub struct Logged {
    pub stream: Stream,
    pub step: String,
    pub text: String,
}

impl Built {
    pub fn image(self) -> BuiltImage {
        self.result.unwrap_or_else(|error| panic!("no image: {error}\n{:#?}", self.log))
    }

    /// The texts of one step's lines on a stream; a step is known by how its name begins.
    pub fn lines(&self, stream: Stream, step: &str) -> Vec<&str> {
        let wanted = |line: &&Logged| line.stream == stream && line.step.starts_with(step);
        self.log.iter().filter(wanted).map(|line| line.text.as_str()).collect()
    }

    pub fn failure(self) -> buildgrid::build::engine::BuildFailure {
        match self.result {
            Err(BuildError::Failed(failure)) => failure,
            Err(other) => panic!("{other:?}\n{:#?}", self.log),
            Ok(_) => panic!("an image was built"),
        }
    }

    pub fn infrastructure(self) -> String {
        match self.result {
            Err(BuildError::Infrastructure(reason) | BuildError::EngineFull(reason)) => reason,
            Err(other) => panic!("{other:?}\n{:#?}", self.log),
            Ok(_) => panic!("an image was built"),
        }
    }
}

/// Builds, and shows that neither a private tag nor a spooled file is left, however it ended.
pub async fn build(engine: &DockerEngine, request: BuildRequest) -> Built {
    build_until(engine, request, &CancellationToken::new()).await
}

pub async fn build_until(engine: &DockerEngine, request: BuildRequest, cancel: &CancellationToken) -> Built {
    build_masked(engine, request, Mask::none(), cancel).await
}

pub async fn build_masked(
    engine: &DockerEngine,
    mut request: BuildRequest,
    mask: Mask,
    cancel: &CancellationToken,
) -> Built {
    let word = unique();
    request.labels.insert("buildgrid-test.build".to_owned(), word.clone());
    let spool = tempfile::tempdir().expect("a directory");
    let (sink, mut lines) = LogSink::channel(mask);
    let reader = tokio::spawn(async move {
        let mut log = Vec::new();
        while let Some(line) = lines.recv().await {
            let step = line.step.as_deref().unwrap_or_default().to_owned();
            log.push(Logged { stream: line.stream, step, text: line.text });
        }
        log
    });
    let result = match engine.build(request, &sink, cancel).await {
        Ok(mut built) => {
            let image = built.read(Way::Export, spool.path(), &sink, cancel, &Pulse::default()).await;
            built.remove(cancel).await;
            image
        }
        Err(error) => Err(error),
    };
    drop(sink);
    let left = private_tags(&format!("label=buildgrid-test.build={word}"));
    assert_eq!(left, [""; 0], "a private tag is left on the engine");
    assert_eq!(std::fs::read_dir(spool.path()).expect("list").count(), 0, "a file is left in the spool");
    Built { result, log: reader.await.expect("the log") }
}

/// The private tags on the engine that a filter of `docker images` finds.
pub fn private_tags(filter: &str) -> Vec<String> {
    let format = "{{.Repository}}:{{.Tag}}";
    let tags = docker(&["images", "--format", format, "--filter", filter]);
    tags.lines().filter(|tag| tag.starts_with("buildgrid.local/build:")).map(str::to_owned).collect()
}

/// The files of an image, each layer's digest having been checked on the way. Later layers win.
pub fn files(image: &BuiltImage) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for (index, diff_id) in image.diff_ids.iter().enumerate() {
        let mut layer = Vec::new();
        image.open_layer(index).expect("open the layer").read_to_end(&mut layer).expect("read the layer");
        assert_eq!(Digest::of(&layer), *diff_id, "layer {index}");
        let mut archive = tar::Archive::new(&layer[..]);
        for entry in archive.entries().expect("a tar archive") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path");
            // An imported layer has its names as they were given.
            let name = path.strip_prefix(".").unwrap_or(&path).to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("read a file");
            files.insert(name, content);
        }
    }
    files
}

/// A number of seconds to sleep that no other process on the machine sleeps.
pub fn long_sleep() -> String {
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970").as_nanos();
    format!("{}", 1_000_000 + nanos % 1_000_000_000)
}

/// Whether a process with this argument runs on the machine.
pub fn runs(argument: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("list the processes");
    processes.flatten().any(|process| {
        let arguments = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|one| one == argument.as_bytes())
    })
}

/// Stands between worker and engine: counts the connections, and cuts them.
pub struct Between {
    pub directory: tempfile::TempDir,
    open: std::sync::Arc<Mutex<JoinSet<()>>>,
    accepting: tokio::task::JoinHandle<()>,
    silent: std::sync::Arc<AtomicBool>,
}

impl Between {
    pub fn new() -> Self {
        Self::silent_at("nothing of it")
    }

    /// One that leaves the requests whose head contains `text` without an answer.
    pub fn silent_at(text: &'static str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("docker.sock")).expect("listen");
        let open = std::sync::Arc::new(Mutex::new(JoinSet::new()));
        let silent = std::sync::Arc::new(AtomicBool::new(false));
        let (connections, is_silent) = (open.clone(), silent.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let is_silent = is_silent.clone();
                connections.lock().expect("no panic").spawn(async move {
                    let mut there = UnixStream::connect(SOCKET).await.expect("connect to the engine");
                    let mut head = vec![0; 4096];
                    let Ok(length) = here.read(&mut head).await else { return };
                    if String::from_utf8_lossy(&head[..length]).contains(text) {
                        is_silent.store(true, Ordering::Relaxed);
                        // Until the client has gone.
                        let _ = tokio::io::copy(&mut here, &mut tokio::io::sink()).await;
                        return;
                    }
                    there.write_all(&head[..length]).await.expect("write to the engine");
                    // A connection that was cut is an error here, and expected.
                    let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                });
            }
        });
        Self { directory, open, accepting, silent }
    }

    /// Whether there was such a request.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    pub fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("docker.sock")
    }

    pub fn connections(&self) -> usize {
        let mut open = self.open.lock().expect("no panic");
        while open.try_join_next().is_some() {}
        open.len()
    }

    /// Cuts every connection, and takes no more.
    pub fn cut(&self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(self.socket());
        self.open.lock().expect("no panic").abort_all();
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The engine, seen as if it had one tag: so that sweeping tags of any age spares the builds of the
/// tests that run at the same time.
pub struct OnlyTag {
    directory: tempfile::TempDir,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl OnlyTag {
    pub fn new(tag: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(directory.path().join("docker.sock")).expect("listen");
        let client = reqwest::Client::builder().unix_socket(SOCKET).build().expect("a client");
        let tag = tag.to_owned();
        let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let (client, tag) = (client.clone(), tag.clone());
            async move {
                let url = format!("http://docker{}", request.uri());
                let answer = client.request(request.method().clone(), url).send().await.expect("an answer");
                let status = answer.status();
                let body = answer.bytes().await.expect("a body");
                if !request.uri().path().ends_with("/images/json") {
                    return (status, body.to_vec());
                }
                let mut images: Vec<serde_json::Value> = serde_json::from_slice(&body).expect("images");
                images.retain_mut(|image| {
                    let named =
                        image["RepoTags"].as_array().is_some_and(|tags| tags.contains(&tag.as_str().into()));
                    image["RepoTags"] = serde_json::json!([tag]);
                    named
                });
                (status, serde_json::to_vec(&images).expect("JSON"))
            }
        });
        let serving = tokio::spawn(async move { axum::serve(listener, app).await });
        Self { directory, serving }
    }

    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }
}

impl Drop for OnlyTag {
    fn drop(&mut self) {
        self.serving.abort();
    }
}
