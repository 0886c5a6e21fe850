//! Tests of what the timeline service is told, against one that keeps it by the contract.

use std::path::PathBuf;
use std::time::Instant;

use axum::http::StatusCode;

use super::*;
use crate::event::deploy::DeployEvent;
use crate::event::result::{ResultEvent, State};
use crate::pipeline::Stage;
use crate::timeline::mask::Mask;
use crate::timeline::protocol::{AttemptId, AttemptState, ClaimAnswer, LogSum};
use crate::timeline::sink::LogSink;
use crate::worker::build_log::BuildLog;
use crate::worker::log_writer::LogLimits;
use crate::worker::reporting::claim::{Permission, Wish};
use crate::worker::reporting::interrupt::Cause;
use crate::worker::reporting::record::{Closed, is_unconfirmed};
use crate::worker::reporting::stand_in::StandIn;

const EVENT: &[u8] = br#"{"version":1,"id":"b-1","namespace":"smoke","app":"web",
    "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{}}"#;

struct Fixture {
    service: StandIn,
    config: TimelineConfig,
    reporting: Arc<Reporting>,
    data: Arc<DataDirectory>,
    event: DeployEvent,
    _folder: tempfile::TempDir,
}

/// An attempt that runs.
struct Attempt {
    telling: Telling,
    log: BuildLog,
    sink: LogSink,
    token: CancellationToken,
}

impl Fixture {
    async fn start() -> Self {
        let (service, config) = StandIn::start().await;
        let folder = tempfile::tempdir().unwrap();
        Self {
            service,
            reporting: Reporting::new(&config, u64::MAX).unwrap().unwrap(),
            config,
            data: Arc::new(DataDirectory::open(folder.path()).unwrap()),
            event: DeployEvent::parse(EVENT).unwrap().0,
            _folder: folder,
        }
    }

    /// As another process would go on.
    fn restart(&mut self) {
        self.reporting.stop.cancel();
        self.reporting = Reporting::new(&self.config, u64::MAX).unwrap().unwrap();
    }

    fn directory(&self) -> BuildDirectory {
        self.data.build(&self.event.id)
    }

    async fn claim(&self, number: u32) -> Permission {
        let directory = self.directory();
        let wish = Wish {
            event: &self.event,
            body: EVENT,
            worker: "worker-1",
            number,
            requeue: None,
            directory: &directory,
        };
        self.reporting.claim(&wish).await
    }

    /// Begins an attempt, as the worker does.
    async fn attempt(&self, number: u32) -> Attempt {
        let Permission::Go(record) = self.claim(number).await else { panic!("the claim is granted") };
        let token = CancellationToken::new();
        let telling = self.reporting.tell(&self.event.id, self.directory(), *record, token.clone());
        telling.make_room().await;
        self.directory().begin(EVENT, number).unwrap();
        let path = self.directory().log_path();
        let (log, sink) = BuildLog::start(
            &path,
            "worker-1",
            Arc::new(|_| ()),
            Mask::none(),
            LogLimits { max_log: u64::MAX, spool: None },
        )
        .unwrap();
        telling.begin(log.length()).await;
        Attempt { telling, log, sink, token }
    }

    fn result(&self, state: State, attempt: u32) -> ResultEvent {
        ResultEvent::of(&self.event, attempt, state, "worker-1")
    }

    async fn until(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        for _ in 0..1000 {
            if is(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what}: not within 10 s");
    }

    /// Waits until the service has `count` entries of an attempt.
    async fn sent(&self, count: usize) {
        self.until("the log is sent", |this| {
            this.service.lock().attempts.values().any(|told| told.log.len() == count)
        })
        .await;
    }

    fn record(&self, name: &str) -> Record {
        serde_json::from_slice(&std::fs::read(self.directory().path().join(name)).unwrap()).unwrap()
    }

    /// Waits until nothing more is told of the attempt of `name`, and says why.
    async fn closed(&self, name: &str) -> (AttemptId, Closed) {
        self.until("the report is closed", |this| this.record(name).closed.is_some()).await;
        let record = self.record(name);
        (record.attempt, record.closed.unwrap())
    }

    fn log_file(&self) -> PathBuf {
        self.directory().log_path()
    }

    /// That the service has an attempt's log byte for byte.
    fn assert_equal(&self, attempt: AttemptId, log: &str) {
        let stored = self.service.lock().attempts[&attempt].text();
        let kept = std::fs::read_to_string(self.directory().path().join(log)).unwrap();
        assert!(stored == kept, "{} bytes are stored, {} kept", stored.len(), kept.len());
    }

    fn states(&self, attempt: AttemptId) -> Vec<AttemptState> {
        self.service.lock().attempts[&attempt].reports.iter().map(|report| report.state).collect()
    }
}

impl Attempt {
    async fn write(&self, lines: std::ops::Range<u32>) {
        for n in lines {
            self.sink.status(format!("line {n} \u{1f980}")).await;
        }
    }

    async fn end(self, result: Option<&ResultEvent>) {
        drop(self.sink);
        self.log.finish().await.unwrap();
        match result {
            Some(result) => self.telling.ended(result).await,
            None => self.telling.released().await,
        }
    }
}

#[tokio::test]
async fn a_log_arrives_whole_although_answers_are_lost() {
    let fixture = Fixture::start().await;
    fixture.service.lock().lose_every = Some(3);
    let attempt = fixture.attempt(1).await;
    attempt.telling.entered(Stage::Building).await;
    // More than one batch, and lines that trickle.
    attempt.write(0..20_000).await;
    fixture
        .until("the log is sent as it grows", |this| {
            this.service.lock().attempts.values().any(|told| told.log.len() > 10_000)
        })
        .await;
    attempt.telling.entered(Stage::Publishing).await;
    attempt.write(20_000..20_010).await;
    let published = fixture.result(State::Published, 1);
    attempt.end(Some(&published)).await;
    let (id, closed) = fixture.closed("report.json").await;
    fixture.assert_equal(id, "log.ndjson");
    let bytes = std::fs::read(fixture.log_file()).unwrap();
    let log = LogSum { count: 20_010, checksum: crate::store::digest::Digest::of(&bytes) };
    assert_eq!(closed, Closed::Confirmed { log });
    let states = [AttemptState::Building, AttemptState::Publishing, AttemptState::Published];
    assert_eq!(fixture.states(id), states);
    let service = fixture.service.lock();
    let end = service.attempts[&id].reports.last().unwrap();
    assert_eq!((end.log, end.result.as_deref()), (Some(log), Some(&published)));
    drop(service);
    assert!(!is_unconfirmed(&fixture.directory()));
}

#[tokio::test]
async fn what_the_service_has_lost_is_sent_again() {
    let fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    attempt.telling.entered(Stage::Fetching).await;
    attempt.write(0..100).await;
    fixture.sent(100).await;
    // The last entries: a gap.
    fixture.service.lock().attempts.values_mut().for_each(|told| drop(told.log.split_off(&40)));
    attempt.write(100..200).await;
    fixture
        .until("the gap is filled", |this| {
            this.service.lock().attempts.values().any(|told| told.log.len() == 200)
        })
        .await;
    // Everything: the attempt is claimed again, late, and told from its beginning.
    fixture.service.lock().attempts.clear();
    attempt.telling.entered(Stage::Building).await;
    fixture
        .until("it is told again", |this| {
            this.service.lock().attempts.values().any(|told| told.log.len() == 200)
        })
        .await;
    attempt.write(200..300).await;
    let result = fixture.result(State::Failed, 1);
    attempt.end(Some(&result)).await;
    let (id, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    fixture.assert_equal(id, "log.ndjson");
    assert_eq!(fixture.states(id), [AttemptState::Fetching, AttemptState::Building, AttemptState::Failed]);
    let late: Vec<_> = fixture.service.lock().claims.iter().map(|claim| claim.late).collect();
    assert_eq!(late, [false, true]);
}

#[tokio::test]
async fn a_service_that_is_away_delays_nothing() {
    let fixture = Fixture::start().await;
    fixture.service.lock().hang = true;
    let started = Instant::now();
    let attempt = fixture.attempt(1).await;
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(3), "{waited:?}");
    // Known to be away: not even asked.
    let started = Instant::now();
    assert!(matches!(fixture.claim(1).await, Permission::Go(record) if !record.claimed));
    assert!(started.elapsed() < Duration::from_millis(500), "{:?}", started.elapsed());
    attempt.write(0..10).await;
    let result = fixture.result(State::Published, 1);
    attempt.end(Some(&result)).await;
    assert!(is_unconfirmed(&fixture.directory()));
    let mut fixture = fixture;
    fixture.service.lock().hang = false;
    fixture.restart();
    fixture.reporting.resume_all(&fixture.data).await.unwrap();
    let (id, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    fixture.assert_equal(id, "log.ndjson");
    let service = fixture.service.lock();
    let claim = service.claims.last().unwrap();
    assert!(claim.late && claim.event.as_bytes() == EVENT);
}

#[tokio::test]
async fn a_cancel_and_a_fence_end_the_attempt() {
    let fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    fixture.service.lock().cancel = true;
    attempt.write(0..1).await;
    attempt.token.cancelled().await;
    assert_eq!(attempt.telling.cause(), Some(Cause::Cancelled));
    let result = fixture.result(State::Cancelled, 1);
    attempt.end(Some(&result)).await;
    let (id, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    assert_eq!(fixture.states(id), [AttemptState::Cancelled]);

    fixture.service.lock().cancel = false;
    let attempt = fixture.attempt(1).await;
    fixture.service.lock().attempts.values_mut().for_each(|told| told.fenced = true);
    attempt.write(0..1).await;
    attempt.token.cancelled().await;
    assert_eq!(attempt.telling.cause(), Some(Cause::Fenced));
    attempt.end(None).await;
    assert_eq!(fixture.closed("report.json").await.1, Closed::Fenced);
}

#[tokio::test]
async fn what_a_crash_has_left_is_sent_without_an_end() {
    let mut fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    attempt.write(0..3).await;
    fixture.sent(3).await;
    fixture.restart();
    attempt.write(3..5).await;
    let Attempt { log, sink, telling, .. } = attempt;
    drop(sink);
    log.finish().await.unwrap();
    drop(telling);
    let whole = std::fs::read_to_string(fixture.log_file()).unwrap();
    std::fs::write(fixture.log_file(), format!("{whole}{{\"seq\":5,\"at\":\"20")).unwrap();

    fixture.reporting.resume_all(&fixture.data).await.unwrap();
    let (id, closed) = fixture.closed("report.json").await;
    assert_eq!(closed, Closed::Sent);
    assert_eq!(fixture.service.lock().attempts[&id].text(), whole);
    assert!(fixture.states(id).is_empty(), "its end is not known");

    // The next attempt says whose place it takes.
    let attempt = fixture.attempt(1).await;
    assert_eq!(fixture.service.lock().claims.last().unwrap().replaces, Some(id));
    attempt.end(None).await;
    let (second, _) = fixture.closed("report.json").await;
    assert_eq!(fixture.states(second), [AttemptState::Released]);
    assert_eq!(fixture.closed("report.1.json").await.0, id, "log and report were set aside together");
}

#[tokio::test]
async fn an_outcome_that_was_kept_is_the_end_of_a_killed_attempt() {
    let mut fixture = Fixture::start().await;
    let attempt = fixture.attempt(2).await;
    attempt.write(0..3).await;
    let Attempt { log, sink, telling, .. } = attempt;
    drop(sink);
    log.finish().await.unwrap();
    fixture.restart();
    drop(telling);
    fixture.directory().end(EVENT, &fixture.result(State::Published, 2)).unwrap();
    fixture.reporting.resume_all(&fixture.data).await.unwrap();
    let (id, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    assert_eq!(fixture.states(id), [AttemptState::Published]);
}

#[tokio::test]
async fn an_earlier_attempt_is_told_beside_the_next() {
    let fixture = Fixture::start().await;
    let first = fixture.attempt(1).await;
    fixture.service.lock().fault = Some(StatusCode::INTERNAL_SERVER_ERROR);
    first.write(0..1000).await;
    let retrying = fixture.result(State::Retrying, 1);
    first.end(Some(&retrying)).await;
    fixture.until("it was tried", |this| this.reporting.presence.is_away()).await;
    let second = fixture.attempt(2).await;
    assert!(fixture.directory().path().join("report.1.json").exists());
    second.write(0..10).await;
    fixture.service.lock().fault = None;
    let (id, closed) = fixture.closed("report.1.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    fixture.assert_equal(id, "log.1.ndjson");
    assert_eq!(fixture.states(id), [AttemptState::Retrying]);
    let published = fixture.result(State::Published, 2);
    second.end(Some(&published)).await;
    let (id, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Confirmed { .. }), "{closed:?}");
    fixture.assert_equal(id, "log.ndjson");
}

#[tokio::test]
async fn a_refusal_is_set_aside_and_not_repeated() {
    let fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    attempt.write(0..3).await;
    fixture.sent(3).await;
    // The service has another log.
    fixture.service.lock().attempts.values_mut().for_each(|told| drop(told.log.insert(1, "{}".to_owned())));
    let result = fixture.result(State::Published, 1);
    attempt.end(Some(&result)).await;
    let (_, closed) = fixture.closed("report.json").await;
    assert!(matches!(closed, Closed::Refused { .. }), "{closed:?}");

    let attempt = fixture.attempt(1).await;
    fixture.service.lock().fault = Some(StatusCode::FORBIDDEN);
    attempt.write(0..1).await;
    let (_, closed) = fixture.closed("report.json").await;
    let Closed::Refused { reason } = closed else { panic!("{closed:?}") };
    assert!(reason.contains("on request") && reason.contains("403"), "{reason}");
    assert!(!attempt.token.is_cancelled(), "the build goes on");
    let calls = fixture.service.lock().calls;
    attempt.end(None).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.service.lock().calls, calls);
    // Nor is a refused claim a reason not to build.
    assert!(matches!(fixture.claim(1).await, Permission::Go(record) if !record.claimed));
}

#[tokio::test]
async fn answers_to_a_claim_are_obeyed() {
    let fixture = Fixture::start().await;
    let answer = |answer: ClaimAnswer| fixture.service.lock().answer = Some(answer);
    answer(ClaimAnswer::Wait { reason: "another worker".to_owned() });
    assert!(matches!(fixture.claim(1).await, Permission::Wait(reason) if reason == "another worker"));
    answer(ClaimAnswer::Done { result: Box::new(fixture.result(State::Published, 1)) });
    assert!(matches!(fixture.claim(1).await, Permission::Done(result) if result.state == State::Published));
    answer(ClaimAnswer::Cancelled { reason: Some("replaced".to_owned()) });
    assert!(matches!(fixture.claim(1).await, Permission::Cancelled(Some(reason)) if reason == "replaced"));
    answer(ClaimAnswer::Conflict);
    assert!(matches!(fixture.claim(1).await, Permission::Conflict));
}

#[tokio::test]
async fn the_end_of_the_process_tells_what_it_can() {
    let fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    attempt.write(0..10).await;
    attempt.end(None).await;
    fixture.reporting.close().await;
    let record = fixture.record("report.json");
    assert!(matches!(record.closed, Some(Closed::Confirmed { .. })), "{record:?}");

    let fixture = Fixture::start().await;
    let attempt = fixture.attempt(1).await;
    fixture.service.lock().fault = Some(StatusCode::INTERNAL_SERVER_ERROR);
    attempt.write(0..10).await;
    attempt.end(None).await;
    let started = Instant::now();
    fixture.reporting.close().await;
    assert!(started.elapsed() < CLOSE, "a service that is away is not waited for");
    assert_eq!(fixture.record("report.json").closed, None);
}
