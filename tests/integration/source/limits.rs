//! Limits on what is fetched and what is sent.

use buildgrid::source::{Fault, SourceConfig, SourceError};
use bytesize::ByteSize;

use super::context::tar;
use super::{Fetcher, git_server};
use crate::support::git::{Repository, git};
use crate::support::process::output;

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ seed;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

fn repository(server: &crate::support::git::GitServer) -> Repository {
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.write("a", noise(1, 100_000));
    repository.write("b/c", noise(2, 100_000));
    repository.commit("One");
    repository
}

async fn refused(repository: &Repository, change: impl FnOnce(&mut SourceConfig)) -> String {
    let fetcher = Fetcher::with(change);
    let error = match fetcher.fetch(&repository.url, &repository.head()).await {
        Ok(fetched) => tar(&fetched, "", "Dockerfile").await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.fault(), Fault::Build, "{error}");
    error.to_string()
}

#[tokio::test]
async fn each_limit_has_its_sentence() {
    let server = git_server().await;
    let repository = repository(&server);
    let url = &repository.url;
    let remedy = "list in .dockerignore what the build does not need";
    assert_eq!(
        refused(&repository, |config| config.max_pack = ByteSize::kib(150)).await,
        format!("what {url} sent is larger than 150.0 KiB (source.max_pack)")
    );
    assert_eq!(
        refused(&repository, |config| config.max_objects = 5).await,
        format!("6 objects in {url}: more than 5 (source.max_objects)")
    );
    assert_eq!(
        refused(&repository, |config| config.max_files = 3).await,
        format!("the build context has too many files and folders: more than 3 (source.max_files); {remedy}")
    );
    assert_eq!(
        refused(&repository, |config| config.max_context = ByteSize::kib(150)).await,
        format!("the build context is larger than 150.0 KiB (source.max_context); {remedy}")
    );
    assert_eq!(
        refused(&repository, |config| config.max_file = ByteSize::kib(50)).await,
        "\"a\" is larger than 50.0 KiB (source.max_file); add it to .dockerignore if the build does not need it"
    );
    Fetcher::with(|config| {
        config.max_objects = 6;
        config.max_files = 4;
    })
    .fetch(url, &repository.head())
    .await
    .unwrap();
}

/// Makes a tree of entries as `git mktree` takes them.
fn tree(repository: &Repository, entries: impl Iterator<Item = String>) -> String {
    let listing = repository.work.join("listing");
    std::fs::write(&listing, entries.map(|entry| entry + "\n").collect::<String>()).unwrap();
    output(git(&repository.work).arg("mktree").stdin(std::fs::File::open(listing).unwrap()))
}

/// A tree in which each level holds the one below it ten times: 10^12 paths in a dozen objects.
fn endless(repository: &Repository) -> String {
    let top = repository.git(&["rev-parse", "HEAD^{tree}"]);
    (0..12).fold(top, |below, _| tree(repository, (0..10).map(|n| format!("040000 tree {below}\td{n}"))))
}

fn commit(repository: &Repository, tree: &str) -> String {
    let commit = repository.git(&["commit-tree", tree, "-m", "Bomb"]);
    repository.push(&format!("{commit}:refs/heads/main"));
    commit
}

#[tokio::test]
async fn an_endless_walk_through_what_is_ignored_ends_with_its_reader() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    // Left out, but an exception could stand anywhere in it.
    repository.write(".dockerignore", "*\n!**/nowhere\n");
    repository.commit("One");
    let below = endless(&repository);
    let own = repository.git(&["ls-tree", "HEAD"]);
    let entries = own.lines().map(str::to_owned).chain([format!("040000 tree {below}\tendless")]);
    let commit = commit(&repository, &tree(&repository, entries));
    let fetcher = Fetcher::with(|config| config.max_files = u64::MAX);
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let (stream, outcome) = fetched.context("", "Dockerfile").await.unwrap().tar();
    drop(stream);
    let outcome = tokio::time::timeout(std::time::Duration::from_secs(30), outcome).await;
    assert_eq!(outcome.expect("the walk goes on without its reader"), Err(SourceError::Cancelled));
}

#[tokio::test]
async fn a_folder_too_large_to_read_is_the_builds_fault() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.commit("One");
    let blob = repository.git(&["rev-parse", "HEAD:Dockerfile"]);
    let name = "n".repeat(200);
    let large = tree(&repository, (0..80_000).map(|n| format!("100644 blob {blob}\t{name}{n}")));
    let top = [format!("100644 blob {blob}\tDockerfile"), format!("040000 tree {large}\tlarge")];
    let commit = commit(&repository, &tree(&repository, top.into_iter()));
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let error = tar(&fetched, "", "Dockerfile").await.unwrap_err();
    let expected = format!(
        "the list of files of a folder (tree {large}) is larger than 16.0 MiB; spread its files over more folders"
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.fault(), Fault::Build);
}

#[tokio::test]
async fn a_tree_of_endless_paths_ends() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.commit("One");
    let commit = commit(&repository, &endless(&repository));
    let fetcher = Fetcher::with(|config| config.max_files = 1000);
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let root = ["d0"; 12].join("/");
    assert_eq!(tar(&fetched, &root, "Dockerfile").await.unwrap().1.files, 1);
    let error = fetched.context("", "Dockerfile").await.err().unwrap();
    assert!(matches!(error, SourceError::NoDockerfile { .. }), "{error}");
    let error = tar(&fetched, "", &format!("{root}/Dockerfile")).await.unwrap_err();
    assert!(matches!(error, SourceError::TooMany { key: "max_files", .. }), "{error}");
}
