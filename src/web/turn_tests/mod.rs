//! Apps with policies, namespaces with limits, and a clock that the test moves.

mod latest_only;
mod limits;
mod model;
mod queue;
mod serial;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::event::result::{Kind, ResultEvent, State};
use crate::store::digest::Digest;
use crate::timeline::protocol::{
    AttemptId, AttemptState, Build, Claim, ClaimAnswer, LogSum, Progress, StateReport,
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
fn text(name: &str) -> String {
    let (id, git_ref) = name.split_once(' ').map_or((name, None), |(id, name)| (id, Some(name)));
    let app = id.rsplit_once('-').unwrap().0;
    let git_ref = git_ref.map_or("null".to_owned(), |name| format!("\"refs/heads/{name}\""));
    let rebuild = app == "again";
    let app = if rebuild { "latest" } else { app };
    format!(
        r#"{{"version":1,"id":"{id}","namespace":"acme","app":"{app}","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","ref":{git_ref},"build":{{"rebuild":{rebuild}}},"fake":{{}}}}"#
    )
}

fn event(name: &str) -> DeployEvent {
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
