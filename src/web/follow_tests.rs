//! Streams that are read by hand, one event at a time.

use std::pin::pin;

use futures::StreamExt;
use http::StatusCode;
use sqlx::SqliteConnection;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::event::deploy::DeployEvent;
use crate::event::result::{ResultEvent, State};
use crate::queue::QueueConfig;
use crate::store::digest::Digest;
use crate::timeline::TimelineConfig;
use crate::timeline::protocol::{AttemptState, Claim, ClaimAnswer, LogSum, StateReport};
use crate::web::claims;
use crate::web::db::{Database, Job};
use crate::web::log::batch::{Batch, Encoding};
use crate::web::policy::PolicyConfig;
use crate::web::queue::Enqueuer;

const EVENT: &str = r#"{"version":1,"id":"b-1","namespace":"acme","app":"web","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{}}"#;

/// A service with the build `b-1`, which an attempt has.
struct World {
    timeline: Arc<Timeline>,
    id: BuildId,
    attempt: AttemptId,
    log: String,
    _folder: TempDir,
}

impl World {
    async fn new(config: TimelineConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let queue = Enqueuer::on_demand(QueueConfig::default());
        let config = Config { timeline: config, ..Config::default() };
        let timeline = Timeline::new(&config, database, queue, None, CancellationToken::new());
        let timeline = timeline.await.unwrap();
        let (event, _) = DeployEvent::parse(EVENT.as_bytes()).unwrap();
        let (id, attempt) = (event.id.clone(), AttemptId::generate());
        let claim = Claim {
            event: EVENT.to_owned(),
            worker: "w".to_owned(),
            attempt,
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        let world = Self { timeline: Arc::new(timeline), id, attempt, log: String::new(), _folder: folder };
        let claimed = world.write(Box::new(move |connection: &mut SqliteConnection| {
            Box::pin(async move {
                let now = OffsetDateTime::now_utc();
                claims::claim(connection, &event, &claim, &PolicyConfig::default(), now).await
            })
        }));
        assert_eq!(claimed.await.answer, ClaimAnswer::Go { next_seq: 0 });
        world
    }

    async fn write<T: Send + 'static>(&self, job: Job<T, Refusal>) -> T {
        let written = self.timeline.database.write(job).await.unwrap();
        self.timeline.live.changed(self.id.as_str());
        written
    }

    async fn says(&mut self, text: &str) {
        let seq = self.log.lines().count();
        let line = format!(
            r#"{{"seq":{seq},"at":"2026-11-23T10:15:02.123Z","stream":"stdout","step":null,"server":"w","service":null,"pod":null,"text":"{text}"}}"#
        ) + "\n";
        self.log += &line;
        let batch = Batch::read(line.as_bytes(), Encoding::Identity).unwrap();
        let (id, attempt, now) = (self.id.clone(), self.attempt, OffsetDateTime::now_utc());
        self.write(Box::new(move |connection: &mut SqliteConnection| {
            Box::pin(async move { claims::append(connection, &id, attempt, batch, now).await })
        }))
        .await;
    }

    async fn ends(&self) {
        let (event, _) = DeployEvent::parse(EVENT.as_bytes()).unwrap();
        let result = ResultEvent::of(&event, 1, State::Published, "w");
        let count = self.log.lines().count() as u64;
        let sum = Some(LogSum { count, checksum: Digest::of(self.log.as_bytes()) });
        let now = OffsetDateTime::now_utc();
        let state = AttemptState::Published;
        let report = StateReport { state, at: now, commit: None, result: Some(Box::new(result)), log: sum };
        let (id, attempt) = (self.id.clone(), self.attempt);
        self.write(Box::new(move |connection: &mut SqliteConnection| {
            Box::pin(async move {
                claims::report(connection, &id, attempt, &report, sum, &PolicyConfig::default(), now).await
            })
        }))
        .await;
    }
}

/// The name of the next event.
async fn next(stream: &mut (impl Stream<Item = Piece> + Unpin)) -> String {
    let piece = stream.next().await.unwrap().unwrap();
    let text = String::from_utf8(piece.to_vec()).unwrap();
    text.strip_prefix("event: ").unwrap().split('\n').next().unwrap().to_owned()
}

#[tokio::test]
async fn one_who_is_slow_to_read_sees_the_last_lines_of_an_attempt_before_its_end() {
    let mut world = World::new(TimelineConfig::default()).await;
    world.says("first").await;
    for only in [Some(world.attempt), None] {
        let cursor = Cursor { attempt: only, next: 0 };
        let everything = Told::Entries(Arc::new(Matcher::everything()));
        let stream = build(world.timeline.clone(), world.id.clone(), only, cursor, everything);
        let mut stream = pin!(stream);
        assert_eq!(next(&mut stream).await, "state");
        assert_eq!(next(&mut stream).await, "entry");
        // While what was read is on its way to the reader.
        if only.is_some() {
            world.says("last").await;
            world.ends().await;
            let mut before_the_end = [next(&mut stream).await, next(&mut stream).await];
            before_the_end.sort();
            assert_eq!(before_the_end, ["entry", "state"]);
        }
        assert_eq!(next(&mut stream).await, "end");
        assert!(stream.next().await.is_none());
    }
}

#[tokio::test]
async fn those_who_follow_leave_connections_to_others() {
    let world = World::new(TimelineConfig { max_connections: 3, ..TimelineConfig::default() }).await;
    let follow = || {
        let followed = Followed::Build { id: world.id.clone(), only: None };
        let cursor = Cursor { attempt: None, next: 0 };
        events(world.timeline.clone(), followed, cursor, Told::Entries(Arc::new(Matcher::everything())))
    };
    let (one, two) = (follow(), follow());
    assert_eq!((one.status(), two.status()), (StatusCode::OK, StatusCode::OK));
    let refused = follow();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::CONNECTION], "close");
    // A place is free again when the connection is gone, whether anything was read or not.
    drop(one);
    let mut two = two.into_body().into_data_stream();
    two.next().await.unwrap().unwrap();
    let three = follow();
    assert_eq!(three.status(), StatusCode::OK);
    assert_eq!(follow().status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(two);
    assert_eq!(follow().status(), StatusCode::OK);
}

#[test]
fn an_entry_says_where_to_go_on() {
    let attempt = AttemptId::generate();
    let line = b"{\"seq\":17,\"at\":\"x\"}\n";
    let sent = entries(line, Some(attempt));
    assert_eq!(sent, format!("event: entry\nid: {attempt}:17\ndata: {{\"seq\":17,\"at\":\"x\"}}\n\n"));
    let mut headers = HeaderMap::new();
    assert_eq!(Cursor::last_event(&headers).unwrap(), None);
    headers.insert("last-event-id", format!("{attempt}:17").parse().unwrap());
    let cursor = Cursor::last_event(&headers).unwrap();
    assert_eq!(cursor, Some(Cursor { attempt: Some(attempt), next: 18 }));
    headers.insert("last-event-id", "3".parse().unwrap());
    assert_eq!(Cursor::last_event(&headers).unwrap(), Some(Cursor { attempt: None, next: 4 }));
    for bad in ["", "x", ":1", "x:1", "1:2", &format!("{attempt}:"), "18446744073709551615"] {
        headers.insert("last-event-id", bad.parse().unwrap());
        assert!(Cursor::last_event(&headers).is_err(), "{bad}");
    }
}
