//! Garbage is collected, by two collectors with hardly any grace, while publishers and pullers are at work: each a
//! process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildgrid::config::Config;
use buildgrid::registry::RegistryConfig;
use buildgrid::store::{
    Collection, Going, InUse, NewCredential, Part, Retention, Store, StoreConfig, StoreError,
};
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use crate::support::moto::Moto;
use crate::support::process::{buildgrid, run};
use crate::support::registry::TestRegistry;

/// Where it happens, and how.
struct Scene {
    store: StoreConfig,
    /// How long it goes on at least, and five times as long at most, until enough has gone: a busy machine takes longer.
    lasts: Duration,
    /// How many blobs and images are enough.
    enough: (u64, usize),
    gone: Mutex<(u64, usize)>,
    /// Long enough for a publish, and no longer: so what was condemned is used again all the time.
    grace: Duration,
}

impl Scene {
    fn goes_on(&self, since: Instant) -> bool {
        let (removed, gone) = *self.gone.lock().unwrap();
        let is_enough = removed > self.enough.0 && gone > self.enough.1;
        since.elapsed() < if is_enough { self.lasts } else { 5 * self.lasts }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_while_images_are_published_and_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let (lasts, grace) = (Duration::from_secs(25), Duration::from_secs(2));
    let store = StoreConfig::at(folder.path().join("store"));
    let scene = Scene { store, lasts, grace, enough: (20, 10), gone: Mutex::default() };
    let (removed, gone) = play(scene).await;
    assert!(removed > 20 && gone > 10, "{removed} blobs and {gone} images were removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_in_an_object_store_while_images_are_published_and_pulled() {
    let server = Moto::start().await;
    let (lasts, grace) = (Duration::from_secs(40), Duration::from_secs(8));
    let scene = Scene { store: server.store(), lasts, grace, enough: (3, 1), gone: Mutex::default() };
    let (removed, gone) = play(scene).await;
    assert!(removed > 3 && gone > 1, "{removed} blobs and {gone} images were removed");
}

/// Answers how many blobs and images went.
async fn play(scene: Scene) -> (u64, usize) {
    let registry = Arc::new(TestRegistry::start_at(RegistryConfig::default(), &scene.store).await);
    let scene = Arc::new(scene);
    let login = Arc::new(registry.store.add_credential(["smoke".parse().unwrap()].into()).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));

    // One in this process, which lets images go as well; the other by the command, which has no timeline to ask.
    let config = configured(folder.path(), &scene, "gc");
    let commands = tokio::spawn({
        let stop = stop.clone();
        async move {
            while !stop.load(Ordering::Relaxed) {
                let mut command = buildgrid(&config);
                command.args(["store", "gc"]);
                let ran = run(command, "").await;
                // Without a timeline it lets no image go, which is no success (75).
                let is_expected = ["another process", "all images are kept for now"];
                assert!(is_expected.iter().any(|words| ran.output.contains(words)), "{}", ran.output);
            }
        }
    });
    let collector = tokio::task::spawn_blocking({
        let (stop, scene) = (stop.clone(), scene.clone());
        move || letting_go(&scene, &stop)
    });

    let publishers = (0..2).map(|publisher| {
        let config = configured(folder.path(), &scene, &format!("publisher-{publisher}"));
        let (registry, login, scene) = (registry.clone(), login.clone(), scene.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            let builds = (0..).take_while(|_| scene.goes_on(began));
            for build in builds {
                publish_and_pull(&config, publisher, build, &registry, &login).await;
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    commands.await.unwrap();
    let went = collector.await.unwrap();
    let scrubbed = registry.store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    assert!(!scrubbed.is_damaged(), "{scrubbed:?}");
    Arc::into_inner(registry).unwrap().stop().await;
    went
}

/// Keeps the last image of each repository, round after round; answers how many blobs and images went.
fn letting_go(scene: &Scene, stop: &AtomicBool) -> (u64, usize) {
    let (store, grace) = (Store::open(&scene.store).unwrap(), scene.grace);
    let (mut removed, mut gone) = (0, 0);
    let cancel = CancellationToken::new();
    while !stop.load(Ordering::Relaxed) {
        let rules = Config::parse("f", "[retention]\nsmoke = { keep_last = 1 }", []).unwrap().retention;
        let apps: Vec<_> = (0..2).map(|publisher| format!("smoke/web{publisher}")).collect();
        let in_use = InUse::read([], apps.iter().map(String::as_str));
        let retention = Retention::By { rules, in_use, again: None };
        match store.collect(&Collection { grace, dry_run: false, retention, cancel: &cancel }) {
            Ok(collected) => {
                removed += collected.removed.blobs;
                gone += collected.retention.iter().filter(|image| image.state == Going::Removed).count();
                *scene.gone.lock().unwrap() = (removed, gone);
            }
            Err(broken) if matches!(broken.error, StoreError::Busy) => {}
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    (removed, gone)
}

fn configured(folder: &Path, scene: &Scene, name: &str) -> std::path::PathBuf {
    let path = folder.join(format!("{name}.toml"));
    let data = folder.join(name);
    let store = match &scene.store.url {
        None => format!("path = {:?}", scene.store.path),
        Some(_) => toml::to_string(&StoreConfig { path: PathBuf::new(), ..scene.store.clone() })
            .unwrap()
            .replace("path = \"\"\n", ""),
    };
    let text = format!(
        "[worker]\nname = {name:?}\ndata_dir = {data:?}\n[engine]\nhost = \"none\"\n[store]\n{store}\n\
         [retention]\nsmoke = {{ keep_last = 1 }}\n[keeping]\ngc_grace = \"{}s\"\n",
        scene.grace.as_secs()
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// A build with layers that earlier builds have had, and a pull of it by its tag.
async fn publish_and_pull(
    config: &Path,
    publisher: usize,
    build: usize,
    registry: &TestRegistry,
    login: &NewCredential,
) {
    let (commit, seed) = (format!("{:040x}", publisher * 100_000 + build + 1), build % 3);
    let event = format!(
        r#"{{"version":1,"id":"b-{publisher}-{build}","namespace":"smoke","app":"web{publisher}","commit":"{commit}",
            "fake":{{"log_lines":1,"layers":3,"layer_bytes":200000,"seed":{seed}}}}}"#
    );
    let path = config.with_extension("json");
    std::fs::write(&path, event).unwrap();
    let mut command = buildgrid(config);
    command.arg("build").arg(&path);
    run(command, "").await.succeeded();
    let target = tempfile::tempdir().unwrap();
    let (user, password) = (login.credential.user.as_str(), login.password.expose_secret());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--src-tls-verify=false", "--src-creds", &format!("{user}:{password}")]);
    skopeo.arg(format!("docker://{}/smoke/web{publisher}.fake:{commit}", registry.host));
    skopeo.arg(format!("dir:{}", target.path().display()));
    run(skopeo, "").await.succeeded();
}
