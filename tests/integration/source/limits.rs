//! Limits on what is fetched and what is sent.

use buildgrid::source::{Fault, SourceConfig, SourceError};
use bytesize::ByteSize;

use super::context::tar;
use super::{Fetcher, git_server};
use crate::support::git::{Repository, git, run};

/// Bytes that do not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
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

#[tokio::test]
async fn a_tree_of_endless_paths_ends() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    repository.commit("One");
    // Each level holds the one below it ten times: 10^12 paths in a dozen objects.
    let mut tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    for _ in 0..12 {
        let listing: String = (0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect();
        std::fs::write(repository.work.join("listing"), listing).unwrap();
        let listing = std::fs::File::open(repository.work.join("listing")).unwrap();
        tree = run(git(&repository.work).arg("mktree").stdin(listing));
    }
    let commit = repository.git(&["commit-tree", &tree, "-m", "Bomb"]);
    repository.git(&["reset", "--quiet", "--soft", &commit]);
    repository.push(&format!("{commit}:refs/heads/main"));
    let fetcher = Fetcher::with(|config| config.max_files = 1000);
    let fetched = fetcher.fetch(&repository.url, &commit).await.unwrap();
    let root = ["d0"; 12].join("/");
    assert_eq!(tar(&fetched, &root, "Dockerfile").await.unwrap().1.files, 1);
    let error = fetched.context("", "Dockerfile").await.err().unwrap();
    assert!(matches!(error, SourceError::NoDockerfile { .. }), "{error}");
    let error = tar(&fetched, "", &format!("{root}/Dockerfile")).await.unwrap_err();
    assert!(matches!(error, SourceError::TooMany { key: "max_files", .. }), "{error}");
}
