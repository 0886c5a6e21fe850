//! Contexts, entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use buildgrid::source::{ContextSummary, FetchedCommit, SourceError};
use futures::StreamExt;

use super::{Fetcher, git_server};
use crate::support::docker::{SOCKET, docker};
use crate::support::git::{COMMIT_TIME, Repository};
use crate::support::process::output;

/// The bytes of a whole tar.
#[derive(PartialEq)]
pub struct Tar(Vec<u8>);

impl fmt::Debug for Tar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(paths(self)).finish()
    }
}

/// The whole tar of a context, or why there is none.
pub async fn tar(
    fetched: &FetchedCommit,
    root: &str,
    dockerfile: &str,
) -> Result<(Tar, ContextSummary), SourceError> {
    let context = fetched.context(root, dockerfile).await?;
    assert_eq!(context.dockerfile, dockerfile);
    let (stream, outcome) = context.tar();
    let pieces: Vec<_> = stream.collect().await;
    let summary = outcome.await;
    assert_eq!(pieces.iter().any(Result::is_err), summary.is_err());
    let bytes = pieces.into_iter().filter_map(Result::ok).collect::<Vec<_>>().concat();
    Ok((Tar(bytes), summary?))
}

pub async fn tar_of(repository: &Repository, root: &str) -> Result<(Tar, ContextSummary), SourceError> {
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    tar(&fetched, root, "Dockerfile").await
}

/// The entries of a tar as `path mode content-or-target`, in their order.
pub fn entries(tar: &Tar) -> Vec<String> {
    let mut archive = tar::Archive::new(tar.0.as_slice());
    let mut listed = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap() as i64, COMMIT_TIME);
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let rest = match entry.link_name_bytes() {
            Some(target) => format!("-> {}", String::from_utf8_lossy(&target)),
            None => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                String::from_utf8_lossy(&content).trim().to_owned()
            }
        };
        listed.push(format!("{path} {:o} {rest}", header.mode().unwrap()).trim_end().to_owned());
    }
    listed
}

pub fn paths(tar: &Tar) -> Vec<String> {
    entries(tar).iter().map(|entry| entry.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn links_modes_and_order_are_as_git_has_them() {
    let server = git_server().await;
    let repository = server.fixture("symlinks");
    let (tar, summary) = tar_of(&repository, "").await.unwrap();
    assert_eq!(
        entries(&tar),
        [
            "Dockerfile 777 -> docker/Dockerfile.alpine",
            "absolute 777 -> /etc/shadow",
            "dangling 777 -> nowhere",
            "docker/ 755",
            "docker/Dockerfile.alpine 644 FROM scratch\nCOPY . /context/",
            "folder 777 -> docker",
            "inside 777 -> target.txt",
            "outside 777 -> ../../../../../../etc/passwd",
            "run.sh 755 #!/bin/sh\ncat /context/inside",
            "target.txt 644 The real file.",
        ]
    );
    assert_eq!(summary, ContextSummary { files: 10, bytes: 30 + 15 + 30 });
    let (again, _) = tar_of(&repository, "").await.unwrap();
    assert!(tar == again, "the same commit gave other bytes");
}

#[tokio::test]
async fn what_dockerignore_names_stays_out() {
    let server = git_server().await;
    let repository = server.fixture("ignored");
    let (tar, _) = tar_of(&repository, "").await.unwrap();
    // The Dockerfile and the .dockerignore are sent though they are ignored: the engine needs them.
    let mut expected = vec![
        ".dockerignore",
        "Dockerfile",
        "docs/",
        "docs/keep.md",
        "logs/",
        "logs/.keep",
        "src/",
        "src/debug.log",
        "src/main.js",
    ];
    assert_eq!(paths(&tar), expected);

    // One beside the Dockerfile takes the place of the general one.
    repository.write("Dockerfile.dockerignore", "*\n!src\n**/*.log\n");
    repository.commit("Ignore by Dockerfile");
    let (tar, _) = tar_of(&repository, "").await.unwrap();
    expected = vec!["Dockerfile", "Dockerfile.dockerignore", "src/", "src/main.js"];
    assert_eq!(paths(&tar), expected);
}

#[tokio::test]
async fn a_folder_of_the_repository_can_be_the_context() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write(".dockerignore", "*");
    repository.write("web/.dockerignore", "/build/*.log\n");
    repository.write("web/build/Dockerfile", "FROM scratch\n");
    repository.write("web/build/x.log", "x");
    repository.write("web/x.log", "x");
    repository.write("other", "x");
    let commit = repository.commit("One");
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let (tar, _) = tar(&fetched, "web", "build/Dockerfile").await.unwrap();
    assert_eq!(paths(&tar), [".dockerignore", "build/", "build/Dockerfile", "x.log"]);
}

#[tokio::test]
async fn a_linked_dockerfile_goes_with_what_it_links_to() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("images/web/real", "FROM scratch\n");
    repository.write(".dockerignore", "*");
    for (target, link) in
        [("images", "linked"), ("../linked/web/real", "images/first"), ("images/first", "Dockerfile")]
    {
        std::os::unix::fs::symlink(target, repository.work.join(link)).unwrap();
    }
    repository.commit("Link");
    let (tar, _) = tar_of(&repository, "").await.unwrap();
    assert_eq!(
        paths(&tar),
        [
            ".dockerignore",
            "Dockerfile",
            "images/",
            "images/first",
            "images/web/",
            "images/web/real",
            "linked"
        ]
    );
}

#[tokio::test]
async fn gnu_tar_unpacks_what_git_checks_out() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write("empty", "");
    for length in [511, 512, 513, 65_536, 1_000_000] {
        repository.write(format!("sizes/{length}"), vec![7; length]);
    }
    for name in ["white space", "-dash", "new\nline", "ünï☺", "quote\"'", "back\\slash", "tab\t", "*?["] {
        repository.write(name, name);
    }
    for length in [98, 99, 100, 101, 155, 156, 255] {
        repository.write(format!("long/{}", "n".repeat(length)), "x");
        repository.write(format!("{}/x", "d".repeat(length)), "x");
        let link = repository.work.join(format!("link{length}"));
        std::os::unix::fs::symlink(format!("./t/..//{}", "t".repeat(length)), link).unwrap();
    }
    repository.write(format!("{}file", "deep/".repeat(100)), "x");
    let odd = repository.work.join(OsStr::from_bytes(b"not\xffutf8"));
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join(OsStr::from_bytes(&[b'\xfe'; 120])), "x").unwrap();
    std::os::unix::fs::symlink(OsStr::from_bytes(&[b'\xfd'; 120]), odd.join("link")).unwrap();
    repository.commit("Odd");

    let (tar, _) = tar_of(&repository, "").await.unwrap();
    unpacks_to(&tar, &repository.work);
}

/// Asserts that GNU tar makes of a context what lies in a checkout.
pub fn unpacks_to(tar: &Tar, checkout: &Path) {
    let unpacked = tempfile::tempdir().unwrap();
    let file = unpacked.path().join("context.tar");
    std::fs::write(&file, &tar.0).unwrap();
    let folder = unpacked.path().join("context");
    std::fs::create_dir(&folder).unwrap();
    output(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&folder));
    output(
        Command::new("diff").args(["-r", "--no-dereference", "--exclude=.git"]).arg(checkout).arg(&folder),
    );
}

#[tokio::test]
async fn an_engine_builds_it_by_way_of_a_linked_dockerfile() {
    let server = git_server().await;
    let repository = server.fixture("symlinks");
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    let (stream, outcome) = fetched.context("", "Dockerfile").await.unwrap().tar();
    let image = format!("buildgrid-test-source-{}", std::process::id());
    let engine = reqwest::Client::builder().unix_socket(SOCKET).build().unwrap();
    let answer = engine
        .post(format!("http://engine/build?version=2&t={image}"))
        .header("content-type", "application/x-tar")
        .body(reqwest::Body::wrap_stream(stream));
    let answer = answer.send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("Successfully tagged"), "{answer}");
    outcome.await.unwrap();

    let container = docker(&["create", &image, "none"]);
    let listing = output(
        Command::new("sh")
            .arg("-c")
            .arg(format!("docker export {container} | tar --numeric-owner -tv context/")),
    );
    docker(&["rm", &container]);
    docker(&["rmi", &image]);
    for expected in [
        "context/Dockerfile -> docker/Dockerfile.alpine",
        "context/dangling -> nowhere",
        "context/target.txt",
    ] {
        assert!(listing.contains(expected), "{listing}");
    }
    let script = listing.lines().find(|line| line.ends_with("context/run.sh")).unwrap();
    assert!(script.starts_with("-rwxr-xr-x 0/0"), "{script}");
}

#[tokio::test]
async fn rules_meet_names_that_are_not_utf8() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write(".dockerignore", "gone*\n");
    for name in [&b"gone\xff"[..], b"kept\xff"] {
        std::fs::write(repository.work.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    repository.commit("Odd");
    let (tar, _) = tar_of(&repository, "").await.unwrap();
    assert_eq!(paths(&tar), [".dockerignore", "Dockerfile", "kept\u{fffd}"]);
}

#[tokio::test]
async fn a_context_outlives_a_later_fetch_into_the_same_mirror() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let mut commits = BTreeMap::new();
    for number in 0..3 {
        repository.write("number", number.to_string());
        commits.insert(number, repository.commit("Count"));
    }
    let fetcher = Fetcher::new();
    let mut all = Vec::new();
    for commit in commits.values() {
        all.push(fetcher.fetch(&repository.url, commit).await.unwrap());
    }
    for (number, fetched) in all.iter().enumerate() {
        let (tar, _) = tar(fetched, "", "Dockerfile").await.unwrap();
        assert_eq!(entries(&tar)[1], format!("number 644 {number}"));
    }
}

#[tokio::test]
async fn objects_that_are_gone_are_not_the_builds_fault_and_come_back() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let commit = repository.commit("One");
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let packs = fetcher.mirror_paths()[0].join("objects/pack");
    let broken = output(Command::new("find").arg(&packs).args(["-type", "f", "-print", "-delete"]));
    assert_eq!(broken.lines().count(), 2, "{broken}");
    let error = fetched.context("", "Dockerfile").await.err().unwrap();
    assert!(matches!(error, SourceError::Mirror { .. }), "{error}");
    assert_eq!(error.fault(), buildgrid::source::Fault::Infrastructure);
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    tar(&fetched, "", "Dockerfile").await.unwrap();
}

/// What an image has below `/context`: path, mode or target, and a checksum of each file.
fn listing(image: &str) -> String {
    let container = docker(&["create", image, "none"]);
    let script = format!(
        "set -e; d=$(mktemp -d); docker export {container} | tar -x -C $d context; cd $d/context; \
         find . -mindepth 1 -printf '%p %y %m %l\\n' | LC_ALL=C sort; \
         find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum; rm -rf $d"
    );
    let listing = output(Command::new("sh").arg("-c").arg(script));
    docker(&["rm", &container]);
    docker(&["rmi", image]);
    listing
}

#[tokio::test]
async fn an_engine_sees_what_it_would_see_of_a_checkout() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("docker/Dockerfile", "FROM scratch\nCOPY . /context/\n");
    repository.write(".dockerignore", "**/*.log\n!keep.log\nout/*\n!out/kept\nempty-too\n");
    for (path, content) in [
        ("empty", ""),
        ("a.log", "x"),
        ("keep.log", "x"),
        ("deep/a.log", "x"),
        ("deep/b", "x"),
        ("out/kept/x", "x"),
        ("out/gone/x", "x"),
        ("white space/ünï☺", "x"),
    ] {
        repository.write(path, content);
    }
    repository.write("large", vec![7; 3_000_001]);
    for (target, link) in [("deep", "folder"), ("../../etc/passwd", "outside"), ("nowhere", "deep/dangling")]
    {
        std::os::unix::fs::symlink(target, repository.work.join(link)).unwrap();
    }
    repository.write("run.sh", "#!/bin/sh\n");
    let mode = |path: &str, mode| {
        std::fs::set_permissions(repository.work.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("run.sh", 0o755);
    repository.commit("One");

    let checkout = tempfile::tempdir().unwrap();
    output(crate::support::git::git(checkout.path()).args([
        "-c",
        "core.fileMode=true",
        "clone",
        "-q",
        &repository.url,
        "c",
    ]));
    // git alone makes .git, and a checkout's modes depend on the umask of who makes it.
    let folder = checkout.path().join("c");
    std::fs::remove_dir_all(folder.join(".git")).unwrap();
    output(Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(&folder));
    let theirs = format!("buildgrid-test-checkout-{}", std::process::id());
    output(
        Command::new("docker")
            // The classic builder: BuildKit's client, buildx, is no part of Debian's packages.
            .env("DOCKER_BUILDKIT", "0")
            .args(["build", "-q", "-t", &theirs, "-f"])
            .arg(folder.join("docker/Dockerfile"))
            .arg(&folder),
    );

    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &repository.head()).await.unwrap();
    let (stream, outcome) = fetched.context("", "docker/Dockerfile").await.unwrap().tar();
    let ours = format!("buildgrid-test-context-{}", std::process::id());
    let engine = reqwest::Client::builder().unix_socket(SOCKET).build().unwrap();
    let answer = engine
        .post(format!("http://engine/build?version=2&dockerfile=docker/Dockerfile&t={ours}"))
        .header("content-type", "application/x-tar")
        .body(reqwest::Body::wrap_stream(stream));
    let answer = answer.send().await.unwrap().text().await.unwrap();
    assert!(answer.contains("Successfully tagged"), "{answer}");
    outcome.await.unwrap();
    let (ours, theirs) = (listing(&ours), listing(&theirs));
    assert!(ours.contains("./out/kept/x f 644") && ours.contains("./run.sh f 755"), "{ours}");
    assert_eq!(ours, theirs);
}
