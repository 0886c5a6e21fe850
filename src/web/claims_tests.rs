//! Two workers, one event, and a clock that the test moves.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::event::result::{ResultEvent, State};
use crate::store::digest::Digest;
use crate::timeline::protocol::Build;
use crate::web::db::Database;
use crate::web::db::selection::Selection;
use crate::web::log::batch::Encoding;

const EVENT: &str = r#"{"version":1,"id":"b-1","namespace":"acme","app":"web","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{}}"#;

struct World {
    database: Database,
    now: OffsetDateTime,
    _folder: TempDir,
}

fn event() -> DeployEvent {
    DeployEvent::parse(EVENT.as_bytes()).unwrap().0
}

/// A claim of a new attempt.
fn by(worker: &str) -> Claim {
    Claim {
        event: EVENT.to_owned(),
        worker: worker.to_owned(),
        attempt: AttemptId::generate(),
        number: 1,
        requeue: None,
        replaces: None,
        late: false,
    }
}

fn result(state: State, kind: Option<Kind>) -> Box<ResultEvent> {
    Box::new(ResultEvent { kind, ..ResultEvent::of(&event(), 1, state, "w") })
}

/// The sum of a log without entries.
fn nothing() -> Option<LogSum> {
    Some(LogSum { count: 0, checksum: Digest::of(b"") })
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        Self { database, now: OffsetDateTime::now_utc(), _folder: folder }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    async fn claim(&self, claim: &Claim) -> Result<ClaimAnswer, Refusal> {
        let (claim, now) = (claim.clone(), self.now);
        let (event, _) = DeployEvent::parse(claim.event.as_bytes()).unwrap();
        let job: crate::web::db::Job<Claimed, Refusal> = Box::new(move |connection| {
            Box::pin(
                async move { super::claim(connection, &event, &claim, &PolicyConfig::default(), now).await },
            )
        });
        self.database.write(job).await.map(|claimed| claimed.answer)
    }

    async fn goes(&self, claim: &Claim) {
        assert_eq!(self.claim(claim).await, Ok(ClaimAnswer::Go { next_seq: 0 }));
    }

    async fn waits(&self, claim: &Claim) {
        let answer = self.claim(claim).await;
        assert!(matches!(answer, Ok(ClaimAnswer::Wait { .. })), "{answer:?}");
    }

    async fn report(&self, attempt: AttemptId, state: AttemptState) -> Result<Progress, Refusal> {
        let (result, log) = match state {
            AttemptState::Published => (Some(result(State::Published, None)), nothing()),
            AttemptState::Cancelled => (Some(result(State::Cancelled, None)), nothing()),
            AttemptState::Failed => (Some(result(State::Failed, Some(Kind::Infrastructure))), nothing()),
            AttemptState::Retrying => (Some(result(State::Retrying, Some(Kind::Infrastructure))), nothing()),
            _ => (None, None),
        };
        let report = StateReport { state, at: self.now, commit: None, result, log };
        let now = self.now;
        let job: crate::web::db::Job<Progress, Refusal> = Box::new(move |connection| {
            let id = event().id;
            let policy = PolicyConfig::default();
            Box::pin(async move {
                super::report(connection, &id, attempt, &report, report.log, &policy, now).await
            })
        });
        self.database.write(job).await
    }

    async fn append(&self, attempt: AttemptId, lines: &str) -> Result<Progress, Refusal> {
        let batch = Batch::read(lines.as_bytes(), Encoding::Identity).unwrap();
        let now = self.now;
        let job: crate::web::db::Job<Progress, Refusal> = Box::new(move |connection| {
            let id = event().id;
            Box::pin(async move { super::append(connection, &id, attempt, batch, now).await })
        });
        self.database.write(job).await
    }

    async fn cancel(&self) -> Result<Cancel, Refusal> {
        let now = self.now;
        let job: crate::web::db::Job<Cancel, Refusal> = Box::new(move |connection| {
            Box::pin(async move { super::cancel(connection, &event().id, now).await })
        });
        self.database.write(job).await
    }

    async fn build(&self) -> Build {
        self.database.build(&event().id).await.unwrap().unwrap().shown("", self.now)
    }

    async fn state(&self) -> BuildState {
        self.build().await.state
    }
}

#[tokio::test]
async fn one_goes_and_the_other_waits_until_it_is_done() {
    let world = World::new().await;
    let (one, two) = (by("one"), by("two"));
    world.goes(&one).await;
    world.goes(&one).await;
    world.waits(&two).await;
    for state in [AttemptState::Fetching, AttemptState::Building, AttemptState::Building] {
        world.report(one.attempt, state).await.unwrap();
        assert_eq!(world.state().await.as_str(), state.as_str());
    }
    let back = world.report(one.attempt, AttemptState::Fetching).await;
    assert_eq!(back, Err(Refusal::Backwards { from: AttemptState::Building, to: AttemptState::Fetching }));
    assert_eq!(world.report(two.attempt, AttemptState::Building).await, Err(Refusal::UnknownAttempt));
    world.report(one.attempt, AttemptState::Published).await.unwrap();
    world.report(one.attempt, AttemptState::Published).await.unwrap();
    let other_end = world.report(one.attempt, AttemptState::Failed).await;
    assert!(matches!(other_end, Err(Refusal::Backwards { .. })), "{other_end:?}");
    let done = world.claim(&two).await.unwrap();
    assert_eq!(done, ClaimAnswer::Done { result: result(State::Published, None) });
    let other = Claim { event: EVENT.replace("web", "api"), ..by("two") };
    assert_eq!(world.claim(&other).await, Ok(ClaimAnswer::Conflict));
    assert_eq!(world.state().await, BuildState::Published);
}

#[tokio::test]
async fn a_silent_worker_is_fenced_and_its_build_is_never_running_for_ever() {
    let mut world = World::new().await;
    let (one, two) = (by("one"), by("two"));
    world.goes(&one).await;
    world.report(one.attempt, AttemptState::Building).await.unwrap();
    world.pass(20);
    world.append(one.attempt, "").await.unwrap();
    world.pass(20);
    assert_eq!(world.state().await, BuildState::Building, "the empty append has renewed the lease");
    world.pass(11);
    assert_eq!(world.state().await, BuildState::Interrupted);
    world.goes(&two).await;
    assert_eq!(world.append(one.attempt, "").await, Err(Refusal::Fenced));
    assert_eq!(world.report(one.attempt, AttemptState::Published).await, Err(Refusal::Fenced));
    assert_eq!(world.claim(&one).await, Err(Refusal::Fenced));
    let attempts = world.database.attempts(&event().id).await.unwrap();
    assert_eq!(attempts.iter().map(|attempt| attempt.fenced).collect::<Vec<_>>(), [true, false]);
    world.report(two.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.state().await, BuildState::Published);
}

#[tokio::test]
async fn a_silent_worker_that_nobody_has_replaced_may_go_on() {
    let mut world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    world.pass(100);
    assert_eq!(world.state().await, BuildState::Interrupted);
    world.append(one.attempt, "").await.unwrap();
    assert_eq!(world.state().await, BuildState::Claimed);
}

#[tokio::test]
async fn a_worker_that_was_restarted_does_not_wait_for_itself() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    world.waits(&Claim { replaces: Some(AttemptId::generate()), ..by("two") }).await;
    world.goes(&Claim { replaces: Some(one.attempt), ..by("one") }).await;
    assert_eq!(world.append(one.attempt, "").await, Err(Refusal::Fenced));
}

#[tokio::test]
async fn a_retry_is_another_attempt_and_a_released_build_is_queued_again() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    world.report(one.attempt, AttemptState::Retrying).await.unwrap();
    assert_eq!(world.state().await, BuildState::Retrying);
    let two = Claim { number: 2, ..by("two") };
    world.goes(&two).await;
    assert_eq!(world.build().await.number, Some(2));
    world.report(two.attempt, AttemptState::Released).await.unwrap();
    assert_eq!(world.state().await, BuildState::Queued);
    world.goes(&by("three")).await;
    let attempts = world.database.attempts(&event().id).await.unwrap();
    assert!(attempts.iter().all(|attempt| !attempt.fenced), "those that ended need no fence");
}

#[tokio::test]
async fn a_late_attempt_is_taken_down_beside_the_one_that_counts() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    let late = Claim { late: true, ..by("two") };
    world.goes(&late).await;
    world.goes(&late).await;
    world.report(late.attempt, AttemptState::Building).await.unwrap();
    assert_eq!(world.state().await, BuildState::Claimed, "that is where the first one is");
    world.report(one.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.build().await.worker.as_deref(), Some("one"));
    world.report(late.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.build().await.worker.as_deref(), Some("one"));

    // After the end, too, its log is taken.
    let later = Claim { late: true, ..by("three") };
    world.goes(&later).await;
    world.report(later.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.build().await.worker.as_deref(), Some("one"));
    assert_eq!(world.database.attempts(&event().id).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_late_attempt_takes_the_place_of_a_silent_one() {
    let mut world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    let late = Claim { late: true, ..by("two") };
    world.goes(&late).await;
    world.report(late.attempt, AttemptState::Building).await.unwrap();
    world.pass(31);
    assert_eq!(world.state().await, BuildState::Interrupted);
    world.append(late.attempt, "").await.unwrap();
    let build = world.build().await;
    assert_eq!((build.state, build.worker.as_deref()), (BuildState::Building, Some("two")));
    // The silent one may still be at it: its log is taken as well.
    world.append(one.attempt, "").await.unwrap();
    world.report(one.attempt, AttemptState::Building).await.unwrap();
    assert_eq!(world.build().await.worker.as_deref(), Some("two"));
    let later = Claim { late: true, ..by("three") };
    world.pass(31);
    world.goes(&later).await;
    assert_eq!(world.build().await.worker.as_deref(), Some("three"));
    world.append(late.attempt, "").await.unwrap();
}

#[tokio::test]
async fn the_end_of_a_late_attempt_is_the_end_of_the_build() {
    let world = World::new().await;
    // One that a crash has cut short, told late and never to end; and the one that followed it.
    let (crashed, second) = (Claim { late: true, ..by("one") }, Claim { late: true, ..by("one") });
    world.goes(&crashed).await;
    world.goes(&second).await;
    world.report(second.attempt, AttemptState::Retrying).await.unwrap();
    assert_eq!(world.state().await, BuildState::Claimed, "that is no end");
    let third = Claim { late: true, ..by("two") };
    world.goes(&third).await;
    world.report(third.attempt, AttemptState::Failed).await.unwrap();
    assert_eq!(world.state().await, BuildState::Failed);
    // Of two that ran at once, one has made the image.
    world.report(crashed.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.state().await, BuildState::Published);
    assert_eq!(world.build().await.attempt, Some(crashed.attempt));
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_with_its_next_answer() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    assert!(!world.append(one.attempt, "").await.unwrap().cancel);
    assert_eq!(world.cancel().await, Ok(Cancel::Asked));
    assert_eq!(world.state().await, BuildState::Claimed);
    assert!(world.append(one.attempt, "").await.unwrap().cancel);
    assert!(world.report(one.attempt, AttemptState::Building).await.unwrap().cancel);
    world.report(one.attempt, AttemptState::Cancelled).await.unwrap();
    assert_eq!(world.state().await, BuildState::Cancelled);
    assert_eq!(world.cancel().await, Ok(Cancel::Over));
    let done = world.claim(&by("two")).await.unwrap();
    assert_eq!(done, ClaimAnswer::Done { result: result(State::Cancelled, None) });
}

#[tokio::test]
async fn a_build_that_no_worker_has_is_cancelled_at_once() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    world.report(one.attempt, AttemptState::Retrying).await.unwrap();
    world.cancel().await.unwrap();
    assert_eq!(world.state().await, BuildState::Cancelled);
    assert_eq!(world.claim(&by("two")).await, Ok(ClaimAnswer::Cancelled { reason: None }));

    // A worker that was told and fell silent before it could obey.
    let mut world = World::new().await;
    world.goes(&one).await;
    world.cancel().await.unwrap();
    world.pass(31);
    assert_eq!(world.state().await, BuildState::Cancelled, "as was asked, though its worker is silent");
    assert!(world.build().await.finished_at.is_some_and(|at| at < world.now));
    for (state, found) in [(BuildState::Cancelled, 1), (BuildState::Interrupted, 0)] {
        let wanted = Selection { state: Some(state), ..Selection::default() };
        assert_eq!(world.database.builds(&wanted, 9, world.now).await.unwrap().len(), found, "{state}");
    }
    assert_eq!(world.claim(&by("two")).await, Ok(ClaimAnswer::Cancelled { reason: None }));
    assert_eq!(world.state().await, BuildState::Cancelled);
    // It was published all the same: that is what counts.
    world.report(one.attempt, AttemptState::Published).await.unwrap();
    assert_eq!(world.state().await, BuildState::Published);
}

#[tokio::test]
async fn what_an_operator_puts_back_is_tried_again_once() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    world.cancel().await.unwrap();
    world.report(one.attempt, AttemptState::Failed).await.unwrap();
    let again = Claim { requeue: Some("letter".to_owned()), ..by("two") };
    world.goes(&again).await;
    assert!(world.build().await.cancel_requested_at.is_none(), "that was before");
    world.report(again.attempt, AttemptState::Failed).await.unwrap();
    let repeated = Claim { requeue: Some("letter".to_owned()), ..by("two") };
    assert!(matches!(world.claim(&repeated).await, Ok(ClaimAnswer::Done { .. })));
    assert!(matches!(world.claim(&by("two")).await, Ok(ClaimAnswer::Done { .. })));
    let published = Claim { requeue: Some("other".to_owned()), ..by("two") };
    world.goes(&published).await;
    world.report(published.attempt, AttemptState::Published).await.unwrap();
    let useless = Claim { requeue: Some("third".to_owned()), ..by("two") };
    assert!(matches!(world.claim(&useless).await, Ok(ClaimAnswer::Done { .. })));
}

#[tokio::test]
async fn an_attempt_of_another_build_is_refused() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    let other = Claim { event: EVENT.replace("b-1", "b-2"), ..one };
    assert!(matches!(world.claim(&other).await, Err(Refusal::Unprocessable(_))));
}

#[tokio::test]
async fn a_log_that_has_grown_since_it_was_read_is_not_sealed() {
    let world = World::new().await;
    let one = by("one");
    world.goes(&one).await;
    let line = r#"{"seq":0,"at":"2026-11-23T10:15:02.123Z","stream":"stdout","step":null,"server":"w","service":null,"pod":null,"text":"x"}"#;
    world.append(one.attempt, line).await.unwrap();
    // Its end says that there is no entry, as it was when the log was read.
    assert_eq!(world.report(one.attempt, AttemptState::Published).await, Err(Refusal::Checksum));
    assert_eq!(world.state().await, BuildState::Claimed);
    world.append(one.attempt, &line.replace("\"seq\":0", "\"seq\":1")).await.unwrap();
}
