//! Crashes between any two steps: a scene of publishes and collections is played in a process of its own under strace,
//! which writes down every call by which it changes files.
//!
//! - A model of a file system plays the calls again, with the machine losing its power after each of them: of what was
//!   not synced nothing is left, or by chance some of it. Whatever is left must be a store in which every tag has
//!   its content, and every tag that was said to be put is there.
//! - The process is killed just before each of its calls, and what it was at is done again.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use buildgrid::config::Config;
use buildgrid::publish::name::ImageName;
use buildgrid::store::digest::Digest;
use buildgrid::store::{Collection, InUse, Layer, Part, Retention, Store, StoreConfig, TagOutcome, TagPut};
use oci_spec::image::MediaType;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use super::gc::{collect, is_whole};
use crate::support::image::{TestImage, image_name, put_streamed};

const REPOSITORY: &str = "acme/shop.storefront";
/// Where the scene is played, and where it says what it has done.
const ROOT: &str = "BUILDGRID_TEST_CRASH_ROOT";
const ACKNOWLEDGED: &str = "acknowledged";

fn name(tag: &str) -> ImageName {
    image_name(REPOSITORY, tag)
}

fn images() -> [TestImage; 4] {
    ["first", "second", "again", "late"].map(TestImage::saying)
}

/// One line of what has been said to be done: it holds from now on.
fn say(root: &Path, line: &str) {
    let mut file = std::fs::File::options().create(true).append(true).open(root.join(ACKNOWLEDGED)).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

async fn publish(store: &Store, root: &Path, tag: &str, image: &TestImage) {
    let layer = put_streamed(store, image.layer.clone()).await;
    let entry =
        Layer { media_type: MediaType::ImageLayerGzip, digest: layer, size: image.layer.len() as u64 };
    store.index_layer(Digest::of(tag.as_bytes()), &entry).await.unwrap();
    image.put_untagged(store, &name(tag).repository).await;
    let put = TagPut::Replace { expected: store.tag_to_rely_on(&name(tag)).await.unwrap() };
    say(root, &format!("putting {tag} {}", image.digest()));
    assert_eq!(store.put_tag(&name(tag), image.digest(), put).await.unwrap(), TagOutcome::Put);
    say(root, &format!("put {tag} {}", image.digest()));
    // So that it is known which is newer.
    tokio::time::sleep(Duration::from_millis(10)).await;
}

fn keep_last(store: &Store, last: u32, grace: Duration) {
    let rules = format!("[retention]\n\"*\" = {{ keep_last = {last} }}");
    let rules = Config::parse("f", &rules, []).unwrap().retention;
    let retention = Retention::By { rules, in_use: InUse::read([], ["acme/shop"]), again: None };
    let cancel = CancellationToken::new();
    store.collect(&Collection { grace, dry_run: false, retention, cancel: &cancel }).unwrap();
}

/// The scene, on a store that is there or is not, from its beginning.
async fn play(root: &Path) {
    let store = Store::open(&StoreConfig::at(root.join("store"))).unwrap();
    let [first, second, again, late] = images();
    publish(&store, root, "v1", &first).await;
    publish(&store, root, "v2", &second).await;
    late.put_untagged(&store, &name("v3").repository).await;
    // What is condemned is published after all; what nobody publishes goes.
    put_streamed(&store, b"nobody's".to_vec()).await;
    collect(&store, Duration::ZERO);
    publish(&store, root, "v3", &late).await;
    collect(&store, Duration::ZERO);
    publish(&store, root, "v1", &again).await;
    // The images go that are older than the last two: `second`, and `first` by its digest.
    say(root, "removing v2");
    for _ in 0..4 {
        keep_last(&store, 2, Duration::ZERO);
    }
    say(root, "removed v2");
    publish(&store, root, "v2", &second).await;
    store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
}

#[tokio::test]
#[ignore = "it is played by the other tests of this file, in a process of its own"]
async fn scene() {
    let root = std::env::var_os(ROOT).expect("the place of the scene");
    play(Path::new(&root)).await;
}

/// The scene in a process of its own, under strace with these arguments; answers whether it came to its end.
fn played(root: &Path, strace: &[&str]) -> bool {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(strace).arg("--").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "store::crash::scene", "--ignored", "--test-threads=1", "-q"]);
    command.env(ROOT, root).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    command.status().expect("strace can be run (Debian's package strace)").success()
}

/// What must be in the store after these lines: by tag, what it may name. Empty: it may also be absent.
fn expected(acknowledged: &str) -> BTreeMap<String, Vec<Option<Digest>>> {
    let mut tags: BTreeMap<String, Vec<Option<Digest>>> = BTreeMap::new();
    for line in acknowledged.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let may = tags.entry(words[1].to_owned()).or_insert_with(|| vec![None]);
        match words[..] {
            ["putting", _, digest] => may.push(Some(digest.parse().unwrap())),
            ["put", _, digest] => *may = vec![Some(digest.parse().unwrap())],
            ["removing", _] => may.push(None),
            ["removed", _] => *may = vec![None],
            _ => panic!("{line}"),
        }
    }
    tags
}

/// Looks at a store as a reader and, with `used`, as those who go on with it.
async fn look(root: &Path, acknowledged: &str, used: bool, when: &str) {
    let config = StoreConfig::at(root.join("store"));
    let expected = expected(acknowledged);
    let Ok(store) = Store::open_read_only(&config) else {
        assert!(expected.values().all(|may| may.contains(&None)), "{when}: there is no store");
        return;
    };
    let images = images();
    for (tag, may) in &expected {
        let found = store.tag(&name(tag)).await.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(may.contains(&found), "{when}: {tag} is {found:?} instead of {may:?}");
    }
    let mut there = Vec::new();
    for tag in store.tags(&name("v1").repository).await.unwrap() {
        let digest = store.tag(&name(tag.as_str())).await.unwrap().unwrap();
        let image = images.iter().find(|image| image.digest() == digest).unwrap();
        assert!(is_whole(&store, &name(tag.as_str()), image).await, "{when}: {tag} has not its content");
        there.push((tag, image));
    }
    if used {
        // Two rounds take nothing of it, and all can be done from the beginning.
        let store = Store::open(&config).unwrap();
        for _ in 0..2 {
            collect(&store, Duration::ZERO);
        }
        for (tag, image) in there {
            assert!(is_whole(&store, &name(tag.as_str()), image).await, "{when}: {tag} was collected");
        }
        play(root).await;
        let scrubbed = store.scrub(Part::ALL, true, &CancellationToken::new()).unwrap();
        assert!(!scrubbed.is_damaged(), "{when}: {scrubbed:?}");
        for _ in 0..2 {
            collect(&store, Duration::ZERO);
        }
        assert!(is_whole(&store, &name("v2"), &images[1]).await, "{when}");
    }
}

#[tokio::test]
async fn a_store_that_loses_power_between_any_two_steps_keeps_what_it_said() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    let trace = root.path().join("trace");
    let calls = "trace=mkdir,mkdirat,openat,open,creat,write,pwrite64,writev,copy_file_range,sendfile,ftruncate,truncate,\
                 fallocate,fsync,fdatasync,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir";
    let place = root.path().to_str().unwrap();
    let recorded = played(
        root.path(),
        &["-y", "-xx", "-s", "1048576", "-e", calls, "-e", "signal=none", "-o", trace.to_str().unwrap()],
    );
    assert!(recorded);
    let trace = std::fs::read_to_string(&trace).unwrap();
    let calls: Vec<_> = trace.lines().filter_map(|line| Call::read(line, place)).collect();
    assert!(calls.len() > 300, "{} calls", calls.len());

    let mut disk = Disk::default();
    let mut chance = rand::rngs::StdRng::seed_from_u64(7);
    for (number, call) in calls.iter().enumerate() {
        disk.apply(call);
        // What it has said is no file of the store: it stands wherever it was heard.
        let said = disk.current(ACKNOWLEDGED);
        for left in [Left::Synced, Left::Some(&mut chance), Left::All] {
            let used = number % 40 == 0;
            let after = tempfile::tempdir_in("/dev/shm").unwrap();
            let when = format!("after call {number}, {call:?}, with {left:?}");
            disk.lose(left, after.path());
            let said = String::from_utf8(said.clone()).unwrap();
            look(after.path(), &said, used, &when).await;
        }
    }
    // The model is that of the calls that were made: at their end it is what lies there.
    let end = tempfile::tempdir_in("/dev/shm").unwrap();
    disk.lose(Left::All, end.path());
    let of = |root: &Path| {
        let mut files = super::gc::tree(&root.join("store"));
        files.retain(|(path, _)| !path.starts_with("buildgrid/tmp"));
        files
    };
    assert_eq!(of(end.path()), of(root.path()));
}

#[tokio::test]
async fn a_process_that_is_killed_before_any_of_its_calls_leaves_a_whole_store() {
    let calls = "mkdir,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,fsync";
    let mut kills = 0;
    // Not each of them: that would take minutes, and the model of the file system looks at all.
    for at in (1..).step_by(4) {
        let root = tempfile::tempdir_in("/dev/shm").unwrap();
        let inject = format!("inject={calls}:signal=SIGKILL:when={at}");
        let ended = played(root.path(), &["-o", "/dev/null", "-e", &format!("trace={calls}"), "-e", &inject]);
        let said = std::fs::read_to_string(root.path().join(ACKNOWLEDGED)).unwrap_or_default();
        look(root.path(), &said, true, &format!("killed before call {at}")).await;
        if ended {
            break;
        }
        kills += 1;
    }
    assert!(kills > 15, "{kills} kills");
}

/// A call that changes files below the place of the scene; paths are relative to it.
#[derive(Debug)]
enum Call {
    Mkdir(PathBuf),
    Create(PathBuf),
    Truncate(PathBuf),
    Write(PathBuf, Vec<u8>),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Unlink(PathBuf),
}

impl Call {
    /// One line of strace, if the call changed something there.
    fn read(line: &str, place: &str) -> Option<Self> {
        let line = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        assert!(!line.contains("unfinished ...") && !line.contains("resumed>"), "two at once: {line}");
        let (call, answer) = line.rsplit_once(" = ")?;
        if answer.starts_with('-') {
            return None;
        }
        let (call, arguments) = call.split_once('(')?;
        // Strings in quotes and paths of descriptors in angle brackets, all in hex.
        let strings = || quoted(arguments, '"', '"');
        let descriptor = || quoted(arguments, '<', '>');
        let below = |bytes: &[u8]| {
            let path = String::from_utf8(bytes.to_vec()).unwrap();
            let path = path.strip_prefix(place)?.trim_start_matches('/').to_owned();
            Some(PathBuf::from(path.trim_end_matches(" (deleted)")))
        };
        let path = |index: usize| below(strings().get(index)?);
        Some(match call {
            "mkdir" | "mkdirat" => Self::Mkdir(path(0)?),
            "open" | "openat" | "creat" if arguments.contains("O_TRUNC") => Self::Truncate(path(0)?),
            "open" | "openat" | "creat" if arguments.contains("O_CREAT") => Self::Create(path(0)?),
            "open" | "openat" => return None,
            "write" => {
                let to = below(descriptor().first()?)?;
                let written: usize = answer.split(' ').next()?.parse().unwrap();
                let bytes = strings().swap_remove(0);
                assert_eq!(bytes.len(), written);
                Self::Write(to, bytes)
            }
            "fsync" | "fdatasync" => Self::Sync(below(descriptor().first()?)?),
            "rename" | "renameat" | "renameat2" => Self::Rename(path(0)?, path(1)?),
            "link" | "linkat" => Self::Link(path(0)?, path(1)?),
            "unlink" | "unlinkat" | "rmdir" => Self::Unlink(path(0)?),
            _ => {
                let named = strings().iter().chain(&descriptor()).any(|bytes| below(bytes).is_some());
                assert!(!named, "the model does not know this call: {line}");
                return None;
            }
        })
    }
}

/// What stands between two signs, of which strace in hex leaves no other in the text.
fn quoted(text: &str, open: char, close: char) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open) {
        let Some((inside, after)) = after.split_once(close) else { break };
        if inside.is_empty() || inside.starts_with("\\x") {
            let hex: String = inside.split("\\x").collect();
            found.push(data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap());
        }
        rest = after;
    }
    found
}

/// What is left of what was not synced.
enum Left<'a> {
    Synced,
    /// By chance: of each name whether it points where it did or where it does, of each file how much.
    Some(&'a mut rand::rngs::StdRng),
    All,
}

impl std::fmt::Debug for Left<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Synced => "nothing that was not synced",
            Self::Some(_) => "some of what was not synced",
            Self::All => "all",
        })
    }
}

/// A file or directory: as it is, and as it is on disk.
#[derive(Default)]
struct Node {
    is_directory: bool,
    bytes: Vec<u8>,
    synced_bytes: Vec<u8>,
    entries: BTreeMap<String, usize>,
    synced_entries: BTreeMap<String, usize>,
}

/// A file system that loses whatever was not synced: the bytes of a file without a sync of the file, and the name of
/// anything without a sync of the directory that it stands in.
struct Disk(Vec<Node>);

impl Default for Disk {
    fn default() -> Self {
        Self(vec![Node { is_directory: true, ..Node::default() }])
    }
}

impl Disk {
    fn find(&self, path: &Path) -> Option<usize> {
        path.iter().try_fold(0, |node, part| self.0[node].entries.get(part.to_str().unwrap()).copied())
    }

    fn enter(&mut self, path: &Path, node: usize) {
        let parent = self.find(path.parent().unwrap()).unwrap();
        self.0[parent].entries.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), node);
    }

    fn make(&mut self, path: &Path, is_directory: bool) {
        self.0.push(Node { is_directory, ..Node::default() });
        self.enter(path, self.0.len() - 1);
    }

    fn apply(&mut self, call: &Call) {
        match call {
            Call::Mkdir(path) => self.make(path, true),
            Call::Create(path) if self.find(path).is_some() => {}
            Call::Create(path) => self.make(path, false),
            Call::Truncate(path) => match self.find(path) {
                Some(node) => self.0[node].bytes.clear(),
                None => self.make(path, false),
            },
            Call::Write(path, bytes) => {
                let node = self.find(path).unwrap();
                self.0[node].bytes.extend(bytes);
            }
            Call::Sync(path) => {
                let node = self.find(path).unwrap();
                let node = &mut self.0[node];
                node.synced_bytes.clone_from(&node.bytes);
                node.synced_entries.clone_from(&node.entries);
            }
            Call::Rename(from, to) => {
                let node = self.find(from).unwrap();
                self.remove(from);
                self.enter(to, node);
            }
            Call::Link(from, to) => self.enter(to, self.find(from).unwrap()),
            Call::Unlink(path) => self.remove(path),
        }
    }

    fn remove(&mut self, path: &Path) {
        let parent = self.find(path.parent().unwrap()).unwrap();
        self.0[parent].entries.remove(path.file_name().unwrap().to_str().unwrap()).unwrap();
    }

    fn current(&self, name: &str) -> Vec<u8> {
        self.find(Path::new(name)).map(|node| self.0[node].bytes.clone()).unwrap_or_default()
    }

    /// What is found after the power is back.
    fn lose(&self, mut left: Left<'_>, to: &Path) {
        // The store's own directory is made, durably, by whoever makes the store: its parent is not the scene's.
        let mut root = HashMap::new();
        root.extend(self.0[0].synced_entries.clone());
        if let Left::All | Left::Some(_) = left {
            root.extend(self.0[0].entries.clone());
        }
        if let Some(&store) = root.get("store") {
            std::fs::create_dir(to.join("store")).unwrap();
            self.lay_out(store, &mut left, &to.join("store"));
        }
    }

    fn lay_out(&self, node: usize, left: &mut Left<'_>, to: &Path) {
        let node = &self.0[node];
        let names: std::collections::BTreeSet<_> =
            node.entries.keys().chain(node.synced_entries.keys()).collect();
        for name in names {
            let is_kept = match left {
                Left::Synced => false,
                Left::All => true,
                Left::Some(chance) => chance.random(),
            };
            let entries = if is_kept { &node.entries } else { &node.synced_entries };
            let Some(&child) = entries.get(name) else { continue };
            let path = to.join(name);
            let file = &self.0[child];
            if file.is_directory {
                std::fs::create_dir(&path).unwrap();
                self.lay_out(child, left, &path);
                continue;
            }
            let bytes = match left {
                Left::Synced => &file.synced_bytes[..],
                Left::All => &file.bytes,
                Left::Some(_) if file.synced_bytes == file.bytes => &file.bytes,
                Left::Some(chance) => &file.bytes[..chance.random_range(0..=file.bytes.len())],
            };
            std::fs::write(path, bytes).unwrap();
        }
    }
}
