//! The arbiter behind a queue and its slots: whatever comes when, and however long all slots are busy, builds of a
//! serial app begin in the order of their coming, and what is lost keeps nobody.

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::{event, text};
use crate::event::result::{ResultEvent, State};
use crate::store::digest::Digest;
use crate::timeline::protocol::{AttemptId, AttemptState, Claim, ClaimAnswer, LogSum, StateReport};
use crate::web::claims;
use crate::web::db::{Database, Job};
use crate::web::turn::*;

const CONFIG: &str = r#"[policy]
builds = { "acme/serial" = "serial", "acme/other" = "serial" }
max_running = 2
"#;
const APPS: [&str; 3] = ["serial", "other", "web"];
/// How long a deferral waits in its retry queue, in seconds.
const DEFERRAL: u64 = 10;
/// How often a running build is heard of, in seconds.
const HEARD: u64 = 5;

/// An event: when it is published, of which app, and for how long it builds, in seconds. One that is lost comes once,
/// and not again if it is told to wait.
#[derive(Debug, Clone)]
struct Published {
    at: u64,
    app: usize,
    takes: u64,
    is_lost: bool,
}

#[derive(Debug, Clone)]
struct Event {
    name: String,
    takes: u64,
    is_lost: bool,
}

struct Building {
    name: String,
    attempt: AttemptId,
    began: u64,
    until: u64,
}

/// RabbitMQ's queues, in the order in which they give events out, and the slots of all workers.
struct World<'c> {
    connection: &'c mut SqliteConnection,
    policy: PolicyConfig,
    queue: VecDeque<Event>,
    deferred: VecDeque<(u64, Event)>,
    slots: usize,
    building: Vec<Building>,
    /// The builds in the order in which they began.
    began: Vec<String>,
    now: u64,
    /// Claims within one second, each a millisecond after the one before.
    millis: u64,
}

impl World<'_> {
    fn time(&self) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_millis(self.now * 1000 + self.millis)
    }

    async fn second(&mut self) -> Result<(), Refusal> {
        (self.now, self.millis) = (self.now + 1, 0);
        while let Some((_, event)) = self.deferred.pop_front_if(|(due, _)| *due <= self.now) {
            self.queue.push_back(event);
        }
        let (over, building) =
            std::mem::take(&mut self.building).into_iter().partition(|one| one.until <= self.now);
        self.building = building;
        for one in over {
            self.report(&one.name, one.attempt, AttemptState::Published).await?;
        }
        for at in 0..self.building.len() {
            let one = &self.building[at];
            if (self.now - one.began).is_multiple_of(HEARD) {
                let (name, attempt) = (one.name.clone(), one.attempt);
                self.report(&name, attempt, AttemptState::Building).await?;
            }
        }
        while self.building.len() < self.slots
            && let Some(event) = self.queue.pop_front()
        {
            self.take(event).await?;
        }
        Ok(())
    }

    async fn take(&mut self, taken: Event) -> Result<(), Refusal> {
        self.millis += 1;
        let (attempt, text) = (AttemptId::generate(), text(&taken.name));
        let worker = "w".to_owned();
        let claim =
            Claim { event: text, worker, attempt, number: 1, requeue: None, replaces: None, late: false };
        let (of, now) = (event(&taken.name), self.time());
        match claims::claim(self.connection, &of, &claim, &self.policy, now).await?.answer {
            ClaimAnswer::Go { .. } => {
                self.began.push(taken.name.clone());
                let until = self.now + taken.takes;
                self.building.push(Building { name: taken.name, attempt, began: self.now, until });
            }
            ClaimAnswer::Wait { .. } if taken.is_lost => {}
            ClaimAnswer::Wait { .. } => self.deferred.push_back((self.now + DEFERRAL, taken)),
            other => panic!("{}: {other:?}", taken.name),
        }
        Ok(())
    }

    async fn report(&mut self, name: &str, attempt: AttemptId, state: AttemptState) -> Result<(), Refusal> {
        let (event, now) = (event(name), self.time());
        let is_end = state == AttemptState::Published;
        let result = is_end.then(|| Box::new(ResultEvent::of(&event, 1, State::Published, "w")));
        let log = is_end.then(|| LogSum { count: 0, checksum: Digest::of(b"") });
        let report = StateReport { state, at: now, commit: None, result, log };
        claims::report(self.connection, &event.id, attempt, &report, log, &self.policy, now).await.map(drop)
    }
}

/// Plays it to its end; answers which builds began, in that order.
async fn play(mut published: Vec<Published>, slots: usize) -> Vec<String> {
    published.sort_by_key(|event| event.at);
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(folder.path()).await.unwrap();
    let job: Job<Vec<String>, Refusal> = Box::new(move |connection| {
        Box::pin(async move {
            let policy = crate::config::Config::parse("f", CONFIG, []).unwrap().policy;
            let (queue, deferred) = (VecDeque::new(), VecDeque::new());
            let (building, began) = (Vec::new(), Vec::new());
            let mut world =
                World { connection, policy, queue, deferred, slots, building, began, now: 0, millis: 0 };
            let longest: u64 = published.iter().map(|event| event.at + event.takes).sum::<u64>() + 600;
            let mut published: VecDeque<_> = published.into_iter().enumerate().collect();
            loop {
                while let Some((n, new)) = published.pop_front_if(|(_, event)| event.at <= world.now) {
                    let name = format!("{}-{n:02}", APPS[new.app]);
                    world.queue.push_back(Event { name, takes: new.takes, is_lost: new.is_lost });
                }
                world.second().await?;
                let is_idle =
                    world.queue.is_empty() && world.deferred.is_empty() && world.building.is_empty();
                if published.is_empty() && is_idle {
                    return Ok(world.began);
                }
                assert!(world.now < longest, "some are never built: {:?}", world.deferred);
            }
        })
    });
    database.write(job).await.unwrap()
}

fn of_app<'a>(app: &str, names: impl IntoIterator<Item = &'a String>) -> Vec<&'a String> {
    names.into_iter().filter(|name| name.starts_with(app)).collect()
}

fn published() -> impl Strategy<Value = Vec<Published>> {
    let event = (0_u64..300, 0..APPS.len(), 1_u64..240, prop::bool::weighted(0.1));
    let event = event.prop_map(|(at, app, takes, is_lost)| Published { at, app, takes, is_lost });
    prop::collection::vec(event, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn builds_of_a_serial_app_begin_in_the_order_of_their_coming_however_busy_the_slots_are(
        published in published(),
        slots in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let began = runtime.block_on(play(published.clone(), slots));
        for app in ["serial", "other"] {
            let began = of_app(app, &began);
            // Names count what was published.
            prop_assert!(began.is_sorted(), "{began:?}");
        }
        let kept = published.iter().filter(|event| !event.is_lost).count();
        prop_assert!(began.len() >= kept, "{began:?}");
    }
}
