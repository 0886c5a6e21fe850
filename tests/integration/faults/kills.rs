//! A worker that is killed at a named point of its way, with a real commit, engine, registry and timeline
//! service. Whatever the point: the event is delivered again and ends once, its image can be pulled and
//! was never half visible, and nothing of the killed attempt is left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buildgrid::build::docker::Way;
use buildgrid::config::Config;
use buildgrid::event::result::{ResultEvent, State};
use buildgrid::timeline::protocol::BuildDetail;
use oci_spec::image::ImageManifest;
use tokio::task::JoinHandle;

use super::{commit_event, commit_lasting};
use crate::program::{Worker, written};
use crate::support::docker::{base_image, host, private_tags, runs, unique};
use crate::support::git::{GitServer, Repository};
use crate::support::git_proxy::{GitProxy, Reaction};
use crate::support::grid::{TestGrid, files};
use crate::support::patience::until;
use crate::support::process::run;
use crate::support::proxy::{Mode, Proxy};
use crate::support::timeline::TestTimeline;

/// Everything around the worker that is going to be killed.
struct Scene {
    grid: TestGrid,
    timeline: TestTimeline,
    /// Between worker and timeline service.
    proxy: Proxy,
    server: GitServer,
    repository: Repository,
    id: String,
    /// An argument of the process that the build's one step is.
    word: String,
    config: PathBuf,
    watch: Watch,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        base_image();
        let server = GitServer::start();
        let (id, word) = (unique(), unique());
        let repository = commit_lasting(&server, &word, 15);
        let mut grid = TestGrid::idle(adjust).await;
        let timeline = TestTimeline::start(&grid.config.queue).await;
        let proxy = Proxy::start(timeline.address.to_string()).await;
        grid.tell(&timeline, Some(&proxy));
        grid.config.engine.host = host();
        let watch = Watch::start(&grid, &repository).await;
        let config = configured(&grid);
        Self { grid, timeline, proxy, server, repository, id, word, config, watch }
    }

    /// What the store has at this path below the image's repository.
    fn in_repository(&self, path: &str) -> PathBuf {
        let repository = "docker/registry/v2/repositories/smoke/web.slow";
        self.grid.config.store.path.join(repository).join(path)
    }

    fn tag(&self) -> PathBuf {
        self.in_repository(&format!("_manifests/tags/{}/current/link", self.repository.head()))
    }

    /// The event's end in the store.
    fn end(&self) -> PathBuf {
        let key = buildgrid::store::layout::end(&self.id.parse().unwrap(), None);
        self.grid.config.store.path.join(key.as_str())
    }

    fn in_build(&self, path: &str) -> PathBuf {
        self.grid.build_directory(&self.id).join(path)
    }

    fn stage(&self) -> String {
        let state = std::fs::read(self.in_build("state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        state["stage"].as_str().unwrap_or_default().to_owned()
    }

    async fn publish(&self) {
        self.grid.publish(commit_event(&self.id, &self.repository)).await;
    }

    /// Lets a worker take the event, which is killed just before it makes one of these calls.
    async fn killed_at(&self, calls: &str, path: &Path) {
        let mut worker = Worker::killed_at(&self.config, calls, path);
        self.publish().await;
        assert_eq!(worker.exit_code().await, None, "it was killed, and has not ended by itself");
    }

    /// Lets a worker take the event, and kills it once `reached`.
    async fn killed_when(&self, what: &str, reached: impl Fn() -> bool) {
        let worker = Worker::start(&self.config);
        self.publish().await;
        until(what, reached).await;
        kill(worker).await;
    }

    /// Lets the next worker finish what the killed one has left, and shows that nothing is lost, doubled or
    /// left over.
    async fn recovers(mut self) -> (ResultEvent, BuildDetail) {
        // A step that ran ends with the connection of its build.
        let orphan = until("the orphan's step is gone", || !runs(&self.word));
        tokio::time::timeout(Duration::from_secs(10), orphan).await.expect("within ten seconds");
        let worker = Worker::start(&self.config);
        let published = self.grid.result(&self.id, State::Published).await;
        self.grid.rabbit.until_empty().await;
        let ends = self.grid.ends(&self.id).await;
        assert!(ends.iter().all(|end| *end == published), "more than one end: {ends:#?}");
        let build = self.timeline.has_all_of(&self.grid.build_directory(&self.id)).await;
        let complete = build.attempts.iter().filter(|attempt| attempt.complete).count();
        assert_eq!(complete, 1, "the log of one attempt is whole: {build:#?}");
        worker.ends().await;

        let tags = private_tags(&format!("label=net.buildgrid.build={}", self.id));
        assert_eq!(tags, [""; 0], "a private tag is left on the engine");
        self.pulls(published.image.as_deref().unwrap()).await;
        self.watch.has_seen_nothing_wrong();
        assert!(!self.in_build("spool").exists());
        Box::pin(self.grid.finish()).await;
        self.timeline.stop().await;
        (published, build)
    }

    /// Copies the image as a client does, which checks every digest.
    async fn pulls(&self, image: &str) {
        let (user, password) = self.grid.credential("smoke").await;
        let target = tempfile::tempdir().unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "--src-tls-verify=false", "--src-creds", &format!("{user}:{password}")]);
        skopeo.arg(format!("docker://{image}")).arg(format!("dir:{}", target.path().display()));
        run(skopeo, "").await.succeeded();
    }
}

async fn kill(mut worker: Worker) {
    worker.signal("-KILL");
    worker.exit_code().await;
}

/// The grid's configuration as a file, with timeline and engine.
fn configured(grid: &TestGrid) -> PathBuf {
    let timeline = &grid.config.timeline;
    let section: toml::Table =
        format!("url = {:?}\ntoken_file = {:?}", timeline.url, timeline.token_file.as_ref().unwrap())
            .parse()
            .unwrap();
    written(grid, |table| {
        table.insert("timeline".into(), section.into());
        table.insert("publish".into(), toml::Value::try_from(&grid.config.publish).unwrap());
        table["engine"].as_table_mut().unwrap().insert("host".into(), grid.config.engine.host.clone().into());
    })
}

/// Asks for the image's tag all the time: whenever it is there, so is everything that it leads to.
struct Watch(JoinHandle<()>);

impl Watch {
    async fn start(grid: &TestGrid, repository: &Repository) -> Self {
        let (user, password) = grid.credential("smoke").await;
        let base = format!("http://{}/v2/smoke/web.slow", grid.config.registry.host);
        let tag = repository.head();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self(tokio::spawn(async move {
            let get = async |path: String| {
                let request = client.get(format!("{base}/{path}")).basic_auth(&user, Some(&password));
                let answer = request.send().await.unwrap();
                (answer.status().as_u16(), answer.bytes().await.unwrap())
            };
            loop {
                let (status, manifest) = get(format!("manifests/{tag}")).await;
                if status == 200 {
                    let manifest: ImageManifest = serde_json::from_slice(&manifest).unwrap();
                    for part in manifest.layers().iter().chain([manifest.config()]) {
                        let (status, bytes) = get(format!("blobs/{}", part.digest())).await;
                        assert_eq!((status, bytes.len() as u64), (200, part.size()), "{part:?} is not there");
                    }
                } else {
                    assert_eq!(status, 404, "neither there nor absent");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }

    fn has_seen_nothing_wrong(&self) {
        assert!(!self.0.is_finished(), "a tag was there without its content");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_after_the_delivery() {
    let scene = Scene::new().await;
    // When it looks whether it knows the event.
    scene.killed_at("openat", &scene.in_build("event.json")).await;
    assert!(!scene.in_build("").exists());
    let (published, _) = scene.recovers().await;
    assert!(!published.reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_fetch() {
    let mut scene = Scene::new().await;
    // The first pack does not end.
    let is_first = AtomicBool::new(true);
    let proxy = GitProxy::start(&scene.server.url, move |request| {
        match request.is_for_objects() && is_first.swap(false, Ordering::Relaxed) {
            true => Reaction::Hang,
            false => Reaction::Pass,
        }
    })
    .await;
    scene.repository.url = scene.repository.url.replace(&scene.server.url, &proxy.url);
    let asked = || proxy.seen().iter().any(|line| line.ends_with("/git-upload-pack"));
    scene.killed_when("the pack is asked for", asked).await;
    assert_eq!(scene.stage(), "fetching");
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_build() {
    let scene = Scene::new().await;
    scene.killed_when("the step runs", || runs(&scene.word)).await;
    assert_eq!(scene.stage(), "building");
    let (_, build) = scene.recovers().await;
    assert_eq!(build.attempts.len(), 2);
    assert!(build.attempts.iter().all(|attempt| attempt.entries > 0), "the first log is kept: {build:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_export() {
    let scene = Scene::with(|config| config.publish.source = Way::Export).await;
    let spooled = scene.in_build("spool/export.tar");
    scene.killed_at("unlink", &spooled).await;
    assert!(spooled.exists());
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_blobs_but_no_manifest() {
    let scene = Scene::new().await;
    let manifests = scene.in_repository("_manifests");
    scene.killed_at("mkdir", &manifests).await;
    assert!(files(&scene.in_repository("_layers")).len() >= 3 && !manifests.exists());
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_a_manifest_but_no_tag() {
    let scene = Scene::new().await;
    scene.killed_at("renameat2,linkat,link", &scene.tag()).await;
    assert_eq!(files(&scene.in_repository("_manifests/revisions")).len(), 1);
    assert!(!scene.tag().exists());
    let (published, _) = scene.recovers().await;
    assert!(!published.reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_a_tag_but_no_outcome() {
    let scene = Scene::new().await;
    scene.killed_at("renameat2,linkat,link", &scene.end()).await;
    assert!(scene.tag().exists());
    let (published, _) = scene.recovers().await;
    assert!(published.reused, "the image was there, of which nobody had been told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_an_end_in_the_store_but_no_outcome() {
    let scene = Scene::new().await;
    scene.killed_at("rename", &scene.in_build(".outcome.json.new")).await;
    assert!(scene.end().exists());
    let (published, build) = scene.recovers().await;
    assert!(!published.reused, "it is told as it was built");
    assert_eq!(build.attempts.len(), 2, "{build:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_with_an_outcome_but_no_ack() {
    let mut scene = Scene::new().await;
    let (broker, through) = scene.grid.rabbit.proxied().await;
    let direct = std::mem::replace(&mut scene.grid.config.queue, through);
    scene.config = configured(&scene.grid);
    scene.grid.config.queue = direct;
    let worker = Worker::start(&scene.config);
    scene.publish().await;
    scene.grid.result(&scene.id, State::Started).await;
    broker.set(Mode::Mute("buildgrid worker-1 publishing"));
    until("the outcome is kept", || scene.in_build("outcome.json").exists()).await;
    kill(worker).await;
    assert!(scene.grid.ends(&scene.id).await.is_empty(), "nobody was told");
    broker.set(Mode::Pass);
    let (published, build) = scene.recovers().await;
    assert!(!published.reused && build.attempts.len() == 1, "it was not built again: {build:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_last_flush_of_its_log() {
    let scene = Scene::new().await;
    let worker = Worker::start(&scene.config);
    scene.publish().await;
    scene.grid.log_line(&scene.id, "tenth 3 of").await;
    scene.proxy.set(Mode::Frozen);
    scene.grid.result(&scene.id, State::Published).await;
    kill(worker).await;
    let told = scene.timeline.build(&scene.id).await.unwrap();
    let here = scene.grid.log(&scene.id).len() as u64;
    assert!(told.attempts[0].entries < here, "{} of {here} lines are there", told.attempts[0].entries);
    scene.proxy.set(Mode::Pass);
    let (_, build) = scene.recovers().await;
    assert_eq!((build.attempts.len(), build.attempts[0].entries), (1, here), "{build:#?}");
}
