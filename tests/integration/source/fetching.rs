//! The ways a commit comes: by its id, by a ref, from a mirror that has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use buildgrid::source::{Fault, SourceError};

use super::{Fetcher, git_server};
use crate::support::git::{COMMIT_TIME, Repository, git};
use crate::support::git_proxy::{GitProxy, Reaction, Request};
use crate::support::patience::until;
use crate::support::process::output;

/// Commits in the mirrors, as git counts them.
fn commits(fetcher: &Fetcher) -> Vec<String> {
    let count = |path: &std::path::PathBuf| {
        let objects =
            output(git(path).args(["cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"]));
        let commits = objects.lines().filter(|kind| *kind == "commit").count();
        format!("{}: {commits}", super::kind(path))
    };
    let mut counts: Vec<String> = fetcher.mirror_paths().iter().map(count).collect();
    counts.sort();
    counts
}

/// A repository of three commits; answers with their ids.
fn three_commits(repository: &Repository) -> [String; 3] {
    ["one", "two", "three"].map(|content| {
        repository.write("Dockerfile", "FROM scratch\n");
        repository.write("file", content);
        repository.commit(&format!("Say {content}\n\nAnd why."))
    })
}

/// Makes a server look as if it were not git's own.
fn foreign(request: &Request) -> Reaction {
    match request.is_for_refs() {
        true => Reaction::Edit(Box::new(|list| replaced(list, b"agent=git/", b"agent=got/"))),
        false => Reaction::Pass,
    }
}

fn replaced(text: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "the packet's length must stay");
    let at = text.windows(from.len()).position(|part| part == from).expect("the text to replace is there");
    [&text[..at], to, &text[at + from.len()..]].concat()
}

pub(super) fn refusing_ids(request: &Request) -> Reaction {
    match request.is_for_objects() && request.contains("deepen 1") {
        true => Reaction::refusal("upload-pack: not our ref 123"),
        false => foreign(request),
    }
}

#[tokio::test]
async fn a_commit_comes_by_its_id_without_its_history() {
    let server = git_server().await;
    for (name, announced) in [("default", false), ("announcing", true)] {
        let repository = server.empty(name);
        repository.serve_commits_by_id(announced);
        let [_, second, third] = three_commits(&repository);
        let fetcher = Fetcher::new();
        let fetched = fetcher.fetch(&repository.url, &second).await.unwrap();
        assert_eq!(fetched.id.as_str(), second);
        assert_eq!(fetched.subject, "Say two");
        assert_eq!(fetched.author, "Ada Lovelace");
        assert_eq!(fetched.time.unix_timestamp(), COMMIT_TIME);
        assert_eq!(commits(&fetcher), ["shallow: 1"], "{name}");
        let log = fetcher.log_up_to("received").await;
        assert_eq!(log[0], format!("fetching {}", repository.url));
        assert!(log[1].starts_with("received 4 objects, "), "{log:?}");

        fetcher.fetch(&repository.url, &third).await.unwrap();
        assert_eq!(commits(&fetcher), ["shallow: 2"], "{name}");
        output(git(&fetcher.mirror_paths()[0]).args(["fsck", "--strict"]));
    }
}

#[tokio::test]
async fn where_ids_are_refused_the_events_ref_is_fetched() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [first, ..] = three_commits(&repository);
    repository.git(&["checkout", "--quiet", "--orphan", "other"]);
    let other = repository.commit("Start anew");
    repository.push(&format!("{first}:refs/heads/main"));
    repository.push(&format!("{other}:refs/heads/other"));
    let proxy = GitProxy::start(&server.url, refusing_ids).await;
    let url = format!("{}/x.git", proxy.url);

    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch_on(&url, &first, Some("refs/heads/main")).await.unwrap();
    assert_eq!(fetched.id.as_str(), first);
    assert_eq!(commits(&fetcher), ["full: 1", "shallow: 0"]);
    let log = fetcher.log_up_to("received").await.join("\n");
    assert!(log.contains("fetching refs/heads/main with its history"), "{log}");

    // The ref of the event has moved away from the commit, which is on another one.
    fetcher.fetch_on(&url, &other, Some("refs/heads/main")).await.unwrap();
    assert_eq!(commits(&fetcher), ["full: 2", "shallow: 0"]);
}

#[tokio::test]
async fn a_commit_that_only_a_tag_leads_to_is_found() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, third] = three_commits(&repository);
    repository.git(&["tag", "--annotate", "v1", "--message", "One", &third]);
    repository.push("refs/tags/v1");
    repository.push(&format!("+{second}~1:refs/heads/main"));
    let proxy = GitProxy::start(&server.url, refusing_ids).await;
    for git_ref in [None, Some("refs/heads/gone"), Some("refs/heads/*"), Some("not a ref")] {
        let fetcher = Fetcher::new();
        let url = format!("{}/x.git", proxy.url);
        let fetched = fetcher.fetch_on(&url, &second, git_ref).await.unwrap();
        assert_eq!(fetched.subject, "Say two");
    }
}

#[tokio::test]
async fn a_server_without_shallow_fetches_gives_the_history() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, _] = three_commits(&repository);
    let proxy = GitProxy::start(&server.url, |request| match request.is_for_refs() {
        true => Reaction::Edit(Box::new(|list| replaced(list, b" shallow ", b" shadows "))),
        false => Reaction::Pass,
    })
    .await;
    let fetcher = Fetcher::new();
    let fetched = fetcher.fetch(&format!("{}/x.git", proxy.url), &second).await.unwrap();
    assert_eq!(fetched.subject, "Say two");
    assert_eq!(commits(&fetcher), ["full: 3", "shallow: 0"]);
}

#[tokio::test]
async fn a_missing_commit_is_the_builds_fault() {
    let server = git_server().await;
    let repository = server.empty("x");
    three_commits(&repository);
    let missing = "1".repeat(40);
    let empty = server.empty("empty");

    // git itself is believed at once, another server only after everything has been looked through.
    for (foreigner, full) in [(false, false), (true, true)] {
        let proxy = GitProxy::start(&server.url, move |request| match foreigner {
            true => foreign(request),
            false => Reaction::Pass,
        })
        .await;
        let fetcher = Fetcher::new();
        let error = fetcher.fetch(&format!("{}/x.git", proxy.url), &missing).await.unwrap_err();
        assert!(matches!(&error, SourceError::CommitNotFound { commit, .. } if commit.as_str() == missing));
        assert_eq!(error.fault(), Fault::Build);
        assert_eq!(fetcher.mirror_names().iter().any(|name| name.starts_with("full")), full);
    }
    let error = Fetcher::new().fetch(&empty.url, &missing).await.unwrap_err();
    assert!(matches!(error, SourceError::CommitNotFound { .. }), "{error}");

    // The id of a tree or a tag is not that of a commit, and does no harm to what comes after it.
    repository.git(&["tag", "--annotate", "v1", "--message", "One"]);
    repository.push("refs/tags/v1");
    for other in ["HEAD^{tree}", "v1"] {
        let fetcher = Fetcher::new();
        fetcher.fetch(&repository.url, &repository.git(&["rev-parse", "HEAD~1"])).await.unwrap();
        let other = repository.git(&["rev-parse", other]);
        let error = fetcher.fetch(&repository.url, &other).await.unwrap_err();
        assert!(matches!(error, SourceError::CommitNotFound { .. }), "{error}");
        let said = fetcher.lines.lock().unwrap().len();
        let next = repository.commit("Next");
        fetcher.fetch(&repository.url, &next).await.unwrap();
        let log = fetcher.lines.lock().unwrap()[said..].join("\n");
        assert!(!log.contains("broken") && !log.contains("history"), "{log}");
    }
}

#[tokio::test]
async fn a_commit_that_is_here_needs_no_server() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, _] = three_commits(&repository);
    let proxy = GitProxy::start(&server.url, |_| Reaction::Pass).await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    fetcher.fetch(&url, &second).await.unwrap();
    let requests = proxy.seen().len();
    let fetched = fetcher.fetch(&url, &second).await.unwrap();
    assert_eq!(proxy.seen().len(), requests);
    assert_eq!(fetched.subject, "Say two");

    // Nor does the next process.
    drop((server, proxy));
    let fetcher = fetcher.restarted();
    assert_eq!(fetcher.fetch(&url, &second).await.unwrap().subject, "Say two");
    let log = fetcher.log_up_to("already here").await;
    assert_eq!(log.len(), 1, "{log:?}");
}

#[tokio::test]
async fn a_later_fetch_brings_only_what_is_new() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write(
        "large",
        vec![b'x'; 100_000].into_iter().enumerate().map(|(n, _)| (n * n) as u8).collect::<Vec<u8>>(),
    );
    repository.write("file", "one");
    let first = repository.commit("One");
    repository.write("file", "two");
    let second = repository.commit("Two");
    let fetcher = Fetcher::new();
    fetcher.fetch(&repository.url, &first).await.unwrap();
    fetcher.fetch(&repository.url, &second).await.unwrap();
    // The commit, its tree and the file; the tree may come as a difference.
    let log = fetcher.log_up_to("received 3 objects").await;
    assert!(log[1].starts_with("received 4 objects"), "{log:?}");
    output(git(&fetcher.mirror_paths()[0]).args(["fsck", "--strict"]));
}

#[tokio::test]
async fn concurrent_fetches_of_one_repository_share_the_work() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, third] = three_commits(&repository);
    let proxy = GitProxy::start(&server.url, |_| Reaction::Pass).await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    let (a, b, c) =
        tokio::join!(fetcher.fetch(&url, &second), fetcher.fetch(&url, &second), fetcher.fetch(&url, &third));
    assert_eq!(a.unwrap().subject, "Say two");
    assert_eq!(b.unwrap().subject, "Say two");
    assert_eq!(c.unwrap().subject, "Say three");
    assert_eq!(proxy.seen().iter().filter(|line| line.ends_with("/git-upload-pack")).count(), 2);
    let log = fetcher.log_up_to("already here").await.join("\n");
    assert!(log.contains("waiting for another fetch"), "{log}");
}

#[tokio::test]
async fn the_next_commit_takes_one_request() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [first, second, third] = three_commits(&repository);
    let proxy = GitProxy::start(&server.url, |_| Reaction::Pass).await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    // The first has no parents, where nothing is cut off.
    for commit in [&first, &second, &third] {
        fetcher.fetch(&url, commit).await.unwrap();
    }
    let (refs, objects) = ("GET /x.git/info/refs", "POST /x.git/git-upload-pack");
    assert_eq!(proxy.seen(), [refs, objects, objects, objects]);
    assert_eq!(commits(&fetcher), ["shallow: 3"]);
    output(git(&fetcher.mirror_paths()[0]).args(["fsck", "--strict"]));

    // One that is not there is looked for with the list as well.
    let error = fetcher.fetch(&url, &"1".repeat(40)).await.unwrap_err();
    assert!(matches!(error, SourceError::CommitNotFound { .. }), "{error}");
    assert_eq!(proxy.seen()[4..], [objects, refs, objects]);
    repository.write("file", "four");
    let fourth = repository.commit("Say four");
    fetcher.fetch(&url, &fourth).await.unwrap();
    assert_eq!(proxy.seen()[7..], [refs, objects], "what failed is not remembered");
}

#[tokio::test]
async fn where_a_server_redirects_to_is_not_remembered() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, third] = three_commits(&repository);
    let proxy = GitProxy::start(&server.url, |request| match request.line.contains("/old.git") {
        true => Reaction::redirect("/x.git/info/refs?service=git-upload-pack"),
        false => Reaction::Pass,
    })
    .await;
    let fetcher = Fetcher::new();
    for commit in [&second, &third] {
        fetcher.fetch(&format!("{}/old.git", proxy.url), commit).await.unwrap();
    }
    let (old, new, objects) =
        ("GET /old.git/info/refs", "GET /x.git/info/refs", "POST /x.git/git-upload-pack");
    assert_eq!(proxy.seen(), [old, new, objects, old, new, objects]);
}

#[tokio::test]
async fn a_server_that_has_changed_is_asked_for_its_refs_again() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, third] = three_commits(&repository);
    let refuses = Arc::new(AtomicBool::new(false));
    let now = refuses.clone();
    let proxy = GitProxy::start(&server.url, move |request| match now.load(Ordering::Relaxed) {
        true => refusing_ids(request),
        false => Reaction::Pass,
    })
    .await;
    let url = format!("{}/x.git", proxy.url);
    let fetcher = Fetcher::new();
    fetcher.fetch(&url, &second).await.unwrap();
    refuses.store(true, Ordering::Relaxed);
    let fetched = fetcher.fetch_on(&url, &third, Some("refs/heads/main")).await.unwrap();
    assert_eq!(fetched.subject, "Say three");
    assert_eq!(commits(&fetcher), ["full: 3", "shallow: 1"]);
    let log = fetcher.log_up_to("with its history").await.join("\n");
    assert!(!log.contains("broken"), "{log}");
}

#[tokio::test]
async fn a_broken_mirror_is_fetched_anew() {
    let server = git_server().await;
    let repository = server.empty("x");
    let [_, second, third] = three_commits(&repository);
    for damage in [truncate as fn(&std::path::Path), garble, forget] {
        let fetcher = Fetcher::new();
        fetcher.fetch(&repository.url, &second).await.unwrap();
        let mirror = fetcher.mirror_paths().remove(0);
        damage(&mirror);
        let fetcher = fetcher.restarted();
        for commit in [&third, &second] {
            let fetched = fetcher.fetch(&repository.url, commit).await.unwrap();
            let (stream, outcome) = fetched.context("", "Dockerfile").await.unwrap().tar();
            drop(futures::StreamExt::collect::<Vec<_>>(stream).await);
            assert_eq!(outcome.await.unwrap().files, 2);
        }
        // The broken one goes in the background.
        until("only the new mirror is there", || fetcher.mirror_names() == ["shallow-1"]).await;
        output(git(&fetcher.mirror_paths()[0]).args(["fsck", "--strict"]));
    }
}

fn packs(mirror: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn rewrite(path: &std::path::Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

/// The packs end early, as after a crash of the machine.
fn truncate(mirror: &std::path::Path) {
    for path in packs(mirror) {
        let content = std::fs::read(&path).unwrap();
        rewrite(&path, &content[..content.len() / 2]);
    }
}

/// Every object has turned to something else; index and checksum are as they were.
fn garble(mirror: &std::path::Path) {
    for path in packs(mirror).iter().filter(|path| path.extension().unwrap() == "pack") {
        let mut content = std::fs::read(path).unwrap();
        let end = content.len() - 20;
        content[12..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        rewrite(path, &content);
    }
}

/// The objects are gone, and the refs still name them.
fn forget(mirror: &std::path::Path) {
    packs(mirror).iter().for_each(|path| std::fs::remove_file(path).unwrap());
}
