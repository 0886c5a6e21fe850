//! Rounds over a database of builds and deploys of many ages.

use std::collections::BTreeMap;

use super::*;
use crate::event::deploy::DeployEvent;
use crate::event::result::State;
use crate::store::StoreConfig;
use crate::store::digest::Digest;
use crate::timeline::protocol::{AttemptId, AttemptState, Claim, DeployReport, LogSum, StateReport};
use crate::web::claims;
use crate::web::db::deploys;
use crate::web::db::logs::LogId;
use crate::web::log::batch::{Batch, Encoding};
use crate::web::policy::PolicyConfig;
use crate::web::refusal::Refusal;

const LIMITS: HistoryConfig =
    HistoryConfig { keep_logs: Duration::from_secs(10 * 24 * 3600), keep_last: 2, keep_with_images: true };

struct World {
    database: Database,
    store: Store,
    now: OffsetDateTime,
    /// What each build has in its log.
    text: String,
    _folder: tempfile::TempDir,
}

/// How a build ends.
enum End {
    Failed,
    Published {
        digest: Digest,
        reused: bool,
    },
    /// It runs on.
    None,
}

fn line(text: &str, at: OffsetDateTime) -> Vec<u8> {
    let at = crate::timeline::entry::timestamp::to_string(at);
    let entry = serde_json::json!({
        "seq": 0, "at": at, "stream": "stdout", "step": null, "server": "w", "service": null, "pod": null, "text": text,
    });
    format!("{entry}\n").into_bytes()
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            database: Database::open(&folder.path().join("timeline")).await.unwrap(),
            store: Store::open(&StoreConfig::at(folder.path().join("store"))).unwrap(),
            now: OffsetDateTime::now_utc(),
            text: "one line".to_owned(),
            _folder: folder,
        }
    }

    /// A build of `acme/<app>`, so many days ago.
    async fn build(&self, app: &str, id: &str, days: i64, end: End) -> LogId {
        let at = self.now - time::Duration::days(days);
        let body = serde_json::json!({
            "version": 1, "id": id, "namespace": "acme", "app": app, "commit": "1".repeat(40),
            "repository": {"url": "https://git.example.com/acme/storefront.git"},
        });
        let body = body.to_string();
        let (event, _) = DeployEvent::parse(body.as_bytes()).unwrap();
        let attempt = AttemptId::generate();
        let claim = Claim {
            event: body,
            worker: "w".to_owned(),
            attempt,
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        let lines = line(&self.text, at);
        let batch = Batch::read(&lines, Encoding::Identity).unwrap();
        let state = match end {
            End::Failed => Some((State::Failed, AttemptState::Failed)),
            End::Published { .. } => Some((State::Published, AttemptState::Published)),
            End::None => None,
        };
        let report = state.map(|(state, attempt)| {
            let mut result = crate::event::result::ResultEvent::of(&event, 1, state, "w");
            if let End::Published { digest, reused } = end {
                result.image = Some(event.image().url("registry.example.com"));
                (result.digest, result.reused) = (Some(digest), reused);
            }
            let log = Some(LogSum { count: 1, checksum: Digest::of(&lines) });
            StateReport { state: attempt, at, commit: None, result: Some(Box::new(result)), log }
        });
        let job: Job<(), Refusal> = Box::new(move |connection| {
            Box::pin(async move {
                let policy = PolicyConfig::default();
                claims::claim(connection, &event, &claim, &policy, at).await?;
                claims::append(connection, &event.id, attempt, batch, at).await?;
                if let Some(report) = report {
                    claims::report(connection, &event.id, attempt, &report, report.log, &policy, at).await?;
                }
                Ok(())
            })
        });
        self.database.write(job).await.unwrap();
        LogId::of_attempt(attempt)
    }

    async fn round(&self, limits: HistoryConfig, dry_run: bool) -> BTreeMap<String, (u64, u64)> {
        let store = Some(&self.store);
        let round = Round { database: &self.database, store, limits, now: self.now, dry_run };
        let apps = round.prune().await.unwrap();
        apps.into_iter().map(|app| (app.app.to_string(), (app.logs, app.with_images))).collect()
    }

    async fn is_kept(&self, log: &LogId) -> bool {
        let state = self.database.log_state(log).await.unwrap();
        assert_eq!(state.next_seq, 1, "how many there were is kept");
        let has_lines = !self.database.log_heads(log, 0, 1).await.unwrap().is_empty();
        assert_eq!(state.removed_at.is_none(), has_lines);
        has_lines
    }
}

#[tokio::test]
async fn what_is_old_and_not_among_the_last_goes() {
    let world = World::new().await;
    let old = world.build("shop", "old", 30, End::Failed).await;
    let young = world.build("shop", "young", 9, End::Failed).await;
    world.build("shop", "last-1", 2, End::Failed).await;
    world.build("shop", "last-2", 1, End::Failed).await;
    // Another app has its own last ones.
    let other = world.build("mail", "other", 300, End::Failed).await;

    assert_eq!(world.round(LIMITS, true).await, [("shop".to_owned(), (1, 0))].into());
    assert!(world.is_kept(&old).await, "a dry run removes nothing");
    assert_eq!(world.round(LIMITS, false).await, [("shop".to_owned(), (1, 0))].into());
    assert!(!world.is_kept(&old).await && world.is_kept(&young).await && world.is_kept(&other).await);
    assert_eq!(world.round(LIMITS, false).await, BTreeMap::new(), "once");
    let of_none = HistoryConfig { keep_last: 0, ..LIMITS };
    assert_eq!(world.round(of_none, false).await, [("mail".to_owned(), (1, 0))].into());
}

#[tokio::test]
async fn the_log_of_an_image_stays_as_long_as_the_image() {
    let world = World::new().await;
    let limits = HistoryConfig { keep_last: 0, ..LIMITS };
    let repository = "acme/shop.storefront".parse().unwrap();
    let digest = world.store.put_manifest(&repository, b"{}".to_vec()).await.unwrap();
    let gone = Digest::of(b"gone");
    let kept = world.build("shop", "kept", 30, End::Published { digest, reused: false }).await;
    let again = world.build("shop", "again", 30, End::Published { digest, reused: true }).await;
    let without = world.build("shop", "without", 30, End::Published { digest: gone, reused: false }).await;
    assert_eq!(world.round(limits, false).await, [("shop".to_owned(), (2, 1))].into());
    assert!(world.is_kept(&kept).await && !world.is_kept(&again).await && !world.is_kept(&without).await);

    // Where the store cannot be read, it counts as there; and it need not be asked.
    let blind = Round { database: &world.database, store: None, limits, now: world.now, dry_run: false };
    assert_eq!(blind.prune().await.unwrap()[0].with_images, 1);
    let regardless = HistoryConfig { keep_with_images: false, ..limits };
    assert_eq!(world.round(regardless, false).await, [("shop".to_owned(), (1, 0))].into());
    assert!(!world.is_kept(&kept).await);
}

#[tokio::test]
async fn of_what_nobody_has_heard_of_for_long_the_log_goes_too() {
    let mut world = World::new().await;
    let limits = HistoryConfig { keep_last: 0, ..LIMITS };
    let silent = world.build("shop", "silent", 30, End::None).await;
    let runs = world.build("mail", "runs", 0, End::None).await;
    assert_eq!(world.round(limits, false).await, [("shop".to_owned(), (1, 0))].into());
    assert!(!world.is_kept(&silent).await && world.is_kept(&runs).await);
    world.now += time::Duration::days(11);
    assert_eq!(world.round(limits, false).await, [("mail".to_owned(), (1, 0))].into());
}

#[tokio::test]
async fn deploys_have_ages_and_last_ones_of_their_own() {
    let world = World::new().await;
    let mut logs = Vec::new();
    // Of one that is under way the log stays, and of one that has just said something.
    for (id, state, days, said) in [
        ("d-0", "running", 50, 50),
        ("d-00", "done", 45, 1),
        ("d-1", "done", 40, 40),
        ("d-2", "failed", 30, 30),
        ("d-3", "done", 20, 20),
    ] {
        let report: DeployReport = serde_json::from_value(serde_json::json!({
            "namespace": "acme", "app": "shop", "state": state, "services": ["web"],
        }))
        .unwrap();
        let at = world.now - time::Duration::days(days);
        let batch =
            Batch::read(&line(id, world.now - time::Duration::days(said)), Encoding::Identity).unwrap();
        let log = LogId::of_deploy("acme", id);
        logs.push(log.clone());
        let job: Job<(), WriteError> = Box::new(move |connection| {
            Box::pin(async move {
                deploys::put(connection, id, &report, at).await?;
                crate::web::db::logs::append(connection, &log, batch).await.map(drop)
            })
        });
        world.database.write(job).await.unwrap();
    }
    assert_eq!(world.round(LIMITS, false).await, [("shop".to_owned(), (1, 0))].into());
    let mut kept = Vec::new();
    for log in &logs {
        kept.push(world.is_kept(log).await);
    }
    assert_eq!(kept, [true, true, false, true, true]);
}

#[tokio::test]
async fn what_they_took_is_given_back_to_the_disk() {
    use rand::RngExt as _;
    let mut world = World::new().await;
    world.text = rand::rng().sample_iter(rand::distr::Alphanumeric).take(60_000).map(char::from).collect();
    for number in 0..20 {
        world.build("shop", &format!("b-{number}"), 30, End::Failed).await;
    }
    let pages = async || {
        let pages = sqlx::query_scalar::<_, i64>("PRAGMA page_count").fetch_one(&world.database.readers);
        pages.await.unwrap()
    };
    let before = pages().await;
    let pruned = world.round(LIMITS, false).await;
    assert_eq!(pruned, [("shop".to_owned(), (18, 0))].into());
    let after = pages().await;
    assert!(after < before / 3, "{before} pages before, {after} after");
}
