//! A copy of the store, made by `scripts/backup-store` while images are published and collected, and what is served from
//! it.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use buildgrid::publish::name::ImageName;
use buildgrid::registry::RegistryConfig;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Collection, Going, Part, Store, StoreConfig, TagPut};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::gc::{LONG, NONE, by, collect, is_whole, keep_all, tree};
use super::store;
use crate::support::image::{TestImage, image_name};
use crate::support::patience::until;
use crate::support::process::{buildgrid, output, run};
use crate::support::registry::TestRegistry;

/// How often the script calls rsync.
const PASSES: usize = 5;
/// The first pass that no tag comes with any more.
const AFTER_TAGS: usize = 3;

/// Runs the script, which waits before each of its passes until the test lets it go on.
struct Backup {
    folder: TempDir,
    script: tokio::task::JoinHandle<crate::support::process::Ran>,
}

impl Backup {
    fn start(from: &Path, to: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rsync = folder.path().join("rsync");
        let real = output(Command::new("which").arg("rsync"));
        // Each pass of the script is one call, of which the number of files that say so tells which. That which asks
        // whose the copy is copies nothing.
        let stepping = format!(
            "#!/bin/sh\ncase \"$*\" in *--archive*) ;; *) exec {real} \"$@\";; esac\n\
             cd {}\nn=$(($(ls asked.* 2>/dev/null | wc -l) + 1))\ntouch asked.$n\n\
             while [ ! -e go.$n ]; do sleep 0.02; done\ncd / && exec {real} \"$@\"\n",
            folder.path().display()
        );
        std::fs::write(&rsync, stepping).unwrap();
        std::fs::set_permissions(&rsync, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/backup-store"));
        command.arg(from).arg(to);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", folder.path().display()));
        Self { folder, script: tokio::spawn(async move { run(command, "").await }) }
    }

    fn is_there(&self, name: &str, pass: usize) -> bool {
        self.folder.path().join(format!("{name}.{pass}")).exists()
    }

    async fn asks(&self, pass: usize) {
        until("the next pass", || self.is_there("asked", pass) || self.script.is_finished()).await;
        assert!(self.is_there("asked", pass), "it has ended before pass {pass}");
    }

    fn go(&self, pass: usize) {
        std::fs::write(self.folder.path().join(format!("go.{pass}")), "").unwrap();
    }

    async fn done(self) {
        let said = self.script.await.unwrap().succeeded();
        assert_eq!(said, "", "what it does is not worth a word");
    }

    /// All of it, without a stop.
    async fn whole(from: &Path, to: &Path) {
        let backup = Self::start(from, to);
        (1..=PASSES).for_each(|pass| backup.go(pass));
        backup.done().await;
    }
}

async fn publish(store: &Store, name: &str, tag: &str) -> (ImageName, TestImage) {
    let image = TestImage::saying(&format!("{name} {tag}"));
    let name = image_name(name, tag);
    image.publish(store, &name).await;
    (name, image)
}

/// A store that was put back from a copy, as the README says.
fn restored(copy: &Path) -> (TempDir, Store) {
    let root = tempfile::tempdir().unwrap();
    output(Command::new("cp").arg("-a").arg(copy.join(".")).arg(root.path()));
    // What looks after it needs nobody to have opened it before.
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), format!("[store]\npath = {:?}\n", root.path())).unwrap();
    for command in ["scrub", "gc"] {
        std::fs::remove_dir_all(root.path().join("buildgrid/tmp")).unwrap_or_default();
        let ran = buildgrid(config.path()).args(["store", command]).output().unwrap();
        let said = String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned();
        assert!(ran.status.success(), "{command}: {said}");
    }
    std::fs::remove_dir_all(root.path().join("buildgrid/gc")).unwrap();
    let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
    (root, store)
}

fn links(root: &Path) -> BTreeMap<PathBuf, i64> {
    let links = tree(root).into_iter().map(|(path, _)| path).filter(|path| path.ends_with("link"));
    links.map(|path| (path.clone(), root.join(path).metadata().unwrap().mtime())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_image_of_its_start_is_served_from_a_copy_made_while_all_goes_on() {
    let (root, store) = store();
    let copy = tempfile::tempdir().unwrap();
    let acme = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    let mut expected = Vec::new();
    for n in 0..6 {
        expected.push(publish(&store, "acme/shop.storefront", &format!("v{n}")).await);
    }
    // Two of three go by retention while it is copied: by their tags first, and a grace later by all.
    for n in 0..3 {
        expected.push(publish(&store, "acme/shop.leaving", &format!("v{n}")).await);
    }
    let leaving = || by("\"acme/shop.leaving\" = { keep_last = 1 }", &[]);
    let moving = image_name("acme/shop.moving", "latest");
    let mut moved = vec![TestImage::saying("moving 0")];
    moved[0].publish(&store, &moving).await;
    store.collect(&Collection { retention: leaving(), ..keep_all(LONG) }).unwrap();

    // Beside what happens between the passes, all the time.
    let stop = CancellationToken::new();
    let busy = tokio::spawn({
        let (store, stop) = (store.clone(), stop.clone());
        async move {
            let mut n = 0;
            while !stop.is_cancelled() {
                let repository = format!("acme/busy{}.storefront", n % 5);
                publish(&store, &repository, &format!("v{n}")).await;
                TestImage::saying(&format!("lost {n}")).put_untagged(&store, &moving_repository()).await;
                n += 1;
            }
            n
        }
    });

    let backup = Backup::start(root.path(), copy.path());
    let mut late = Vec::new();
    for pass in 1..=PASSES {
        backup.asks(pass).await;
        let images = [
            publish(&store, "acme/shop.storefront", &format!("during{pass}")).await,
            publish(&store, &format!("acme/fresh{pass}.storefront"), "v1").await,
        ];
        if pass < AFTER_TAGS {
            expected.extend(images)
        } else {
            late.extend(images)
        }
        let image = TestImage::saying(&format!("moving {pass}"));
        image.put_untagged(&store, &moving.repository).await;
        let put = TagPut::Replace { expected: Some(moved[pass - 1].digest()) };
        store.put_tag(&moving, image.digest(), put).await.unwrap();
        moved.push(image);
        let lost = TestImage::saying(&format!("garbage {pass}"));
        lost.put_untagged(&store, &image_name("acme/gone.storefront", "v1").repository).await;
        // The grace of the images that go is over once the tags are copied, and that of their content has begun.
        let (grace, retention) = match pass == AFTER_TAGS {
            true => (NONE, leaving()),
            false => (LONG, leaving()),
        };
        let collecting = store.clone();
        let collected = tokio::task::spawn_blocking(move || {
            collecting.collect(&Collection { retention, ..keep_all(grace) }).unwrap()
        });
        let collected = collected.await.unwrap();
        if pass == AFTER_TAGS {
            assert!(collected.retention.iter().filter(|gone| gone.state == Going::Removed).count() == 2);
            assert!(collected.removed.blobs > 0, "garbage goes");
        }
        backup.go(pass);
    }
    backup.done().await;
    stop.cancel();
    assert!(busy.await.unwrap() > PASSES, "images were published all the time");

    let (new_root, new) = restored(copy.path());
    for (name, image) in &expected {
        assert!(is_whole(&new, name, image).await, "{name} is not whole");
        assert_eq!(new.tag(name).await.unwrap(), Some(image.digest()), "{name}");
    }
    for (name, _) in &late {
        assert_eq!(new.tag(name).await.unwrap(), None, "{name} came after the tags were copied");
    }
    let named = new.tag(&moving).await.unwrap().unwrap();
    let image = moved.iter().find(|image| image.digest() == named).unwrap();
    assert!(is_whole(&new, &moving, image).await);
    // What it was made of counts by its age, as retention does.
    let (old, times) = (links(root.path()), links(new_root.path()));
    let same = |(path, time): (&PathBuf, &i64)| path.ends_with("current/link") || old[path] == *time;
    assert!(times.iter().filter(|(path, _)| old.contains_key(*path)).all(same));
    for absent in ["gc", "locks", "usage", "quarantine"] {
        assert!(!copy.path().join("buildgrid").join(absent).exists(), "{absent}");
    }

    // Everything in it is as its digest says, by the command.
    let config = new_root.path().join("config.toml");
    std::fs::write(&config, format!("[store]\npath = {:?}\n", new_root.path())).unwrap();
    let scrubbed = buildgrid(&config).args(["store", "scrub", "--json"]).output().unwrap();
    let said = String::from_utf8_lossy(&scrubbed.stdout).into_owned();
    assert_eq!(scrubbed.status.code(), Some(0), "{said}");
    std::fs::remove_file(config).unwrap();

    // With marks from before, and no grace, nothing goes that an image needs; and images are published again.
    output(
        Command::new("cp")
            .arg("-a")
            .arg(root.path().join("buildgrid/gc"))
            .arg(new_root.path().join("buildgrid")),
    );
    let collected = collect(&new, NONE);
    assert!(collected.unreadable.is_empty() && collected.removed.blobs > 0, "{collected:?}");
    expected.push(publish(&new, "acme/shop.storefront", "after").await);
    collect(&new, NONE);

    // Pulled with the login of before: all that any tag of it names.
    let registry = TestRegistry::of(new_root, new, acme, RegistryConfig::default()).await;
    for (name, image) in &expected {
        pull(&registry, name, image).await;
    }
    let mut pulled = 0;
    for repository in registry.store.repositories().await.unwrap() {
        for tag in registry.store.tags(&repository).await.unwrap() {
            let folder = tempfile::tempdir().unwrap();
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["copy", "--src-tls-verify=false", "--src-creds"]);
            skopeo.arg(format!("{}:{}", registry.user(), registry.password()));
            skopeo.arg(format!("docker://{}/{repository}:{tag}", registry.host));
            skopeo.arg(format!("dir:{}", folder.path().display()));
            run(skopeo, "").await.succeeded();
            pulled += 1;
        }
    }
    assert!(pulled > expected.len(), "with those of who was busy meanwhile");
    registry.stop().await;
}

fn moving_repository() -> buildgrid::publish::name::ImageRepository {
    image_name("acme/lost.storefront", "v1").repository
}

async fn pull(registry: &TestRegistry, name: &ImageName, image: &TestImage) {
    let (repository, tag) = (&name.repository, &name.tag);
    let manifest = registry.get(&format!("/v2/{repository}/manifests/{tag}")).await;
    assert_eq!(manifest.bytes().await.unwrap(), image.manifest, "{name}");
    for part in [&image.layer, &image.config] {
        let blob = registry.get(&format!("/v2/{repository}/blobs/{}", Digest::of(part))).await;
        assert_eq!(blob.bytes().await.unwrap(), *part, "{name}");
    }
}

fn script() -> Command {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/backup-store"))
}

/// How it ends, and what it says.
fn attempt(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_follows_the_store_and_one_that_fails_says_so() {
    let (root, store) = store();
    let copy = tempfile::tempdir().unwrap();
    let (first, image) = publish(&store, "acme/shop.storefront", "v1").await;
    let old = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    Backup::whole(root.path(), copy.path()).await;
    let (second, other) = publish(&store, "acme/shop.other", "v1").await;
    std::fs::remove_dir_all(root.path().join("docker/registry/v2/repositories/acme/shop.storefront"))
        .unwrap();
    store.remove_credential(&old.credential.user).await.unwrap();
    collect(&store, LONG);
    collect(&store, NONE);
    Backup::whole(root.path(), copy.path()).await;
    {
        let (new_root, new) = restored(copy.path());
        assert!(is_whole(&new, &second, &other).await && !is_whole(&new, &first, &image).await);
        assert!(new.credentials().await.unwrap().usable.is_empty());
        let with_data = |(path, _): &(PathBuf, _)| path.ends_with("data");
        assert_eq!(tree(new_root.path()).iter().filter(|file| with_data(file)).count(), 3);
    }

    // Another disk is mounted there, or none: nothing of the copy goes.
    let empty = tempfile::tempdir().unwrap();
    let mut command = script();
    command.args([empty.path(), copy.path()]);
    let (code, said) = attempt(command);
    assert!(code == Some(69) && said.contains("is it mounted?"), "{said}");
    // A worker may have made a store there.
    let before = tree(copy.path());
    for fresh in [true, false] {
        let (other, other_store) = self::store();
        publish(&other_store, "acme/shop.storefront", "v1").await;
        if !fresh {
            std::fs::remove_file(other.path().join("buildgrid/id")).unwrap();
        }
        let mut command = script();
        command.args([other.path(), copy.path()]);
        let (code, said) = attempt(command);
        assert!(code == Some(69) && said.contains("another store"), "{said}");
        assert_eq!(tree(copy.path()), before);
    }
    // Whose it is must be known: not where the way to it fails just then, nor of a copy that does not say it.
    let (wrong, wrong_store) = self::store();
    publish(&wrong_store, "acme/shop.storefront", "v1").await;
    let folder = tempfile::tempdir().unwrap();
    let (shell, failed) = (folder.path().join("shell"), folder.path().join("failed"));
    let fails_once = format!(
        "#!/bin/sh\nif mkdir {} 2>/dev/null; then exit 12; fi\nshift\nexec \"$@\"\n",
        failed.display()
    );
    std::fs::write(&shell, fails_once).unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = script();
    command.arg(wrong.path()).arg(format!("backup:{}", copy.path().display())).env("RSYNC_RSH", &shell);
    let (code, said) = attempt(command);
    assert!(code == Some(1) && said.contains("could not look whose copy"), "{code:?} {said}");
    assert_eq!(tree(copy.path()), before);
    let id = std::fs::read(copy.path().join("buildgrid/id")).unwrap();
    std::fs::remove_file(copy.path().join("buildgrid/id")).unwrap();
    let mut command = script();
    command.args([root.path(), copy.path()]);
    let (code, said) = attempt(command);
    assert!(code == Some(69) && said.contains("without buildgrid/id"), "{said}");
    std::fs::write(copy.path().join("buildgrid/id"), id).unwrap();
    let mut command = script();
    command.arg(root.path()).arg("/dev/null/copy");
    let (code, said) = attempt(command);
    assert!(code == Some(1) && said.contains("the copy is not whole"), "{said}");
    let mut command = script();
    command.args([root.path(), copy.path()]).env("BACKUP_LIMIT_SECONDS", "-1");
    let (code, said) = attempt(command);
    assert!(code == Some(1) && said.contains("once more"), "{said}");
    let (_root, new) = restored(copy.path());
    assert!(is_whole(&new, &second, &other).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_keeps_the_blob_that_the_disk_has_damaged_in_the_store() {
    let (root, store) = store();
    let copy = tempfile::tempdir().unwrap();
    let backup = || {
        let mut command = script();
        command.args([root.path(), copy.path()]);
        attempt(command)
    };
    let (name, image) = publish(&store, "acme/shop.storefront", "v1").await;
    publish(&store, "acme/shop.other", "v1").await;
    assert_eq!(backup(), (Some(0), String::new()));

    // Rotten as a disk makes it: its length and its time, some weeks ago, are what they were.
    let layer = Digest::of(&image.layer);
    let hex = layer.hex();
    let place = PathBuf::from(format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let time = SystemTime::now() - Duration::from_secs(40 * 24 * 3600);
    let aged = |path: PathBuf| {
        let file = std::fs::File::options().append(true).open(path).unwrap();
        file.set_modified(time).unwrap();
    };
    aged(root.path().join(&place));
    aged(copy.path().join(&place));
    let mut rotten = image.layer.clone();
    rotten[0] ^= 1;
    std::fs::write(root.path().join(&place), rotten).unwrap();
    aged(root.path().join(&place));
    let scrubbed = store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
    assert_eq!(scrubbed.damaged.len(), 1, "{scrubbed:?}");
    std::fs::remove_dir_all(root.path().join("docker/registry/v2/repositories/acme/shop.other")).unwrap();
    collect(&store, LONG);
    collect(&store, NONE);

    let blobs = || tree(copy.path()).iter().filter(|(path, _)| path.ends_with("data")).count();
    // It cannot be told what a scrub that goes on moves next.
    let lock = std::fs::File::open(root.path().join("buildgrid/gc/scrub")).unwrap();
    lock.try_lock().unwrap();
    let (code, said) = backup();
    assert!(code == Some(1) && blobs() == 6, "{} {said}", blobs());
    lock.unlock().unwrap();
    for _ in 0..2 {
        let (code, said) = backup();
        assert!(code == Some(1) && said.contains(&layer.to_string()), "{code:?} {said}");
        assert_eq!(std::fs::read(copy.path().join(&place)).unwrap(), image.layer);
        assert_eq!(blobs(), 3, "what went otherwise goes there, too");
    }
    // As the README says.
    output(Command::new("cp").arg("-a").arg(copy.path().join(&place)).arg(root.path().join(&place)));
    assert!(is_whole(&store, &name, &image).await);
    assert_eq!(backup(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_an_image_is_copied_too() {
    let (root, store) = store();
    let copy = tempfile::tempdir().unwrap();
    let login = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    let mut command = script();
    command.args([root.path(), copy.path()]);
    assert_eq!(attempt(command), (Some(0), String::new()));
    let (_root, new) = restored(copy.path());
    assert_eq!(new.credentials().await.unwrap().usable, [login.credential]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_machine_every_file_is_synced() {
    let (root, store) = store();
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (name, image) = publish(&store, "acme/shop.storefront", "v1").await;
    // In the place of ssh: the other machine's rsync runs here, and what it was asked for is written down.
    let (shell, asked) = (folder.path().join("shell"), folder.path().join("asked"));
    std::fs::write(&shell, format!("#!/bin/sh\nshift\necho \"$@\" >>{}\nexec \"$@\"\n", asked.display()))
        .unwrap();
    std::fs::set_permissions(&shell, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = script();
    command.arg(root.path()).arg(format!("backup:{}", copy.path().display())).env("RSYNC_RSH", &shell);
    assert_eq!(attempt(command), (Some(0), String::new()));
    let asked = std::fs::read_to_string(asked).unwrap();
    assert_eq!(asked.lines().filter(|call| call.contains(" --fsync ")).count(), PASSES, "{asked}");
    let (_root, new) = restored(copy.path());
    assert!(is_whole(&new, &name, &image).await);
}
