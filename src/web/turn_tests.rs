//! Apps with policies, namespaces with limits, and a clock that the test moves.

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::event::result::{Kind, ResultEvent, State};
use crate::store::digest::Digest;
use crate::timeline::protocol::{
    AttemptId, AttemptState, Build, Claim, ClaimAnswer, LEASE, LogSum, Progress, StateReport,
};
use crate::web::claims;
use crate::web::db::{Database, Job};

struct World {
    database: Database,
    policy: PolicyConfig,
    now: OffsetDateTime,
    _folder: TempDir,
}

/// An event of acme: `serial-1 main` is of the app `serial`, for the branch main, and has this id.
pub(super) fn text(name: &str) -> String {
    let (id, git_ref) = name.split_once(' ').map_or((name, None), |(id, name)| (id, Some(name)));
    let app = id.rsplit_once('-').unwrap().0;
    let git_ref = git_ref.map_or("null".to_owned(), |name| format!("\"refs/heads/{name}\""));
    let rebuild = app == "again";
    let app = if rebuild { "latest" } else { app };
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"acme","app":"{app}","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","ref":{git_ref},"build":{{"rebuild":{rebuild}}},"fake":{{}}}}"#
    )
}

pub(super) fn event(name: &str) -> DeployEvent {
    DeployEvent::parse(text(name).as_bytes()).unwrap().0
}

impl World {
    /// The apps `serial` and `latest` have the policies that they are called after.
    async fn new(limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(folder.path()).await.unwrap();
        let builds =
            r#"{ "acme/serial" = "serial", "acme/latest" = "latest-only", "acme/other" = "serial" }"#;
        let config = format!("[policy]\nbuilds = {builds}\n{limits}\n");
        let policy = crate::config::Config::parse("f", &config, []).unwrap().policy;
        Self { database, policy, now: OffsetDateTime::now_utc(), _folder: folder }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    async fn write<T: Send + 'static>(&self, job: Job<T, Refusal>) -> T {
        self.database.write(job).await.unwrap()
    }

    /// Enqueues an event over HTTP, a moment after what was before.
    async fn enqueue(&mut self, name: &str) {
        self.now += Duration::from_millis(1);
        let (text, event, policy, now) = (text(name), event(name), self.policy.clone(), self.now);
        self.write(Box::new(move |connection| {
            Box::pin(async move { arrive(connection, &event, &text, &policy, now, now).await.map(drop) })
        }))
        .await;
    }

    async fn claim_with(&self, name: &str, change: impl FnOnce(&mut Claim)) -> (AttemptId, ClaimAnswer) {
        let mut claim = Claim {
            event: text(name),
            worker: "w".to_owned(),
            attempt: AttemptId::generate(),
            number: 1,
            requeue: None,
            replaces: None,
            late: false,
        };
        change(&mut claim);
        let (attempt, event, policy, now) = (claim.attempt, event(name), self.policy.clone(), self.now);
        let job: Job<claims::Claimed, Refusal> = Box::new(move |connection| {
            Box::pin(async move { claims::claim(connection, &event, &claim, &policy, now).await })
        });
        (attempt, self.write(job).await.answer)
    }

    async fn goes(&mut self, name: &str) -> AttemptId {
        self.now += Duration::from_millis(1);
        let (attempt, answer) = self.claim_with(name, |_| ()).await;
        assert_eq!(answer, ClaimAnswer::Go { next_seq: 0 }, "{name}");
        attempt
    }

    /// Asserts that an event is told to wait, and that its build says so; answers why.
    async fn waits(&mut self, name: &str) -> String {
        self.now += Duration::from_millis(1);
        let (_, answer) = self.claim_with(name, |_| ()).await;
        let ClaimAnswer::Wait { reason } = answer else { panic!("{name}: {answer:?}") };
        let build = self.build(name).await;
        assert_eq!(build.waiting.as_deref(), Some(reason.as_str()), "{name}");
        reason
    }

    /// Asserts that an event is not to be built any more; answers why.
    async fn is_cancelled(&self, name: &str) -> String {
        let (_, answer) = self.claim_with(name, |_| ()).await;
        let ClaimAnswer::Cancelled { reason } = answer else { panic!("{name}: {answer:?}") };
        let build = self.build(name).await;
        assert_eq!((build.state, &build.reason), (BuildState::Cancelled, &reason), "{name}");
        reason.unwrap_or_default()
    }

    async fn report(&self, name: &str, attempt: AttemptId, state: AttemptState) -> Result<Progress, Refusal> {
        let event = event(name);
        let result = |state, kind| {
            let result = ResultEvent { kind, ..ResultEvent::of(&event, 1, state, "w") };
            (Some(Box::new(result)), Some(LogSum { count: 0, checksum: Digest::of(b"") }))
        };
        let (result, log) = match state {
            AttemptState::Published => result(State::Published, None),
            AttemptState::Failed => result(State::Failed, Some(Kind::Infrastructure)),
            AttemptState::Retrying => result(State::Retrying, Some(Kind::Infrastructure)),
            _ => (None, None),
        };
        let report = StateReport { state, at: self.now, commit: None, result, log };
        let (id, policy, now) = (event.id.clone(), self.policy.clone(), self.now);
        let job: Job<Progress, Refusal> = Box::new(move |connection| {
            Box::pin(async move {
                claims::report(connection, &id, attempt, &report, report.log, &policy, now).await
            })
        });
        self.database.write(job).await
    }

    async fn ends(&self, name: &str, attempt: AttemptId, state: AttemptState) {
        self.report(name, attempt, state).await.unwrap();
    }

    async fn cancel(&self, name: &str) {
        let (id, now) = (event(name).id, self.now);
        self.write(Box::new(move |connection| {
            Box::pin(async move { claims::cancel(connection, &id, now).await.map(drop) })
        }))
        .await;
    }

    async fn build(&self, name: &str) -> Build {
        self.database.build(&event(name).id).await.unwrap().unwrap().shown("", self.now)
    }

    async fn state(&self, name: &str) -> BuildState {
        self.build(name).await.state
    }
}

#[tokio::test]
async fn without_a_policy_nobody_waits() {
    let mut world = World::new("").await;
    for name in ["web-1", "web-2", "web-3"] {
        world.goes(name).await;
    }
}

#[tokio::test]
async fn of_two_that_ask_at_once_one_goes() {
    let world = World::new("").await;
    let (one, two) = tokio::join!(world.claim_with("serial-1", |_| ()), world.claim_with("serial-2", |_| ()));
    let goes = [one.1, two.1].map(|answer| matches!(answer, ClaimAnswer::Go { .. }));
    assert_eq!(goes.iter().filter(|&&goes| goes).count(), 1, "{goes:?}");
}

#[tokio::test]
async fn builds_of_a_serial_app_run_in_the_order_of_their_coming() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    let reason = world.waits("serial-2").await;
    assert_eq!(reason, "build serial-1 of the same app is running (policy serial)");
    world.waits("serial-3").await;
    world.goes("web-1").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    // It asks first, and is not the first.
    let reason = world.waits("serial-3").await;
    assert_eq!(reason, "build serial-2 of the same app comes before it (policy serial)");
    let second = world.goes("serial-2").await;
    assert_eq!(world.build("serial-2").await.waiting, None);
    world.waits("serial-3").await;
    world.ends("serial-2", second, AttemptState::Published).await;
    world.goes("serial-3").await;
}

#[tokio::test]
async fn what_was_enqueued_comes_before_what_asks_first() {
    let mut world = World::new("").await;
    world.enqueue("serial-1").await;
    world.enqueue("serial-2").await;
    world.waits("serial-2").await;
    world.goes("serial-1").await;
}

#[tokio::test]
async fn nobody_waits_for_ever_for_one_that_does_not_come_again() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.pass(50);
    world.waits("serial-3").await;
    world.pass(11);
    // It has not asked for a minute: perhaps its event was purged, or no slot was free.
    assert_eq!(
        (world.build("serial-2").await.waiting, world.state("serial-2").await),
        (None, BuildState::Queued)
    );
    world.waits("serial-3").await;
    world.pass(10);
    // Put off a minute later, it is here again, and the other one was not before it.
    let third = world.goes("serial-3").await;
    world.waits("serial-2").await;
    world.ends("serial-3", third, AttemptState::Published).await;
    world.goes("serial-2").await;
}

#[tokio::test]
async fn a_place_in_line_outlasts_any_time_in_which_no_slot_is_free() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    for _ in 0..60 {
        world.pass(20);
        world.ends("serial-1", first, AttemptState::Building).await;
    }
    world.ends("serial-1", first, AttemptState::Published).await;
    // It came only now, and says nothing of what stood in the queue before it.
    let reason = world.waits("serial-3").await;
    assert_eq!(reason, "build serial-2 of the same app comes before it (policy serial)");
    world.goes("serial-2").await;
}

#[tokio::test]
async fn one_that_does_not_come_again_is_waited_for_once() {
    let mut world = World::new("max_running = 1").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.pass(600);
    world.waits("web-1").await;
    world.pass(10);
    let web = world.goes("web-1").await;
    world.ends("web-1", web, AttemptState::Published).await;
    for name in ["web-2", "serial-3"] {
        let attempt = world.goes(name).await;
        world.ends(name, attempt, AttemptState::Published).await;
    }
    world.goes("serial-2").await;
}

#[tokio::test]
async fn what_was_given_back_says_nothing_of_the_queues_end() {
    let mut world = World::new("max_running = 2").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    let web = world.goes("web-1").await;
    for _ in 0..4 {
        world.pass(20);
        world.ends("serial-1", first, AttemptState::Building).await;
        world.ends("web-1", web, AttemptState::Building).await;
    }
    // It comes at once, to the queue's head.
    world.ends("web-1", web, AttemptState::Released).await;
    world.goes("web-1").await;
    world.ends("serial-1", first, AttemptState::Published).await;
    world.waits("serial-3").await;
    world.goes("serial-2").await;
}

#[tokio::test]
async fn one_that_is_to_be_tried_again_lets_others_go_and_keeps_its_place() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Retrying).await;
    let shown = world.build("serial-1").await;
    assert_eq!(
        shown.retry_at.unwrap().unix_timestamp(),
        (world.now + Duration::from_secs(10)).unix_timestamp()
    );
    let second = world.goes("serial-2").await;
    world.waits("serial-3").await;
    world.waits("serial-1").await;
    let shown = world.build("serial-1").await;
    assert_eq!(
        (shown.state, shown.retry_at),
        (BuildState::Retrying, None),
        "it waits for something else now"
    );
    world.ends("serial-2", second, AttemptState::Published).await;
    world.waits("serial-3").await;
    world.goes("serial-1").await;
}

#[tokio::test]
async fn one_that_was_given_back_keeps_its_place() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.ends("serial-1", first, AttemptState::Released).await;
    assert!(world.waits("serial-2").await.starts_with("build serial-1 "));
    world.goes("serial-1").await;
}

#[tokio::test]
async fn what_has_fallen_silent_is_fenced_before_the_next_of_a_serial_app_goes() {
    let mut world = World::new("").await;
    let silent = world.goes("serial-1").await;
    let other = world.goes("web-1").await;
    world.pass(31);
    world.goes("serial-2").await;
    assert_eq!(world.report("serial-1", silent, AttemptState::Building).await, Err(Refusal::Fenced));
    assert_eq!(world.state("serial-1").await, BuildState::Queued);
    world.ends("web-1", other, AttemptState::Building).await;
    assert_eq!(world.state("web-1").await, BuildState::Building, "it may go on");
    assert!(world.waits("serial-1").await.starts_with("build serial-2 "));

    // One whose end was asked for has ended.
    let mut world = World::new("").await;
    world.goes("serial-1").await;
    world.cancel("serial-1").await;
    world.pass(31);
    world.goes("serial-2").await;
    world.is_cancelled("serial-1").await;
}

#[tokio::test]
async fn a_crash_costs_nobody_its_turn() {
    let mut world = World::new("max_running = 1").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    let (_, answer) = world.claim_with("serial-1", |claim| claim.replaces = Some(first)).await;
    assert_eq!(answer, ClaimAnswer::Go { next_seq: 0 });
}

#[tokio::test]
async fn what_an_operator_puts_back_comes_last() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.ends("serial-1", first, AttemptState::Failed).await;
    let second = world.goes("serial-2").await;
    world.waits("serial-3").await;
    world.now += Duration::from_millis(1);
    let again = |claim: &mut Claim| claim.requeue = Some("letter".to_owned());
    let (_, answer) = world.claim_with("serial-1", again).await;
    assert!(matches!(answer, ClaimAnswer::Wait { .. }), "{answer:?}");
    assert_eq!(world.state("serial-1").await, BuildState::Queued);
    world.ends("serial-2", second, AttemptState::Published).await;
    assert!(matches!(world.claim_with("serial-1", again).await.1, ClaimAnswer::Wait { .. }));
    let third = world.goes("serial-3").await;
    world.ends("serial-3", third, AttemptState::Published).await;
    assert!(matches!(world.claim_with("serial-1", again).await.1, ClaimAnswer::Go { .. }));
}

#[tokio::test]
async fn a_late_attempt_never_waits() {
    let mut world = World::new("max_running = 1").await;
    world.goes("serial-1").await;
    for name in ["serial-2", "latest-1 main", "web-1"] {
        let (_, answer) = world.claim_with(name, |claim| claim.late = true).await;
        assert!(matches!(answer, ClaimAnswer::Go { .. }), "{name}: {answer:?}");
    }
    // It counts all the same.
    assert!(world.waits("serial-3").await.contains(" of the same app is running"));
}

#[tokio::test]
async fn a_later_event_of_the_ref_replaces_the_one_that_waits() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.waits("latest-3 side").await;
    world.waits("latest-4").await;
    world.waits("latest-5 main").await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Claimed, "what runs is never ended by it");
    let reason = "a later event of refs/heads/main replaced it: build latest-5 (policy latest-only)";
    assert_eq!(world.build("latest-2 main").await.state, BuildState::Cancelled, "at once");
    assert_eq!(world.is_cancelled("latest-2 main").await, reason);
    world.waits("latest-4").await;
    world.waits("latest-3 side").await;
    world.ends("latest-1 main", first, AttemptState::Published).await;
    let third = world.goes("latest-3 side").await;
    assert_eq!(
        world.waits("latest-5 main").await,
        "build latest-3 of the same app is running (policy latest-only)"
    );
    world.ends("latest-3 side", third, AttemptState::Published).await;
    let fourth = world.goes("latest-4").await;
    world.ends("latest-4", fourth, AttemptState::Published).await;
    world.goes("latest-5 main").await;
}

#[tokio::test]
async fn a_later_event_replaces_what_is_queued_or_to_be_tried_again() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.ends("latest-1 main", first, AttemptState::Retrying).await;
    world.enqueue("latest-2 main").await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Cancelled);
    world.enqueue("latest-3 main").await;
    world.is_cancelled("latest-1 main").await;
    world.is_cancelled("latest-2 main").await;

    // One that ran when it was replaced, and fails by no fault of its own, is not tried again.
    let third = world.goes("latest-3 main").await;
    world.waits("latest-4 main").await;
    world.ends("latest-3 main", third, AttemptState::Retrying).await;
    let shown = world.build("latest-3 main").await;
    assert_eq!(shown.state, BuildState::Cancelled);
    assert!(shown.reason.unwrap().contains("build latest-4 "));
    world.is_cancelled("latest-3 main").await;

    // Nor is one whose worker died.
    world.goes("latest-4 main").await;
    world.waits("latest-5 main").await;
    world.pass(31);
    world.is_cancelled("latest-4 main").await;
    world.goes("latest-5 main").await;
}

#[tokio::test]
async fn what_was_withdrawn_replaces_nothing() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.cancel("latest-2 main").await;
    world.ends("latest-1 main", first, AttemptState::Retrying).await;
    assert_eq!(world.state("latest-1 main").await, BuildState::Retrying);
    world.goes("latest-1 main").await;
}

#[tokio::test]
async fn a_rebuild_replaces_nothing_and_is_replaced() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    world.waits("again-3 main").await;
    world.waits("latest-2 main").await;
    world.ends("latest-1 main", first, AttemptState::Published).await;
    let second = world.goes("latest-2 main").await;
    world.waits("latest-4 main").await;
    world.is_cancelled("again-3 main").await;
    world.ends("latest-2 main", second, AttemptState::Published).await;
    world.goes("latest-4 main").await;
}

#[tokio::test]
async fn what_an_operator_puts_back_is_no_later_event() {
    let mut world = World::new("").await;
    let first = world.goes("latest-1 main").await;
    world.ends("latest-1 main", first, AttemptState::Failed).await;
    world.goes("latest-2 main").await;
    let again = |claim: &mut Claim| claim.requeue = Some("letter".to_owned());
    let (_, answer) = world.claim_with("latest-1 main", again).await;
    let ClaimAnswer::Cancelled { reason: Some(reason) } = answer else { panic!("{answer:?}") };
    assert!(reason.contains("build latest-2 "), "{reason}");
}

#[tokio::test]
async fn a_namespace_runs_no_more_than_its_limit_in_the_order_of_their_coming() {
    let mut world = World::new("max_running = 2").await;
    let first = world.goes("web-1").await;
    world.goes("api-1").await;
    assert_eq!(
        world.waits("web-2").await,
        "build api-1 and 1 other of namespace acme are running, and no more than 2 run at once (policy.max_running)"
    );
    world.waits("web-3").await;
    world.ends("web-1", first, AttemptState::Published).await;
    assert_eq!(
        world.waits("web-3").await,
        "build web-2 of namespace acme comes before it, and no more than 2 run at once (policy.max_running)"
    );
    world.goes("web-2").await;
    world.waits("web-3").await;

    let mut world = World::new("max_running = 5\nmax_running_in = { acme = 1 }").await;
    world.goes("web-1").await;
    assert!(world.waits("web-2").await.ends_with("no more than 1 run at once (policy.max_running_in)"));
}

#[tokio::test]
async fn who_waits_for_its_own_app_leaves_its_place_to_others() {
    let mut world = World::new("max_running = 2").await;
    world.goes("serial-1").await;
    for name in ["serial-2", "serial-3", "serial-4"] {
        world.waits(name).await;
    }
    let other = world.goes("other-1").await;
    // Two of another app, of which one could go: with it, the place is taken.
    world.waits("other-2").await;
    world.waits("other-3").await;
    world.ends("other-1", other, AttemptState::Published).await;
    assert!(world.waits("web-1").await.starts_with("build other-2 of namespace acme comes before it"));
    world.goes("other-2").await;
}

#[tokio::test]
async fn a_cancel_ends_what_waits_or_is_to_be_tried_again_at_once() {
    let mut world = World::new("").await;
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    world.waits("serial-3").await;
    world.cancel("serial-2").await;
    assert_eq!(
        (world.state("serial-2").await, world.build("serial-2").await.waiting),
        (BuildState::Cancelled, None)
    );
    assert_eq!(world.is_cancelled("serial-2").await, "");
    world.cancel("serial-1").await;
    // Not told yet, it fails otherwise: nobody tries it again.
    world.ends("serial-1", first, AttemptState::Retrying).await;
    world.is_cancelled("serial-1").await;
    world.goes("serial-3").await;
}

#[tokio::test]
async fn leases_outlive_a_restart_of_the_service() {
    let mut world = World::new("").await;
    world.goes("web-1").await;
    world.pass(31);
    let first = world.goes("serial-1").await;
    world.waits("serial-2").await;
    // Nobody can renew for ten minutes.
    world.pass(600);
    world.database.renew_all(world.now).await.unwrap();
    assert_eq!(world.state("web-1").await, BuildState::Interrupted, "it had fallen silent before");
    assert!(world.waits("serial-2").await.starts_with("build serial-1 "));
    world.ends("serial-1", first, AttemptState::Building).await;
    world.now += LEASE;
    assert_eq!(world.state("serial-1").await, BuildState::Interrupted);
}

#[tokio::test]
async fn what_was_begun_before_it_was_told_of_replaces_nothing_that_came_since() {
    let mut world = World::new("").await;
    let attempt = AttemptId::generate();
    world.pass(60);
    world.goes("latest-1 main").await;
    world.waits("latest-2 main").await;
    // Its worker took it while the service was away, and tells of it now.
    let late = |claim: &mut Claim| (claim.late, claim.attempt) = (true, attempt);
    let (_, answer) = world.claim_with("latest-0 main", late).await;
    assert!(matches!(answer, ClaimAnswer::Go { .. }), "{answer:?}");
    world.waits("latest-2 main").await;
}
