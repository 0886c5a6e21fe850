//! Claims: may this worker build this event now? The same worker never runs one id twice: another
//! delivery of a running build attaches to it, and one of an ended build is answered with its outcome.
//!
//! The arbiter between several workers is the timeline service; a worker alone answers itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::build_directory::{DataDirectory, Known};
use crate::event::deploy::{BuildId, DeployEvent};
use crate::event::result::ResultEvent;
use crate::store::digest::Digest;

/// How the run of an event ended, for the other deliveries of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is dealt with (ended, put off to a retry queue, or dead-lettered): ack.
    Dealt,
    /// It was given up, for another worker to take: give the delivery back.
    GivenUp,
}

/// The answer to a claim.
pub enum Claim {
    /// Build it, as this attempt. The build is running until the guard is dropped.
    Go { running: Running, attempt: u32 },
    /// It is running here already; wait for its end.
    Attach(watch::Receiver<Option<Settled>>),
    /// It has ended; this was its result.
    Done(Box<ResultEvent>),
    /// The id belongs to another event, which is left alone.
    Conflict,
}

struct Entry {
    body: Digest,
    /// Whether `body` is known to be the id's own. Until the disk has been asked, it may be the
    /// intruder, and the other one the first.
    confirmed: bool,
    settled: watch::Receiver<Option<Settled>>,
}

/// Why a place could not be taken.
enum Taken {
    ByItself(watch::Receiver<Option<Settled>>),
    ByAnother,
    /// By another body, which is being looked up.
    NotKnownYet(watch::Receiver<Option<Settled>>),
}

type Builds = Arc<Mutex<HashMap<BuildId, Entry>>>;

/// The builds running in this process, and what the data directory knows of the others. Clones share them.
#[derive(Clone)]
pub struct Claims {
    data: Arc<DataDirectory>,
    running: Builds,
}

impl Claims {
    pub fn new(data: Arc<DataDirectory>) -> Self {
        Self { data, running: Builds::default() }
    }

    /// Claims an event, delivered as its `attempt`, for this process. `requeue` names the operator's
    /// wish to have it tried again. An error means that the build directory cannot be read.
    pub async fn claim(
        &self,
        event: &DeployEvent,
        attempt: u32,
        requeue: Option<&str>,
    ) -> anyhow::Result<Claim> {
        // The place is taken before the disk is asked, so that no second delivery comes between.
        let running = loop {
            match self.enter(event) {
                Ok(running) => break running,
                Err(Taken::ByItself(settled)) => return Ok(Claim::Attach(settled)),
                Err(Taken::ByAnother) => return Ok(Claim::Conflict),
                Err(Taken::NotKnownYet(settled)) => drop(attached(settled).await),
            }
        };
        let (directory, body) = (self.data.build(&event.id), event.body);
        let requeue = requeue.map(ToOwned::to_owned);
        let look = move || directory.look(body, requeue.as_deref());
        let known = tokio::task::spawn_blocking(look).await??;
        let next_attempt = match known {
            Known::Nothing => 1,
            Known::Unfinished { next_attempt } => next_attempt,
            Known::Ended(result) => return Ok(Claim::Done(result)),
            Known::Conflict => return Ok(Claim::Conflict),
        };
        running.confirm();
        Ok(Claim::Go { running, attempt: attempt.max(next_attempt) })
    }

    /// Whether the id is another event's, as far as this worker knows.
    pub fn knows(&self, id: &BuildId) -> bool {
        lock(&self.running).contains_key(id) || self.data.build(id).exists()
    }

    pub fn is_running(&self, id: &str) -> bool {
        lock(&self.running).keys().any(|running| running.as_str() == id)
    }

    /// Keeps an id from being built or answered while its directory is removed. `None`: it is running.
    pub fn hold(&self, id: &BuildId) -> Option<Running> {
        let mut builds = lock(&self.running);
        // No event has these bytes: whatever is delivered waits until the hold is dropped, and looks then.
        (!builds.contains_key(id)).then(|| self.insert(&mut builds, id, Digest::of(b"")))
    }

    fn enter(&self, event: &DeployEvent) -> Result<Running, Taken> {
        let mut builds = lock(&self.running);
        if let Some(entry) = builds.get(&event.id) {
            return Err(match (entry.body == event.body, entry.confirmed) {
                (true, _) => Taken::ByItself(entry.settled.clone()),
                (false, true) => Taken::ByAnother,
                (false, false) => Taken::NotKnownYet(entry.settled.clone()),
            });
        }
        Ok(self.insert(&mut builds, &event.id, event.body))
    }

    fn insert(&self, builds: &mut HashMap<BuildId, Entry>, id: &BuildId, body: Digest) -> Running {
        let (settle, settled) = watch::channel(None);
        builds.insert(id.clone(), Entry { body, confirmed: false, settled });
        Running { id: id.clone(), settle, builds: self.running.clone() }
    }
}

/// A build that this process runs. Dropping it without [`settle`](Self::settle) gives it up.
pub struct Running {
    id: BuildId,
    settle: watch::Sender<Option<Settled>>,
    builds: Builds,
}

impl Running {
    fn confirm(&self) {
        if let Some(entry) = lock(&self.builds).get_mut(&self.id) {
            entry.confirmed = true;
        }
    }

    /// Tells the attached deliveries how it ended, and ends the claim.
    pub fn settle(self, settled: Settled) {
        self.settle.send_replace(Some(settled));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.builds).remove(&self.id);
        self.settle
            .send_if_modified(|settled| settled.is_none() && settled.replace(Settled::GivenUp).is_none());
    }
}

/// The end of the build that a delivery has attached to.
pub async fn attached(mut settled: watch::Receiver<Option<Settled>>) -> Settled {
    match settled.wait_for(Option::is_some).await {
        Ok(settled) => settled.unwrap_or(Settled::GivenUp),
        Err(_) => Settled::GivenUp,
    }
}

/// A panic in another thread cannot leave the map half changed: each change is one call.
fn lock(builds: &Mutex<HashMap<BuildId, Entry>>) -> MutexGuard<'_, HashMap<BuildId, Entry>> {
    builds.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(app: &str) -> DeployEvent {
        let json = format!(
            r#"{{"version":1,"id":"b-1","namespace":"smoke","app":"{app}",
                "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{{}}}}"#
        );
        DeployEvent::parse(json.as_bytes()).unwrap().0
    }

    #[tokio::test]
    async fn one_id_runs_once() {
        let folder = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDirectory::open(folder.path()).unwrap());
        let claims = Claims::new(data.clone());
        let event = event("web");
        let Claim::Go { running, attempt: 1 } = claims.claim(&event, 1, None).await.unwrap() else {
            panic!("the first goes")
        };
        assert!(claims.is_running("b-1"));
        let Claim::Attach(wait) = claims.claim(&event, 1, None).await.unwrap() else {
            panic!("the second attaches")
        };
        assert!(matches!(claims.claim(&self::event("api"), 1, None).await.unwrap(), Claim::Conflict));
        running.settle(Settled::Dealt);
        assert_eq!(attached(wait).await, Settled::Dealt);
        assert!(!claims.is_running("b-1"));

        let Claim::Go { running, attempt: 1 } = claims.claim(&event, 1, None).await.unwrap() else {
            panic!("not ended, so it goes again")
        };
        let Claim::Attach(wait) = claims.claim(&event, 1, None).await.unwrap() else { panic!("attaches") };
        assert!(claims.hold(&event.id).is_none(), "it is running");
        drop(running);
        assert_eq!(attached(wait).await, Settled::GivenUp);
    }

    #[tokio::test]
    async fn an_event_waits_while_its_directory_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDirectory::open(folder.path()).unwrap());
        let claims = Claims::new(data);
        let event = event("web");
        let held = claims.hold(&event.id).unwrap();
        let mut claim = Box::pin(claims.claim(&event, 1, None));
        assert!(futures::poll!(&mut claim).is_pending());
        drop(held);
        assert!(matches!(claim.await.unwrap(), Claim::Go { attempt: 1, .. }));
    }
}
