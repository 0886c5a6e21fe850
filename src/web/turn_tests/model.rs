//! The arbiter against a model of its rules that keeps builds in a list: whatever is claimed, reported and
//! cancelled in whatever order, both say the same, and what must never happen never does.

use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use crate::event::result::{Kind, ResultEvent, State};
use crate::store::digest::Digest;
use crate::timeline::protocol::{AttemptId, AttemptState, Claim, ClaimAnswer, LEASE, LogSum, StateReport};
use crate::web::claims;
use crate::web::db::{Database, Job, WriteError};
use crate::web::turn::*;

/// How many builds there are, of four apps. Every third has no ref.
const BUILDS: usize = 12;
const APPS: [&str; 4] = ["serial", "latest", "other", "web"];
const LIMIT: usize = 3;
const CONFIG: &str = r#"[policy]
builds = { "acme/serial" = "serial", "acme/latest" = "latest-only", "acme/other" = "serial" }
max_running = 3
"#;

#[derive(Debug, Clone)]
enum Step {
    Claim { build: usize, late: bool },
    Report { build: usize, state: AttemptState },
    Cancel { build: usize },
    Pass { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let build = 0..BUILDS;
    let state = prop_oneof![
        3 => Just(AttemptState::Building),
        3 => Just(AttemptState::Published),
        1 => Just(AttemptState::Retrying),
        1 => Just(AttemptState::Released),
    ];
    let step = prop_oneof![
        10 => (build.clone(), prop::bool::weighted(0.05)).prop_map(|(build, late)| Step::Claim { build, late }),
        8 => (build.clone(), state).prop_map(|(build, state)| Step::Report { build, state }),
        1 => build.prop_map(|build| Step::Cancel { build }),
        3 => (1_u64..25).prop_map(|seconds| Step::Pass { seconds }),
    ];
    prop::collection::vec(step, 1..90)
}

/// A build as the model has it. Times count milliseconds.
#[derive(Debug, Clone, Default)]
struct Modelled {
    /// When it was first known; none before.
    came: Option<u64>,
    attempt: Option<(AttemptId, AttemptState)>,
    fenced: bool,
    lease: u64,
    in_line: Option<u64>,
    /// It was told to wait, then.
    put_off: bool,
    cancel: bool,
    ended: Option<BuildState>,
    /// It was never permitted to be where it is.
    late: bool,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Go,
    Wait,
    Done,
    Cancelled,
}

struct Model {
    builds: Vec<Modelled>,
    now: u64,
}

fn app(build: usize) -> &'static str {
    APPS[build % APPS.len()]
}

fn git_ref(build: usize) -> Option<&'static str> {
    (!build.is_multiple_of(3)).then_some("refs/heads/main")
}

fn serial(build: usize) -> bool {
    app(build) != "web"
}

impl Model {
    fn leased(&self, build: usize) -> bool {
        self.builds[build].lease > self.now
    }

    fn others(&self, build: usize) -> impl Iterator<Item = usize> + '_ {
        (0..BUILDS).filter(move |&other| other != build)
    }

    fn place(&self, build: usize) -> (u64, String) {
        (self.builds[build].came.unwrap(), name(build))
    }

    /// A later event for the same ref, in the app that cares for that.
    fn replaced(&self, build: usize) -> bool {
        let replaces = |&other: &usize| {
            self.builds[other].came.is_some()
                && self.builds[other].ended != Some(BuildState::Cancelled)
                && app(other) == app(build)
                && git_ref(other) == git_ref(build)
                && self.place(other) > self.place(build)
        };
        app(build) == "latest" && git_ref(build).is_some() && self.others(build).any(|other| replaces(&other))
    }

    fn end(&mut self, build: usize, state: BuildState) {
        let modelled = &mut self.builds[build];
        (modelled.ended, modelled.lease) = (Some(state), 0);
        (modelled.in_line, modelled.put_off) = (None, false);
    }

    fn arrive(&mut self, build: usize) {
        if self.builds[build].came.is_some() {
            return;
        }
        self.builds[build].came = Some(self.now);
        self.builds[build].in_line = Some(self.now);
        for other in 0..BUILDS {
            let known = self.builds[other].came.is_some() && self.builds[other].ended.is_none();
            let of_it = app(other) == app(build) && git_ref(other) == git_ref(build);
            if known && of_it && !self.leased(other) && self.replaced(other) {
                self.end(other, BuildState::Cancelled);
            }
        }
    }

    /// One that was told to wait has come again: what was told so long before it, and has not, is not believed in.
    fn forget(&mut self, build: usize) {
        let Some(put_off) = self.builds[build].in_line.filter(|_| self.builds[build].put_off) else { return };
        for other in &mut self.builds {
            if other.in_line.is_some_and(|at| at + (PATIENCE.as_millis() as u64) < put_off) {
                (other.in_line, other.put_off) = (None, false);
            }
        }
    }

    fn must_wait(&self, build: usize) -> bool {
        let running: Vec<usize> = self.others(build).filter(|&other| self.leased(other)).collect();
        let runs = |one: usize| running.iter().any(|&other| app(other) == app(one));
        let before: Vec<usize> = self
            .others(build)
            .filter(|&other| self.builds[other].in_line.is_some() && self.place(other) < self.place(build))
            .collect();
        if serial(build) && (runs(build) || before.iter().any(|&other| app(other) == app(build))) {
            return true;
        }
        // Each place that is free goes to the next in line that can take it.
        let mut free = LIMIT.saturating_sub(running.len());
        let mut taken = Vec::new();
        for other in before {
            let can = !serial(other) || !(runs(other) || taken.contains(&app(other)));
            if can && free > 0 {
                free -= 1;
                taken.push(app(other));
            }
        }
        free == 0
    }

    fn claim(&mut self, build: usize, attempt: AttemptId, late: bool) -> Answer {
        self.arrive(build);
        if self.builds[build].ended.is_some() {
            return match (late, self.builds[build].ended) {
                (true, _) => Answer::Go,
                (false, Some(BuildState::Cancelled)) => Answer::Cancelled,
                (false, _) => Answer::Done,
            };
        }
        if !late && !self.leased(build) && (self.builds[build].cancel || self.replaced(build)) {
            self.end(build, BuildState::Cancelled);
            return Answer::Cancelled;
        }
        if self.leased(build) {
            return if late { Answer::Go } else { Answer::Wait };
        }
        if !late {
            self.forget(build);
        }
        if !late && self.must_wait(build) {
            (self.builds[build].in_line, self.builds[build].put_off) = (Some(self.now), true);
            return Answer::Wait;
        }
        if !late && serial(build) {
            for other in 0..BUILDS {
                let silent = other != build && app(other) == app(build) && self.builds[other].lease > 0;
                if silent && self.builds[other].cancel {
                    self.end(other, BuildState::Cancelled);
                }
                if silent {
                    (self.builds[other].fenced, self.builds[other].lease) = (true, 0);
                    (self.builds[other].in_line, self.builds[other].put_off) = (None, false);
                }
            }
        }
        let modelled = &mut self.builds[build];
        modelled.attempt = Some((attempt, AttemptState::Claimed));
        (modelled.fenced, modelled.late) = (false, late);
        (modelled.in_line, modelled.put_off) = (None, false);
        modelled.lease = self.now + LEASE.as_millis() as u64;
        Answer::Go
    }

    /// What the attempt that counts says; nothing where it may not say that.
    fn report(&mut self, build: usize, state: AttemptState) {
        let now = self.now;
        let modelled = &mut self.builds[build];
        let Some((_, was)) = &mut modelled.attempt else { return };
        *was = state;
        if modelled.ended.is_some() && state != AttemptState::Published {
            return;
        }
        match state {
            AttemptState::Published => self.end(build, BuildState::Published),
            AttemptState::Building => {
                modelled.lease = now + LEASE.as_millis() as u64;
                (modelled.in_line, modelled.put_off) = (None, false);
            }
            _ if self.builds[build].cancel || self.replaced(build) => self.end(build, BuildState::Cancelled),
            _ => {
                (self.builds[build].lease, self.builds[build].put_off) = (0, false);
                self.builds[build].in_line = (state == AttemptState::Released).then_some(now);
            }
        }
    }

    fn cancel(&mut self, build: usize) {
        if self.builds[build].came.is_none() || self.builds[build].ended.is_some() {
            return;
        }
        self.builds[build].cancel = true;
        if !self.leased(build) {
            self.end(build, BuildState::Cancelled);
        }
    }
}

fn name(build: usize) -> String {
    format!("b-{build:02}")
}

fn text(build: usize) -> String {
    let git_ref = git_ref(build).map_or("null".to_owned(), |name| format!("\"{name}\""));
    format!(
        r#"{{"version":1,"id":"{}","namespace":"acme","app":"{}","commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","ref":{git_ref},"fake":{{}}}}"#,
        name(build),
        app(build),
    )
}

/// What is wrong, or a database that failed.
#[derive(Debug)]
struct Wrong(String);

impl From<WriteError> for Wrong {
    fn from(error: WriteError) -> Self {
        Self(error.to_string())
    }
}

impl From<Refusal> for Wrong {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.to_string())
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), Wrong> {
    if holds { Ok(()) } else { Err(Wrong(what())) }
}

/// The arbiter and the model, side by side.
struct Both<'c> {
    connection: &'c mut SqliteConnection,
    policy: PolicyConfig,
    model: Model,
    start: OffsetDateTime,
}

impl Both<'_> {
    fn now(&self) -> OffsetDateTime {
        self.start + Duration::from_millis(self.model.now)
    }

    async fn claim(&mut self, build: usize, late: bool) -> Result<(), Wrong> {
        let (text, now) = (text(build), self.now());
        let (event, _) = DeployEvent::parse(text.as_bytes()).unwrap();
        let attempt = AttemptId::generate();
        let worker = "w".to_owned();
        let claim = Claim { event: text, worker, attempt, number: 1, requeue: None, replaces: None, late };
        let running: Vec<usize> = (0..BUILDS).filter(|&other| self.model.leased(other)).collect();
        let claimed = claims::claim(self.connection, &event, &claim, &self.policy, now).await?;
        let expected = self.model.claim(build, attempt, late);
        let answer = match claimed.answer {
            ClaimAnswer::Go { .. } => Answer::Go,
            ClaimAnswer::Wait { .. } => Answer::Wait,
            ClaimAnswer::Done { .. } => Answer::Done,
            ClaimAnswer::Cancelled { .. } => Answer::Cancelled,
            ClaimAnswer::Conflict => return Err(Wrong("a conflict".to_owned())),
        };
        ensure(answer == expected, || format!("build {build}: {answer:?}, and not {expected:?}"))?;
        if answer == Answer::Go && !late {
            ensure(running.len() < LIMIT, || format!("build {build} goes beside {running:?}"))?;
        }
        Ok(())
    }

    async fn report(&mut self, build: usize, state: AttemptState) -> Result<(), Wrong> {
        let modelled = &self.model.builds[build];
        let Some((attempt, was)) = modelled.attempt.filter(|(_, was)| !was.is_end()) else { return Ok(()) };
        let (event, _) = DeployEvent::parse(text(build).as_bytes()).unwrap();
        let (kind, said) = match state {
            AttemptState::Published => (None, Some(State::Published)),
            AttemptState::Retrying => (Some(Kind::Infrastructure), Some(State::Retrying)),
            _ => (None, None),
        };
        let result = said.map(|said| Box::new(ResultEvent { kind, ..ResultEvent::of(&event, 1, said, "w") }));
        let log = said.map(|_| LogSum { count: 0, checksum: Digest::of(b"") });
        let now = self.now();
        let report = StateReport { state, at: now, commit: None, result, log };
        let told = claims::report(self.connection, &event.id, attempt, &report, log, &self.policy, now).await;
        match told {
            Err(Refusal::Fenced) => ensure(modelled.fenced, || format!("build {build} is fenced")),
            Err(refusal) => Err(refusal.into()),
            Ok(_) => {
                ensure(!modelled.fenced, || format!("build {build} is not fenced, {was:?}"))?;
                self.model.report(build, state);
                Ok(())
            }
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Wrong> {
        // Two events never come in the same millisecond: that is another order.
        self.model.now += 1;
        match *step {
            Step::Claim { build, late } => self.claim(build, late).await?,
            Step::Report { build, state } => self.report(build, state).await?,
            Step::Cancel { build } => {
                let (event, _) = DeployEvent::parse(text(build).as_bytes()).unwrap();
                match claims::cancel(self.connection, &event.id, self.now()).await {
                    Ok(_) => self.model.cancel(build),
                    Err(Refusal::NotFound(_)) => {}
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            Step::Pass { seconds } => self.model.now += seconds * 1000,
        }
        self.check().await
    }

    /// What holds at any time.
    async fn check(&mut self) -> Result<(), Wrong> {
        for build in 0..BUILDS {
            let (event, _) = DeployEvent::parse(text(build).as_bytes()).unwrap();
            let row = builds::get(self.connection, &event.id).await.map_err(Refusal::from)?;
            let (modelled, leased) = (&self.model.builds[build], self.model.leased(build));
            let Some(row) = row else { continue };
            ensure(row.is_leased(self.now()) == leased, || format!("build {build}: its lease"))?;
            let ended = row.build.state.is_final().then_some(row.build.state);
            ensure(ended == modelled.ended, || format!("build {build}: {ended:?}, {modelled:?}"))?;
            let beside =
                |&other: &usize| other != build && app(other) == app(build) && self.model.leased(other);
            let together = leased && serial(build) && (0..BUILDS).any(|other| beside(&other));
            let late = |build: usize| self.model.builds[build].late;
            let excused = late(build) || (0..BUILDS).filter(beside).any(late);
            ensure(!together || excused, || format!("build {build} is not alone in its app"))?;
        }
        Ok(())
    }

    /// Lets everybody ask every ten seconds, the latest first, and whoever runs end at its next word.
    async fn let_it_end(&mut self) -> Result<(), Wrong> {
        for _ in 0..3 * BUILDS {
            self.model.now += 10_000;
            for build in (0..BUILDS).rev() {
                self.model.now += 1;
                match self.model.leased(build) {
                    true => self.report(build, AttemptState::Published).await?,
                    false => self.claim(build, false).await?,
                }
                self.check().await?;
            }
            if self.model.builds.iter().all(|build| build.ended.is_some()) {
                return Ok(());
            }
        }
        Err(Wrong(format!("some are never built: {:#?}", self.model.builds)))
    }
}

async fn play(steps: Vec<Step>) -> Result<(), Wrong> {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path()).await.unwrap();
    // One transaction for all of it: a commit is a sync of the disk.
    let job: Job<(), Wrong> = Box::new(move |connection| {
        Box::pin(async move {
            let policy = crate::config::Config::parse("f", CONFIG, []).unwrap().policy;
            let model = Model { builds: vec![Modelled::default(); BUILDS], now: 0 };
            let mut both = Both { connection, policy, model, start: OffsetDateTime::UNIX_EPOCH + LEASE };
            for step in &steps {
                both.step(step).await?;
            }
            both.let_it_end().await
        })
    });
    database.write(job).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_arbiter_does_what_its_rules_say(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let played = runtime.block_on(play(steps));
        prop_assert!(played.is_ok(), "{}", played.unwrap_err().0);
    }
}
