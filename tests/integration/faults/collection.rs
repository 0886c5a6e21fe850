//! Garbage is collected, by two collectors with hardly any grace, while publishers and pullers are at work: each a
//! process of its own. In an object store the one is killed again and again at first.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use buildgrid::config::Config;
use buildgrid::registry::RegistryConfig;
use buildgrid::store::digest::Digest;
use buildgrid::store::{
    BrokenOff, Collected, Collection, Going, InUse, NewCredential, Part, Retention, Store, StoreConfig,
    StoreError, Sum, layout,
};
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use crate::support::image::image_name;
use crate::support::moto::Moto;
use crate::support::process::{buildgrid, run};
use crate::support::registry::TestRegistry;

/// Where it happens, and how.
struct Scene {
    store: StoreConfig,
    /// How long it goes on at least, and five times as long at most, until enough has gone: a busy machine takes longer.
    lasts: Duration,
    /// Whose collectors are killed at first.
    killed: Option<Moto>,
    is_killing: AtomicBool,
    /// Held by the collector that collects, while others are killed.
    turn: tokio::sync::Mutex<()>,
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
        let is_enough = is_enough && !self.is_killing.load(Ordering::Relaxed);
        since.elapsed() < if is_enough { self.lasts } else { 5 * self.lasts }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_while_images_are_published_and_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let (lasts, grace) = (Duration::from_secs(25), Duration::from_secs(2));
    let store = StoreConfig::at(folder.path().join("store"));
    let scene = Scene {
        store,
        lasts,
        killed: None,
        is_killing: AtomicBool::new(false),
        turn: tokio::sync::Mutex::default(),
        grace,
        enough: (20, 10),
        gone: Mutex::default(),
    };
    let Played { removed, gone, .. } = play(scene).await;
    assert!(removed > 20 && gone > 10, "{removed} blobs and {gone} images were removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_collected_in_an_object_store_by_collectors_that_are_killed() {
    let server = Moto::start().await;
    let (lasts, grace) = (Duration::from_secs(40), Duration::from_secs(8));
    let scene = Scene {
        store: server.store(),
        lasts,
        killed: Some(server),
        is_killing: AtomicBool::new(true),
        turn: tokio::sync::Mutex::default(),
        grace,
        enough: (3, 1),
        gone: Mutex::default(),
    };
    let Played { removed, gone, kills } = play(scene).await;
    assert!(removed > 3 && gone > 1, "{removed} blobs and {gone} images were removed");
    assert!(kills.all >= 5 && kills.in_removal >= 2, "{kills:?}");
}

/// What a round says that ends early on a slow service, which is no fault of it.
const SLOW: &str = "the object store takes more than";

struct Played {
    removed: u64,
    gone: usize,
    kills: Kills,
}

/// Collectors that were killed in the middle of their rounds.
#[derive(Debug, Default)]
struct Kills {
    all: u32,
    /// Of these, how many were removing something.
    in_removal: u32,
}

/// Answers what went.
async fn play(scene: Scene) -> Played {
    let registry = Arc::new(TestRegistry::start_at(RegistryConfig::default(), &scene.store).await);
    let scene = Arc::new(scene);
    let login = Arc::new(registry.store.add_credential(["smoke".parse().unwrap()].into()).await.unwrap());
    let folder = tempfile::tempdir().unwrap();
    let stop = Arc::new(AtomicBool::new(false));

    // One in this process, which lets images go as well; the other by the command, which has no timeline to ask.
    let config = configured(folder.path(), &scene, "gc");
    let commands = tokio::spawn({
        let (stop, scene) = (stop.clone(), scene.clone());
        async move {
            let collector = || {
                let mut command = buildgrid(&config);
                command.args(["store", "gc"]);
                command
            };
            let kills = match &scene.killed {
                Some(server) => kill_some(server, &scene, collector).await,
                None => Kills::default(),
            };
            scene.is_killing.store(false, Ordering::Relaxed);
            while !stop.load(Ordering::Relaxed) {
                let command = collector();
                let ran = run(command, "").await;
                // Without a timeline it lets no image go, which is no success (75).
                let is_expected = ["another process", "all images are kept for now", SLOW];
                assert!(is_expected.iter().any(|words| ran.output.contains(words)), "{}", ran.output);
            }
            kills
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
    let kills = commands.await.unwrap();
    let (removed, gone) = collector.await.unwrap();
    nothing_is_left(&registry.store).await;
    let scrubbed = registry.store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    assert!(!scrubbed.is_damaged(), "{scrubbed:?}");
    let mut pulled = 0;
    for publisher in 0..2 {
        let repository = image_name(&format!("smoke/web{publisher}.fake"), "any").repository;
        for tag in registry.store.tags(&repository).await.unwrap() {
            pull(&format!("smoke/web{publisher}.fake:{tag}"), &registry, &login).await;
            pulled += 1;
        }
    }
    assert!(pulled >= 2, "each has a newest image");
    println!("{removed} blobs and {gone} images were removed, {pulled} are left; {kills:?}");
    Arc::into_inner(registry).unwrap().stop().await;
    Played { removed, gone, kills }
}

/// Kills three collectors anywhere in their rounds, and three while they remove something.
async fn kill_some(server: &Moto, scene: &Scene, collector: impl Fn() -> Command) -> Kills {
    let start = || collector().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut kills = Kills::default();
    while kills.all < 3 {
        let turn = scene.turn.lock().await;
        let mut child = start();
        while !has_lease(server).await && child.try_wait().unwrap().is_none() {}
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..1000))).await;
        kills.add(child, server).await;
        drop(turn);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let _turn = scene.turn.lock().await;
    // What is seen to be removed may have been when the kill comes.
    for _ in 0..3 {
        if kills.all >= 5 && kills.in_removal >= 2 {
            break;
        }
        // Much that goes at once, so that it is seen while it does.
        let list = "00";
        let garbage = (0_u32..).map(|number| (Digest::of(&number.to_le_bytes()), number));
        for (digest, number) in garbage.filter(|(digest, _)| digest.hex().starts_with(list)).take(400) {
            server.put(layout::blob(digest).as_str(), number.to_le_bytes().to_vec()).await;
        }
        start().wait().unwrap();
        tokio::time::sleep(scene.grace + Duration::from_secs(2)).await;
        for _ in 0..3 {
            let mut child = start();
            let key = layout::condemned(list);
            while child.try_wait().unwrap().is_none() {
                if server.get(key.as_str()).await.is_some_and(|list| without_hold(&list).is_some()) {
                    break;
                }
            }
            kills.add(child, server).await;
        }
    }
    kills
}

impl Kills {
    /// Kills a collector, and counts it if it had the lease. What others would wait for is done at once: for two minutes,
    /// until its lease is nobody's, and for two and a half until what it was removing is taken over.
    async fn add(&mut self, mut collector: Child, server: &Moto) {
        collector.kill().unwrap();
        collector.wait().unwrap();
        // Who has come to its end has given it back.
        if !has_lease(server).await {
            return;
        }
        self.all += 1;
        for list in 0..=u8::MAX {
            let key = layout::condemned(&format!("{list:02x}"));
            let Some(list) = server.get(key.as_str()).await else { continue };
            if let Some(rest) = without_hold(&list) {
                server.put(key.as_str(), rest.as_bytes().to_vec()).await;
                self.in_removal += 1;
            }
        }
        server.delete(layout::collection_lease().as_str()).await;
    }
}

async fn has_lease(server: &Moto) -> bool {
    server.get(layout::collection_lease().as_str()).await.is_some_and(|lease| !lease.is_empty())
}

/// A list of marks of which something is being removed, as it was before.
fn without_hold(list: &str) -> Option<&str> {
    list.find("{\"removing\":").map(|hold| &list[..hold])
}

/// Collects until there is nothing to be collected, and sees that this comes.
async fn nothing_is_left(store: &Store) {
    let store = store.clone();
    let collect = move || {
        let cancel = CancellationToken::new();
        let retention = Retention::KeepAll;
        // Of the first, one may be marked that needs another by what it links.
        for _ in 0..10 {
            let collection = Collection {
                grace: Duration::ZERO,
                dry_run: false,
                retention: retention.clone(),
                cancel: &cancel,
            };
            let collected = match BrokenOff::apart(store.collect(&collection)) {
                (_, Some(StoreError::Slow { .. })) => continue,
                (collected, None) => collected,
                (_, Some(error)) => panic!("{error}"),
            };
            let Collected { removed, condemned, waiting, unreadable, .. } = &collected;
            assert!(unreadable.is_empty(), "{collected:?}");
            if [removed, condemned, waiting].iter().all(|sum| **sum == Sum::default()) {
                return;
            }
        }
        panic!("there is garbage that is never removed");
    };
    tokio::task::spawn_blocking(collect).await.unwrap();
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
        let _turn = scene.turn.blocking_lock();
        let collection = Collection { grace, dry_run: false, retention, cancel: &cancel };
        let (collected, error) = BrokenOff::apart(store.collect(&collection));
        match error {
            None | Some(StoreError::Busy | StoreError::Slow { .. }) => {}
            Some(error) => panic!("{error}"),
        }
        removed += collected.removed.blobs;
        gone += collected.retention.iter().filter(|image| image.state == Going::Removed).count();
        *scene.gone.lock().unwrap() = (removed, gone);
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
    pull(&format!("smoke/web{publisher}.fake:{commit}"), registry, login).await;
}

async fn pull(image: &str, registry: &TestRegistry, login: &NewCredential) {
    let target = tempfile::tempdir().unwrap();
    let (user, password) = (login.credential.user.as_str(), login.password.expose_secret());
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--src-tls-verify=false", "--src-creds", &format!("{user}:{password}")]);
    skopeo.arg(format!("docker://{}/{image}", registry.host));
    skopeo.arg(format!("dir:{}", target.path().display()));
    run(skopeo, "").await.succeeded();
}
