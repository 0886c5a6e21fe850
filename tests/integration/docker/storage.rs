//! Images out of the engine's own storage: the same as by `docker save`, whatever is in them; and what becomes of a
//! build when the storage is not as it should be.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use buildgrid::build::docker::{BuildRequest, Context, DockerEngine, EngineConfig, OnEngine, Way};
use buildgrid::build::engine::{BuildError, BuiltImage};
use buildgrid::config::Config;
use buildgrid::event::result::State;
use buildgrid::publish::config::PublishConfig;
use buildgrid::publish::name::ImageName;
use buildgrid::publish::publisher::{Publication, PublishError, Published, Publisher};
use buildgrid::source::files::Large;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Store, StoreConfig, TagPut};
use buildgrid::telemetry::pulse::Pulse;
use buildgrid::timeline::mask::Mask;
use buildgrid::timeline::sink::LogSink;
use oci_spec::image::ImageManifest;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::source::Fetcher;
use crate::support::disk::SmallDisk;
use crate::support::docker::{
    BASE, base_image, context_of, docker, engine, host, private_tags, request, unique,
};
use crate::support::engine::TestEngine;
use crate::support::git::GitServer;
use crate::support::grid::TestGrid;
use crate::support::image::image_name;
use crate::support::patience::until;
use crate::support::process::{as_root, output};

/// An image on an engine, to be read in one way and another.
struct Trial {
    built: OnEngine,
    log: LogSink,
    said: JoinHandle<Vec<String>>,
    cancel: CancellationToken,
}

impl Trial {
    async fn of(engine: &DockerEngine, request: BuildRequest) -> Self {
        let (log, mut lines) = LogSink::channel(Mask::none());
        let said = tokio::spawn(async move {
            let mut said = Vec::new();
            while let Some(line) = lines.recv().await {
                said.push(line.text);
            }
            said
        });
        let cancel = CancellationToken::new();
        let built = engine.build(request, &log, &cancel).await.expect("an image");
        Self { built, log, said, cancel }
    }

    async fn read(&mut self, way: Way) -> Result<BuiltImage, BuildError> {
        let spool = tempfile::tempdir().unwrap();
        self.built.read(way, spool.path(), &self.log, &self.cancel, &Pulse::default()).await
    }

    /// Removes the image; answers the log.
    async fn end(self) -> Vec<String> {
        self.built.remove(&self.cancel).await;
        drop(self.log);
        self.said.await.unwrap()
    }
}

/// What can be compared of an image: its configuration, and each layer's diff id and digest.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    config: String,
    layers: Vec<(Digest, Digest)>,
}

fn content(image: &BuiltImage) -> Content {
    let layers = image.diff_ids.iter().enumerate().map(|(index, &diff_id)| {
        let mut tar = Vec::new();
        image.open_layer(index).unwrap().read_to_end(&mut tar).unwrap();
        (diff_id, Digest::of(&tar))
    });
    Content { layers: layers.collect(), config: String::from_utf8(image.config.clone()).unwrap() }
}

async fn same_both_ways(engine: &DockerEngine, request: BuildRequest) -> Content {
    let mut trial = Trial::of(engine, request).await;
    let stored = content(&trial.read(Way::EngineStorage).await.unwrap());
    let exported = content(&trial.read(Way::Export).await.unwrap());
    let log = trial.end().await;
    assert_eq!(log.iter().filter(|line| line.contains("taken from the engine in")).count(), 1, "{log:#?}");
    assert_eq!(stored, exported);
    assert!(stored.layers.iter().all(|(diff_id, digest)| diff_id == digest), "{stored:#?}");
    stored
}

/// A file capability (linux/capability.h, `vfs_cap_data` of revision 2): `CAP_NET_RAW`, effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What file systems can hold, as an archive.
fn oddities() -> Vec<u8> {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |name: &[u8], kind: tar::EntryType, mode: u32, target: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, Char | Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(7).unwrap();
        }
        let name = Path::new(OsStr::from_bytes(name));
        match kind {
            Link | Symlink => archive.append_link(&mut header, name, target).unwrap(),
            _ => archive.append_data(&mut header, name, content).unwrap(),
        }
    };
    add(b"odd/", Directory, 0o1777, "", b"");
    add(b"odd/setuid", Regular, 0o4755, "", b"#!/bin/sh\n");
    add(b"odd/empty", Regular, 0o600, "", b"");
    add(b"odd/hard", Link, 0o4755, "odd/setuid", b"");
    add(b"odd/dangling", Symlink, 0o777, "../../../../nowhere", b"");
    add(b"odd/char", Char, 0o666, "", b"");
    add(b"odd/block", Block, 0o660, "", b"");
    add(b"odd/pipe", Fifo, 0o600, "", b"");
    add(b"odd/not-utf8-\xff\xfe", Regular, 0o644, "", b"bytes");
    add("odd/ünïcödé 名".as_bytes(), Regular, 0o644, "", b"signs");
    add(b"odd/with\nline \"quote\" \\ and <&>", Regular, 0o644, "", b"escaped in JSON");
    let long = format!("odd/{}/{}", "d".repeat(200), "f".repeat(200));
    add(long.as_bytes(), Regular, 0o644, "", b"long");
    add(b"odd/long-link", Symlink, 0o777, &"t".repeat(300), b"");
    for length in [1, 511, 512, 513, 65_535, 65_536, 65_537, 3_000_000] {
        let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        add(format!("odd/{length}").as_bytes(), Regular, 0o644, "", &content);
    }
    archive.append_pax_extensions([("SCHILY.xattr.security.capability", &CAPABILITY[..])]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o755);
    header.set_size(3);
    archive.append_data(&mut header, "odd/capable", &b"raw"[..]).unwrap();
    archive.into_inner().unwrap()
}

/// A build of all that, and of what layers do to those below them: its files.
fn odd_files() -> [(&'static str, Vec<u8>); 2] {
    let dockerfile = format!(
        "FROM {BASE}\n\
         ADD oddities.tar /\n\
         RUN rm odd/513 odd/hard && rm -r /odd/d* && chmod 2755 odd/1\n\
         RUN rm -r odd && mkdir odd && echo new > odd/new\n\
         RUN truncate -s 5000000 sparse && echo end >> sparse && mknod node c 1 3 && ln sparse hard\n\
         WORKDIR /empty/layer\n\
         RUN echo {}\n",
        unique()
    );
    [("Dockerfile", dockerfile.into_bytes()), ("oddities.tar", oddities())]
}

fn odd_image() -> BuildRequest {
    let files = odd_files();
    let files = files.each_ref().map(|(name, content)| (*name, content.as_slice()));
    BuildRequest { context: context_of(&files), ..request("") }
}

/// The same for an engine that takes no tar.
async fn file_by_file(files: &[(&str, Vec<u8>)]) -> BuildRequest {
    let server = GitServer::start();
    let repository = server.empty("x");
    for (name, content) in files {
        repository.write(name, content);
    }
    let commit = repository.commit("Add files");
    // Fetched, it needs neither server nor network.
    let fetched = Box::leak(Box::new(Fetcher::new())).fetch(&repository.url, &commit).await.unwrap();
    let context = fetched.context("", "Dockerfile").await.unwrap();
    let files = context.files(Large { files: 0, bytes: 0 }).await.unwrap().ok().expect("names in UTF-8");
    BuildRequest { context: Context::Files(files), ..request("") }
}

fn dockerfile(text: String) -> [(&'static str, Vec<u8>); 1] {
    [("Dockerfile", text.into_bytes())]
}

#[tokio::test]
async fn an_image_is_the_same_out_of_the_storage_and_by_export() {
    let content = same_both_ways(&engine(), odd_image()).await;
    assert!(content.layers.len() >= 6, "{content:#?}");
    assert!(content.config.contains("/empty/layer"));
}

/// What another generation of engines keeps elsewhere, and exports otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_engine_keeps_its_images_as_expected() {
    for containerd in [false, true] {
        let server = TestEngine::start_newer(containerd).await;
        let engine = connect(&server);
        let info = engine.probe().await.unwrap();
        assert_eq!(info.storage.starts_with("containerd"), containerd, "{info:#?}");
        assert_eq!(engine.storage_refused().await.unwrap(), None);
        assert_eq!(engine.takes_tar().await.unwrap(), !containerd);
        let image = if containerd { file_by_file(&odd_files()).await } else { odd_image() };
        let content = same_both_ways(&engine, image).await;
        assert!(content.layers.len() >= 6, "{content:#?}");
    }
}

/// Layers that an engine has compressed already are stored as they are, once, and what is wrong with one ends in an
/// export.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_layers_are_taken_as_they_are() {
    let server = TestEngine::start_newer(true).await;
    let engine = connect(&server);
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(folder.path().to_owned());
    let publisher = Publisher::new(&PublishConfig::default(), Store::open(&config).unwrap());
    let mut manifests = Vec::new();
    for tag in ["1", "2"] {
        let files = dockerfile(format!("FROM {BASE}\nRUN head -c 300000 /dev/urandom > /{}\n", unique()));
        let mut trial = Trial::of(&engine, file_by_file(&files).await).await;
        let image = Arc::new(trial.read(Way::EngineStorage).await.unwrap());
        let packed: Vec<_> = (0..2).map(|index| image.packed_layer(index).unwrap().layer.clone()).collect();
        let name = image_name("acme/shop.storefront", tag);
        let published = publish(&publisher, &trial, &image, &name).await.unwrap();
        let manifest = publisher.store().manifest(&name.repository, published.digest).await.unwrap().unwrap();
        let manifest = ImageManifest::from_reader(&manifest[..]).unwrap();
        let layers: Vec<_> = manifest.layers().iter().map(|layer| layer.digest().to_string()).collect();
        let taken: Vec<_> = packed.iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!(layers, taken);
        let log = trial.end().await;
        let known = log.iter().filter(|line| line.contains("already stored")).count();
        assert_eq!(known, if tag == "1" { 0 } else { 1 }, "{log:#?}");
        manifests.push(layers);
    }
    assert_eq!(manifests[0][0], manifests[1][0]);
    // Nobody has seen that the layers belong to the diff ids.
    assert!(!folder.path().join("buildgrid/layers").exists());

    let files = dockerfile(format!("FROM {BASE}\nRUN echo {} > /x\n", unique()));
    let mut trial = Trial::of(&engine, file_by_file(&files).await).await;
    let image = Arc::new(trial.read(Way::EngineStorage).await.unwrap());
    let path = &image.packed_layer(1).unwrap().path;
    output(as_root("sh").args(["-c", "printf x | dd of=\"$1\" bs=1 seek=20 conv=notrunc", "sh"]).arg(path));
    let error =
        publish(&publisher, &trial, &image, &image_name("acme/shop.storefront", "3")).await.unwrap_err();
    trial.end().await;
    assert!(
        matches!(&error, PublishError::Image(reason) if reason.to_string().contains("has the digest")),
        "{error}"
    );
}

async fn publish(
    publisher: &Publisher,
    trial: &Trial,
    image: &Arc<BuiltImage>,
    name: &ImageName,
) -> Result<Published, PublishError> {
    let publication = Publication {
        name,
        definition: Digest::of(b"definition"),
        annotations: BTreeMap::new(),
        put: TagPut::IfAbsent,
        has_quota: false,
    };
    publisher.publish(image.clone(), publication, &trial.log, &trial.cancel, &Pulse::default()).await
}

/// A layer that came from elsewhere has the archive that its maker wrote: here one with a name that leads through a link
/// out of the layer, to a file that this machine has, too.
#[tokio::test]
async fn an_imported_layer_is_read_within_its_directory() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    archive.append_data(&mut header, "etc/", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    archive.append_link(&mut header, "out", "/etc").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(6);
    archive.append_data(&mut header, "out/hostname", &b"inside"[..]).unwrap();
    header.set_size(5);
    archive.append_data(&mut header, "./plain", &b"plain"[..]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer.tar");
    fs::write(&file, archive.into_inner().unwrap()).unwrap();
    let name = format!("buildgrid-test/imported:{}", unique());
    docker(&["import", file.to_str().unwrap(), &name]);
    let mut trial = Trial::of(&engine(), request(&format!("FROM {name}\nLABEL a=b\n"))).await;
    // By docker save there is no such image: the engine takes its own machine's file for the layer's.
    let content = content(&trial.read(Way::EngineStorage).await.unwrap());
    trial.end().await;
    docker(&["rmi", &name]);
    let [(diff_id, digest)] = content.layers[..] else { panic!("{content:#?}") };
    assert_eq!(diff_id, digest);
}

#[tokio::test]
async fn what_is_published_is_the_same_both_ways() {
    let dockerfile = format!("FROM {BASE}\nRUN head -c 3000000 /dev/urandom > /{}\n", unique());
    let mut trial = Trial::of(&engine(), request(&dockerfile)).await;
    let name = image_name("acme/shop.storefront", "1");
    let mut published = Vec::new();
    for way in [Way::EngineStorage, Way::Export] {
        let folder = tempfile::tempdir().unwrap();
        let config = StoreConfig::at(folder.path().to_owned());
        let publisher = Publisher::new(&PublishConfig::default(), Store::open(&config).unwrap());
        let image = Arc::new(trial.read(way).await.unwrap());
        published.push(publish(&publisher, &trial, &image, &name).await.unwrap());
    }
    trial.end().await;
    assert_eq!(published[0], published[1]);
}

/// Lets the record of the base image's layer lead to a copy of its directory, in which `damage` is done by a shell. The
/// engine, which has the record in memory, goes on with the whole one.
fn mislead(engine: &TestEngine, damage: &str) {
    const MISLEAD: &str = r#"
        set -e
        entry=$1/image/overlay2/layerdb/sha256/$2
        [ -e "$1/original" ] || cp "$entry/cache-id" "$1/original"
        rm -rf "$1/overlay2/copy"
        cp -a "$1/overlay2/$(cat "$1/original")" "$1/overlay2/copy"
        printf copy >"$entry/cache-id"
        cd "$1/overlay2/copy/diff"
        eval "$3"
    "#;
    let mut inspect = Command::new("docker");
    inspect.env("DOCKER_HOST", engine.host());
    let layer = output(inspect.args(["image", "inspect", "--format", "{{index .RootFS.Layers 0}}", BASE]));
    let layer = layer.trim().strip_prefix("sha256:").unwrap().to_owned();
    output(as_root("sh").args(["-c", MISLEAD, "sh"]).arg(engine.root()).args([&layer, damage]));
}

fn connect(engine: &TestEngine) -> DockerEngine {
    let config = EngineConfig { host: engine.host(), ..EngineConfig::default() };
    DockerEngine::connect(&config, Duration::from_secs(3600)).unwrap()
}

/// The whole way with an engine that keeps its images in containerd, for which the context has to go file by file.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_built_on_an_engine_with_the_containerd_image_store() {
    let server = TestEngine::start_newer(true).await;
    let git = GitServer::start();
    let repository = git.empty("plain");
    let grid = grid_on(server.host(), |_| ()).await;
    repository.write("Dockerfile", format!("FROM {BASE}\nCOPY word /\n"));
    repository.write("word", unique());
    let id = unique();
    grid.publish(event(&id, &repository.url, &repository.commit("Say a word"))).await;
    grid.result(&id, State::Published).await;
    let log: Vec<_> = grid.log(&id).into_iter().map(|entry| entry.text).collect();
    assert!(!log.iter().any(|line| line.contains("docker save")), "{log:#?}");

    repository.write(OsStr::from_bytes(b"\xff"), "a name that is no text");
    let id = unique();
    grid.publish(event(&id, &repository.url, &repository.commit("Add what cannot be told"))).await;
    let reason = grid.result(&id, State::Failed).await.reason.unwrap();
    assert!(reason.contains("is not UTF-8") && reason.contains("28"), "{reason}");
    grid.finish().await;
}

/// A worker that builds on an engine.
async fn grid_on(engine: String, adjust: impl FnOnce(&mut Config)) -> TestGrid {
    TestGrid::with(|config| {
        config.engine.host = engine;
        config.source.allow_private_addresses = vec!["127.0.0.1".to_owned()];
        adjust(config);
    })
    .await
}

fn event(id: &str, url: &str, commit: &str) -> String {
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"web","repository":{{"url":"{url}"}},
            "commit":"{commit}","ref":"refs/heads/main"}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_damaged_or_gone_costs_no_build() {
    // Of the same length; shorter; not there; no file any more (two kinds); elsewhere; no directory at all.
    let damages = [
        ("printf x | dd of=bin/busybox bs=1 seek=1000000 conv=notrunc", "has the digest"),
        ("truncate -s 1000000 bin/busybox", "is not the file of"),
        ("rm bin/busybox", "No such file"),
        ("rm bin/busybox; mkfifo bin/busybox", "is not the file of"),
        ("rm bin/busybox; mknod bin/busybox c 1 5", "is not the file of"),
        ("rm -r bin; ln -s /usr/bin bin", "bin/busybox"),
        ("cd ..; rm -r diff", "diff is missing"),
    ];
    let server = TestEngine::start().await;
    let git = GitServer::start();
    let repository = git.empty("plain");
    let grid = grid_on(server.host(), |_| ()).await;
    for (damage, reason) in damages {
        repository.write("Dockerfile", format!("FROM {BASE}\nRUN echo {} > /word\n", unique()));
        let commit = repository.commit("Say another word");
        mislead(&server, damage);
        // The store would know the layer of the base image.
        let _ = fs::remove_dir_all(grid.config.store.path.join("buildgrid/layers"));
        let id = unique();
        grid.publish(event(&id, &repository.url, &commit)).await;
        let published = grid.result(&id, State::Published).await;
        assert_eq!(published.attempt, 1, "{damage}");
        let log: Vec<_> = grid.log(&id).into_iter().map(|entry| entry.text).collect();
        let said: Vec<_> =
            log.iter().filter(|line| line.starts_with("taking the image by docker save")).collect();
        assert!(said.len() == 1 && said[0].contains(reason), "{damage}: {log:#?}");
    }
    grid.finish().await;
}

#[tokio::test]
async fn where_nothing_but_the_storage_will_do_the_reason_is_told() {
    let server = TestEngine::start().await;
    mislead(&server, "printf ../../etc >$entry/cache-id");
    let mut trial =
        Trial::of(&connect(&server), request(&format!("FROM {BASE}\nRUN echo {}\n", unique()))).await;
    let error = trial.read(Way::EngineStorage).await.err().unwrap();
    let BuildError::Infrastructure(reason) = error else { panic!("{error:?}") };
    assert!(reason.starts_with("publish.source is \"engine-storage\""), "{reason}");
    assert!(reason.ends_with("\"../../etc\" is not the name of a directory"), "{reason}");
    assert!(!trial.built.has_another_way());
    trial.read(Way::Auto).await.unwrap();
    let log = trial.end().await;
    let said: Vec<_> =
        log.iter().filter(|line| line.starts_with("taking the image by docker save")).collect();
    assert_eq!(said.len(), 1, "{log:#?}");
}

/// What a worker that is not root needs is one capability, and what it lacks is said by `check`.
#[tokio::test]
async fn reading_the_storage_needs_one_capability() {
    let server = TestEngine::start().await;
    let folder = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    let program = folder.path().join("buildgrid");
    fs::copy(env!("CARGO_BIN_EXE_buildgrid"), &program).unwrap();
    let check = |capabilities: &[&str]| {
        let mut command = as_root("setpriv");
        command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"]).args(capabilities);
        command.arg(&program).arg("check").env("BUILDGRID_ENGINE__HOST", server.host()).current_dir("/");
        let said = command.output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    let without = check(&[]);
    let line =
        without.lines().find(|line| line.contains("by docker save")).unwrap_or_else(|| panic!("{without}"));
    assert!(line.contains("Permission denied") && line.contains("CAP_DAC_READ_SEARCH"), "{line}");
    let with = check(&["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]);
    assert!(with.contains("linux/") && !with.contains("by docker save"), "{with}");
}

#[tokio::test]
async fn an_image_without_layers_is_the_builds_fault() {
    let mut trial = Trial::of(&engine(), request(&format!("FROM scratch\nLABEL a={}\n", unique()))).await;
    for way in [Way::Auto, Way::EngineStorage, Way::Export] {
        let error = trial.read(way).await.err().unwrap();
        let BuildError::Failed(failure) = error else { panic!("{way:?}: {error:?}") };
        assert!(failure.reason.starts_with("the image has no layer"), "{way:?}: {}", failure.reason);
    }
    let log = trial.end().await;
    assert!(!log.iter().any(|line| line.contains("docker save")), "{log:#?}");
}

#[tokio::test]
async fn an_image_is_kept_on_the_engine_as_long_as_it_is_read() {
    let engine = engine();
    let request = request(&format!("FROM {BASE}\nRUN echo {} > /x\n", unique()));
    let tag = format!("buildgrid.local/build:{}", request.id);
    let is_kept = || !private_tags(&format!("reference={tag}")).is_empty();
    let mut trial = Trial::of(&engine, request).await;
    let image = trial.read(Way::EngineStorage).await.unwrap();
    assert!(is_kept());
    assert!(content(&image).layers.iter().all(|(diff_id, digest)| diff_id == digest));
    // Without a word, as of a build whose future was dropped.
    drop(trial);
    until("the image is gone", || !is_kept()).await;
}

/// That the store is full is not the engine's storage's fault, and its export would be in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_is_no_reason_to_export() {
    base_image();
    let disk = SmallDisk::mount("32m");
    let store = disk.path().join("store");
    let git = GitServer::start();
    let repository = git.empty("plain");
    let grid = grid_on(host(), |config| config.store.path.clone_from(&store)).await;
    repository
        .write("Dockerfile", format!("FROM {BASE}\nRUN head -c 60000000 /dev/urandom > /{}\n", unique()));
    let id = unique();
    grid.publish(event(&id, &repository.url, &repository.commit("Add much"))).await;
    let reason = grid.result(&id, State::Retrying).await.reason.unwrap();
    assert!(reason.contains("no space is left for "), "{reason}");
    let log: Vec<_> = grid.log(&id).into_iter().map(|entry| entry.text).collect();
    assert!(!log.iter().any(|line| line.contains("docker save")), "{log:#?}");
}
