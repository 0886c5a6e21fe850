//! Mirrors after many fetches: few packs, few refs, nothing lost, nobody disturbed.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;

use super::fetching::refusing_ids;
use super::{Fetcher, git_server, kind};
use crate::support::git::{COMMIT_TIME, Repository, git};
use crate::support::git_proxy::GitProxy;
use crate::support::patience::until;
use crate::support::process::output;

/// Commits that each change a file and add one, a second after the other.
fn commits(repository: &Repository, numbers: Range<usize>) -> Vec<String> {
    repository.write("Dockerfile", "FROM scratch\n");
    let text: Vec<String> =
        (0..2000u32).map(|n| format!("line {}\n", n.wrapping_mul(2_654_435_761))).collect();
    let change = |number: usize| {
        let mut text = text.clone();
        text[number] = "changed\n".to_owned();
        repository.write("text", text.concat());
        repository.write(format!("folder-{}/file-{number}", number % 7), format!("{number}\n"));
        repository.git(&["add", "--all"]);
        let mut later = git(&repository.work);
        later.env("GIT_COMMITTER_DATE", format!("{} +0000", COMMIT_TIME + number as i64));
        output(later.args(["commit", "--quiet", "--message", &format!("Change {number}")]));
        repository.push("HEAD:refs/heads/main");
        repository.head()
    };
    numbers.map(change).collect()
}

/// The files and folders of the commit of that number.
fn count(number: usize) -> u64 {
    (2 + number + 1 + 7.min(number + 1)) as u64
}

fn packs(mirror: &Path) -> usize {
    let entries = fs::read_dir(mirror.join("objects/pack")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().path().extension().unwrap() == "pack").count()
}

fn refs(mirror: &Path) -> usize {
    output(git(mirror).args(["for-each-ref"])).lines().count()
}

/// Packs what there is, as the janitor does.
async fn pack(fetcher: &Fetcher) -> usize {
    let sources = fetcher.sources.clone();
    let all = move || {
        let kept = sources.kept().unwrap();
        kept.iter().map(|mirrors| sources.pack(mirrors, &|| false).unwrap()).sum()
    };
    tokio::task::spawn_blocking(all).await.unwrap()
}

/// The files of a commit's context.
async fn files(fetcher: &Fetcher, url: &str, commit: &str) -> u64 {
    let fetched = fetcher.fetch(url, commit).await.unwrap();
    let (stream, outcome) = fetched.context("", "Dockerfile").await.unwrap().tar();
    drop(stream.collect::<Vec<_>>().await);
    outcome.await.unwrap().files
}

/// How many objects came, by the log's line.
fn objects(line: &str) -> u64 {
    line.split(' ').nth(1).unwrap().parse().unwrap()
}

/// git's own opinion of a mirror: nothing is missing, nothing is broken.
fn is_whole(mirror: &Path) {
    output(git(mirror).args(["fsck", "--strict", "--connectivity-only"]));
    output(git(mirror).args(["fsck", "--strict"]));
}

#[tokio::test]
async fn a_mirror_of_many_fetches_is_packed_as_it_goes() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commits = commits(&repository, 0..150);
    let fetcher = Fetcher::new();
    for (number, commit) in commits.iter().enumerate() {
        // What is already there is the base of what comes.
        fetcher.fetch(&repository.url, commit).await.unwrap();
        let most = fetcher.mirror_paths().iter().map(|path| packs(path)).max().unwrap();
        assert!(most <= 64, "{most} packs after {number} fetches");
    }
    let log = fetcher.lines.clone();
    let received = || {
        log.lock().unwrap().iter().filter(|line| line.starts_with("received ")).cloned().collect::<Vec<_>>()
    };
    until("all fetches have told what they have received", || received().len() == 150).await;
    // The commit, two trees and two files; and what they are differences to.
    let many: Vec<_> = received().into_iter().filter(|line| objects(line) > 8).collect();
    assert_eq!(many, [""; 0], "a fetch began anew");

    until("one mirror is left", || fetcher.mirror_names().len() == 1).await;
    let mirror = fetcher.mirror_paths().remove(0);
    assert_eq!(kind(&mirror), "shallow");
    is_whole(&mirror);
    assert!(refs(&mirror) < 64 + 64, "{} refs", refs(&mirror));
    assert_eq!(files(&fetcher, &repository.url, &commits[149]).await, count(149));
}

#[tokio::test]
async fn the_janitor_leaves_few_packs_and_what_is_needed() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commits = commits(&repository, 0..90);
    let fetcher = Fetcher::new();
    for commit in &commits[..40] {
        fetcher.fetch(&repository.url, commit).await.unwrap();
    }
    let before = fetcher.mirror_paths().remove(0);
    let reading = fetcher.fetch(&repository.url, &commits[3]).await.unwrap();
    assert_eq!(pack(&fetcher).await, 1);
    assert_eq!(pack(&fetcher).await, 0, "there is nothing more to do");

    // Who reads the old mirror keeps it.
    let after = fetcher.mirror_paths().into_iter().find(|path| *path != before).unwrap();
    assert!(before.exists() && packs(&before) == 40);
    let (stream, outcome) = reading.context("", "Dockerfile").await.unwrap().tar();
    drop(stream.collect::<Vec<_>>().await);
    assert_eq!(outcome.await.unwrap().files, count(3));
    drop(reading);
    until("the old mirror goes with its reader", || !before.exists()).await;

    assert!(packs(&after) <= 8, "{} packs", packs(&after));
    assert_eq!(refs(&after), 40);
    is_whole(&after);
    let needs_no_server = fetcher.lines.lock().unwrap().len();
    for number in [0, 20, 39] {
        assert_eq!(files(&fetcher, &repository.url, &commits[number]).await, count(number));
    }
    until("all are said to be here", || fetcher.lines.lock().unwrap().len() == needs_no_server + 3).await;
    let lines = fetcher.lines.lock().unwrap()[needs_no_server..].join("\n");
    assert_eq!(lines.matches("already here").count(), 3, "{lines}");

    // Another process goes on with it, by differences to what is there.
    let fetcher = fetcher.restarted();
    for commit in &commits[40..] {
        fetcher.fetch(&repository.url, commit).await.unwrap();
    }
    let first = fetcher.log_up_to("received ").await;
    assert!(objects(first.iter().find(|line| line.starts_with("received ")).unwrap()) <= 8, "{first:?}");
    assert_eq!(pack(&fetcher).await, 1);
    until("one mirror is left", || fetcher.mirror_names().len() == 1).await;
    let mirror = fetcher.mirror_paths().remove(0);
    assert!(packs(&mirror) <= 8 && refs(&mirror) == 64, "{} packs, {} refs", packs(&mirror), refs(&mirror));
    is_whole(&mirror);
    assert_eq!(files(&fetcher, &repository.url, &commits[89]).await, count(89));
}

#[tokio::test]
async fn what_no_kept_commit_needs_goes_in_the_end() {
    let server = git_server().await;
    let repository = server.empty("x");
    repository.write("Dockerfile", "FROM scratch\n");
    let fetcher = Fetcher::new();
    let mut last = String::new();
    // Each has a file of its own that compresses badly: of 64 that are kept at most, 100 came.
    for number in 0..100u64 {
        let noise: Vec<u8> = (1..4000u64)
            .flat_map(|n| (n * (number + 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        repository.write("noise", noise);
        last = repository.commit(&format!("Noise {number}"));
        fetcher.fetch(&repository.url, &last).await.unwrap();
    }
    pack(&fetcher).await;
    until("one mirror is left", || fetcher.mirror_names().len() == 1).await;
    let mirror = fetcher.mirror_paths().remove(0);
    let commits =
        output(git(&mirror).args(["cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"]));
    let commits = commits.lines().filter(|kind| *kind == "commit").count();
    assert!(commits <= 64 + 8, "{commits} commits are kept");
    is_whole(&mirror);
    assert_eq!(files(&fetcher, &repository.url, &last).await, 2);
}

#[tokio::test]
async fn a_mirror_with_history_is_packed_with_all_of_it() {
    let server = git_server().await;
    let repository = server.empty("x");
    // Another server than git's own, which gives out refs alone.
    let proxy = GitProxy::start(&server.url, refusing_ids).await;
    let fetcher = Fetcher::new();
    let url = format!("{}/x.git", proxy.url);
    let mut all = Vec::new();
    for number in 0..20 {
        all.extend(commits(&repository, number..number + 1));
        let name = format!("v{number}");
        repository.git(&["tag", "--annotate", &name, "--message", "A version"]);
        repository.push(&format!("refs/tags/{name}"));
        let commit = all.last().unwrap();
        fetcher.fetch_on(&url, commit, Some(&format!("refs/tags/{name}"))).await.unwrap();
    }
    assert!(pack(&fetcher).await >= 1);
    until("one full mirror is left", || {
        fetcher.mirror_names().iter().filter(|name| name.starts_with("full")).count() == 1
    })
    .await;
    let mirror = fetcher.mirror_paths().into_iter().find(|path| kind(path) == "full").unwrap();
    assert!(packs(&mirror) <= 8, "{} packs", packs(&mirror));
    assert_eq!(refs(&mirror), 20);
    is_whole(&mirror);
    assert_eq!(output(git(&mirror).args(["rev-list", "--count", "v19"])).trim(), "20");
    drop((server, proxy));
    assert_eq!(files(&fetcher, &url, &all[4]).await, count(4));
}

#[tokio::test]
async fn packing_stops_when_it_is_told_and_leaves_nothing() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commits = commits(&repository, 0..12);
    let fetcher = Fetcher::new();
    for commit in &commits {
        fetcher.fetch(&repository.url, commit).await.unwrap();
    }
    let sources = fetcher.sources.clone();
    let asked = tokio::task::spawn_blocking(move || {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) > 3;
        let kept = sources.kept().unwrap();
        assert_eq!(sources.pack(&kept[0], &stop).unwrap(), 0);
        asked.into_inner()
    });
    assert!(asked.await.unwrap() > 3);
    assert_eq!(fetcher.mirror_names(), ["shallow-0"]);
    assert_eq!(pack(&fetcher).await, 1, "another time it is done");
    assert_eq!(fetcher.fetch(&repository.url, &commits[0]).await.unwrap().subject, "Change 0");
}

#[tokio::test]
async fn a_fetch_while_mirrors_are_packed_is_not_lost() {
    let server = git_server().await;
    let repository = server.empty("x");
    let commits = commits(&repository, 0..16);
    let fetcher = Fetcher::new();
    for commit in &commits[..12] {
        fetcher.fetch(&repository.url, commit).await.unwrap();
    }
    // In the middle of packing, another fetch comes and ends.
    let (sources, runtime) = (fetcher.sources.clone(), tokio::runtime::Handle::current());
    let fetcher = std::sync::Arc::new(fetcher);
    let (during, url) = (fetcher.clone(), repository.url.clone());
    let next = commits[12].clone();
    let packed = tokio::task::spawn_blocking(move || {
        let fetched = AtomicUsize::new(0);
        let stop = || {
            if fetched.fetch_add(1, Ordering::Relaxed) == 0 {
                runtime.block_on(during.fetch(&url, &next)).unwrap();
            }
            false
        };
        let kept = sources.kept().unwrap();
        sources.pack(&kept[0], &stop).unwrap()
    });
    packed.await.unwrap();
    until("one mirror is left", || fetcher.mirror_names().len() == 1).await;
    is_whole(&fetcher.mirror_paths()[0]);
    let said = fetcher.lines.lock().unwrap().len();
    assert_eq!(files(&fetcher, &repository.url, &commits[12]).await, count(12));
    until("it is said to be here", || fetcher.lines.lock().unwrap().len() > said).await;
    assert!(fetcher.lines.lock().unwrap()[said].contains("already here"));
    assert_eq!(files(&fetcher, &repository.url, &commits[15]).await, count(15));
}
