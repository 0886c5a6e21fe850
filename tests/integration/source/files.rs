//! Contexts file by file, as an engine asks for them.

use std::ffi::OsStr;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use buildgrid::build::docker::{BuildRequest, Context, Dockerfile};
use buildgrid::build::engine::BuiltImage;
use buildgrid::source::SourceError;
use buildgrid::source::files::{ContextEntry, ContextFiles, EntryKind, Large, Receiver, Wanted};
use buildgrid::store::digest::Digest;
use buildgrid::timeline::entry::Stream;

use super::context::{entries, tar};
use super::{Fetcher, git_server};
use crate::support::docker::{self, BASE, base_image, engine, request};
use crate::support::git::{COMMIT_TIME, GitServer, Repository};

const ANY: Large = Large { files: 0, bytes: 0 };

/// An engine that asks for every file, the last one first.
#[derive(Default)]
struct Asking {
    entries: Vec<ContextEntry>,
    contents: Vec<Vec<u8>>,
    /// Those that it has not asked for yet.
    left: Option<Vec<u32>>,
}

impl Receiver for Asking {
    fn waits(&mut self) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn entry(&mut self, entry: ContextEntry) -> ControlFlow<()> {
        assert_eq!(entry.time as i64, COMMIT_TIME);
        self.entries.push(entry);
        ControlFlow::Continue(())
    }

    fn listed(&mut self) -> ControlFlow<()> {
        self.contents = vec![Vec::new(); self.entries.len()];
        let files = self.entries.iter().enumerate();
        let files = files.filter(|(_, entry)| matches!(entry.kind, EntryKind::File { .. }));
        self.left = Some(files.map(|(number, _)| number as u32).collect());
        ControlFlow::Continue(())
    }

    fn asked(&mut self) -> Option<u32> {
        self.left.as_mut().expect("what there is was listed").pop()
    }

    fn content(&mut self, number: u32, piece: &[u8]) -> ControlFlow<()> {
        self.contents[number as usize].extend_from_slice(piece);
        ControlFlow::Continue(())
    }
}

impl Asking {
    /// As the entries of a tar are shown.
    fn shown(&self) -> Vec<String> {
        let shown = |(entry, content): (&ContextEntry, &Vec<u8>)| {
            let (name, mode, rest) = match &entry.kind {
                EntryKind::Folder => (format!("{}/", entry.path), "755", String::new()),
                EntryKind::Link { target } => (entry.path.clone(), "777", format!("-> {target}")),
                EntryKind::File { size, executable } => {
                    assert_eq!(*size, content.len() as u64, "{}", entry.path);
                    let mode = if *executable { "755" } else { "644" };
                    (entry.path.clone(), mode, String::from_utf8_lossy(content).trim().to_owned())
                }
            };
            format!("{name} {mode} {rest}").trim_end().to_owned()
        };
        self.entries.iter().zip(&self.contents).map(shown).collect()
    }
}

async fn transfer(files: &ContextFiles, wanted: Wanted) -> Result<Asking, SourceError> {
    let files = files.clone();
    let work = move || {
        let mut asking = Asking::default();
        files.transfer(&wanted, &mut asking).map(|()| asking)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn files_of(fetcher: &Fetcher, repository: &Repository, dockerfile: &str) -> Option<ContextFiles> {
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    fetched.context("", dockerfile).await.unwrap().files(ANY).await.unwrap().ok()
}

fn paths(paths: &[&str]) -> Wanted {
    Wanted::Paths(paths.iter().map(|path| (*path).to_owned()).collect())
}

/// Folders whose names sort otherwise as paths, links, and files of many lengths.
fn odd(server: &GitServer) -> Repository {
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write(".dockerignore", "**/*.log\n!lib/kept.log\n");
    for name in
        ["lib/a", "lib/kept.log", "lib/gone.log", "lib.txt", "lib-x/b", "lib0", "ünï/☺", "data/deep/er/x"]
    {
        repository.write(name, name);
    }
    for length in [0, 1, 131_072, 131_073, 1_000_000] {
        repository.write(format!("sizes/{length}"), vec![b'7'; length]);
    }
    for (target, link) in [("../lib", "data/link"), ("lib", "linked"), ("nowhere", "sizes/dangling")] {
        std::os::unix::fs::symlink(target, repository.work.join(link)).unwrap();
    }
    repository.commit("Odd");
    repository
}

#[tokio::test]
async fn they_are_those_of_the_tar_in_the_order_of_their_paths() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    for repository in [odd(&server), server.fixture("symlinks"), server.fixture("ignored")] {
        let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
        let (tar, _) = tar(&fetched, "", "Dockerfile").await.unwrap();
        let files = files_of(&fetcher, &repository, "Dockerfile").await.unwrap();
        let asking = transfer(&files, Wanted::All).await.unwrap();
        assert_eq!(asking.shown(), entries(&tar));
        assert!(asking.entries.is_sorted_by_key(|entry| Path::new(&entry.path).to_owned()));
    }
}

#[tokio::test]
async fn a_part_has_what_is_named_and_the_way_there() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    let files = files_of(&fetcher, &repository, "Dockerfile").await.unwrap();
    let asked = async |wanted: Wanted| {
        let asking = transfer(&files, wanted).await.unwrap();
        asking.entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>()
    };
    let all = asked(Wanted::All).await;
    assert_eq!(asked(Wanted::Dockerfile).await, [".dockerignore", "Dockerfile"]);
    for (names, expected) in [
        (&["lib"][..], &["lib", "lib/a", "lib/kept.log"][..]),
        (&["/lib0", "./data/deep/"], &["data", "data/deep", "data/deep/er", "data/deep/er/x", "lib0"]),
        (&["lib/a*", "lib.txt"], &["lib", "lib/a", "lib/kept.log", "lib.txt"]),
        (&["lib/gone.log", "lib/nowhere/x"], &[]),
        (&["ünï"], &["ünï", "ünï/☺"]),
    ] {
        assert_eq!(asked(paths(names)).await, expected, "{names:?}");
    }
    // What may be behind a link, or be one, may be anywhere.
    for names in ["linked/a", "linked", "*.txt", "sizes/*", "../x", "", "data/link/a"] {
        assert_eq!(asked(paths(&["lib0", names])).await, all, "{names}");
    }
}

#[tokio::test]
async fn names_that_are_no_text_need_a_tar() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    let odder = OsStr::from_bytes(b"not\xffutf8");
    std::fs::write(repository.work.join(odder), "x").unwrap();
    repository.commit("A name");
    assert!(files_of(&fetcher, &repository, "Dockerfile").await.is_none());
    std::fs::remove_file(repository.work.join(odder)).unwrap();
    repository.commit("None");
    assert!(files_of(&fetcher, &repository, "Dockerfile").await.is_some());
    std::os::unix::fs::symlink(odder, repository.work.join("link")).unwrap();
    repository.commit("A target");
    assert!(files_of(&fetcher, &repository, "Dockerfile").await.is_none());
}

#[tokio::test]
async fn what_is_small_is_sent_whole() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    let all = files_of(&fetcher, &repository, "Dockerfile").await.unwrap();
    let entries = transfer(&all, Wanted::All).await.unwrap().entries;
    let (files, bytes) = entries.iter().fold((0, 0), |(files, bytes), entry| match entry.kind {
        EntryKind::File { size, .. } => (files + 1, bytes + size),
        _ => (files + 1, bytes),
    });
    for (files, bytes, are_asked_for) in [
        (files, u64::MAX, true),
        (files + 1, u64::MAX, false),
        (u64::MAX, bytes, true),
        (u64::MAX, bytes + 1, false),
    ] {
        let context = fetched.context("", "Dockerfile").await.unwrap();
        let context = context.files(Large { files, bytes }).await.unwrap();
        assert_eq!(context.is_ok(), are_asked_for, "{files} files, {bytes} bytes");
    }
}

#[tokio::test]
async fn a_file_that_lfs_keeps_matters_where_it_is_used() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    repository.write("models/large.bin", pointer);
    repository.commit("Point");
    let files = files_of(&fetcher, &repository, "Dockerfile").await.unwrap();
    transfer(&files, paths(&["lib"])).await.unwrap();
    assert_eq!(files.failure(), None);
    let error = transfer(&files, paths(&["models"])).await.err().unwrap();
    assert_eq!(error, SourceError::LfsPointers { paths: vec!["models/large.bin".to_owned()] });
    assert_eq!(files.failure(), Some(error));
}

#[tokio::test]
async fn a_submodule_that_is_ignored_is_nothing_to_copy() {
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let library = server.empty("library");
    library.write("a.so", "x");
    let library_commit = library.commit("Library");
    let repository = odd(&server);
    repository.submodule("vendor/lib", "../library.git", &library_commit);
    repository.write(".dockerignore", "vendor\n");
    repository.commit("Ignore it");
    let files = files_of(&fetcher, &repository, "Dockerfile").await.unwrap();
    let asking = transfer(&files, paths(&["vendor/lib/*.so", "lib0"])).await.unwrap();
    let names: Vec<_> = asking.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["lib0"]);
}

async fn requested(fetcher: &Fetcher, repository: &Repository, as_files: bool) -> BuildRequest {
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    let context = fetched.context("", "docker/Dockerfile").await.unwrap();
    let text = Dockerfile::new(&context.text);
    let context = match as_files {
        true => Context::Files(context.files(ANY).await.unwrap().ok().unwrap()),
        false => Context::Tar(Box::pin(context.tar().0)),
    };
    BuildRequest { dockerfile: "docker/Dockerfile".to_owned(), text, no_cache: true, context, ..request("") }
}

#[tokio::test]
async fn an_engine_makes_the_same_layers_of_them_and_takes_what_it_uses() {
    base_image();
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    // Each pattern is a header of the engine's request.
    let many: String = (0..2000).map(|number| format!("nowhere/at/all/{number}\n")).collect();
    repository.write("docker/Dockerfile.dockerignore", format!("{many}**/*.log\n!lib/kept.log\nlib0\n"));
    let whole = format!("FROM {BASE}\nCOPY . /context/\nCOPY linked /linked/\n");
    let part = format!(
        "FROM {BASE}\nCOPY lib data/deep ünï /context/\nADD sizes/1* /sizes/\n\
         RUN --mount=type=bind,source=lib-x,target=/mnt cp /mnt/b /copied && touch -d @0 /copied /\n"
    );
    let empty = format!("FROM {BASE}\nRUN ls / > /found && touch -d @0 /found /\n");
    for dockerfile in [whole, part, empty] {
        repository.write("docker/Dockerfile", dockerfile.as_str());
        repository.commit("Build");
        let mut images = Vec::new();
        for as_files in [false, true, true] {
            let built = docker::build(&engine(), requested(&fetcher, &repository, as_files).await).await;
            images.push(listed(&built.image()));
        }
        assert_eq!(images[1], images[0], "{dockerfile}");
        assert_eq!(images[2], images[0], "a second time: {dockerfile}");
    }
}

/// What stands in an image's own layers, but for the times of folders: with files that it asks for, the engine makes
/// them.
fn listed(image: &BuiltImage) -> Vec<String> {
    let mut listed = Vec::new();
    for index in 1..image.diff_ids.len() {
        for entry in tar::Archive::new(image.open_layer(index).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let (header, path) = (entry.header(), entry.path().unwrap().into_owned());
            let time = if header.entry_type().is_dir() { 0 } else { header.mtime().unwrap() };
            listed.push(format!(
                "{path:?} {:o} {}:{} {time} {:?} {}",
                header.mode().unwrap(),
                header.uid().unwrap(),
                header.gid().unwrap(),
                entry.link_name().unwrap(),
                Digest::of(&content)
            ));
        }
    }
    listed
}

#[tokio::test]
async fn what_is_wrong_with_a_file_breaks_the_build_off() {
    base_image();
    let server = git_server().await;
    let fetcher = Fetcher::new();
    let repository = odd(&server);
    repository.write("docker/Dockerfile", format!("FROM {BASE}\nCOPY models /models/\n"));
    repository
        .write("models/large.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n");
    repository.commit("Point");
    let request = requested(&fetcher, &repository, true).await;
    let Context::Files(files) = &request.context else { unreachable!("it was asked for") };
    let files = files.clone();
    let built = docker::build(&engine(), request).await;
    assert!(built.result.is_err());
    assert!(matches!(files.failure(), Some(SourceError::LfsPointers { .. })));
    assert_eq!(built.lines(Stream::Stdout, "[2/2]"), [""; 0]);
}
