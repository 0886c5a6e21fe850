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
    /// Build it. The build is running until the guard is dropped.
    Go(Running),
    /// It is running here already; wait for its end.
    Attach(watch::Receiver<Option<Settled>>),
    /// It has ended; this was its result.
    Done(Box<ResultEvent>),
    /// The id belongs to another event, which is left alone.
    Conflict,
}

struct Entry {
    body: Digest,
    settled: watch::Receiver<Option<Settled>>,
}

type Builds = Arc<Mutex<HashMap<BuildId, Entry>>>;

/// The builds running in this process, and what the data directory knows of the others.
pub struct Claims {
    data: Arc<DataDirectory>,
    running: Builds,
}

impl Claims {
    pub fn new(data: Arc<DataDirectory>) -> Self {
        Self { data, running: Builds::default() }
    }

    /// Claims an event for this process. An error means that the build directory cannot be read.
    pub async fn claim(&self, event: &DeployEvent) -> anyhow::Result<Claim> {
        // The place is taken before the disk is asked, so that no second delivery comes between.
        let running = match self.enter(event) {
            Ok(running) => running,
            Err(claim) => return Ok(claim),
        };
        let (directory, body) = (self.data.build(&event.id), event.body);
        let known = tokio::task::spawn_blocking(move || directory.look(body)).await??;
        Ok(match known {
            Known::Nothing | Known::Unfinished => Claim::Go(running),
            Known::Ended(result) => Claim::Done(result),
            Known::Conflict => Claim::Conflict,
        })
    }

    pub fn is_running(&self, id: &str) -> bool {
        lock(&self.running).keys().any(|running| running.as_str() == id)
    }

    fn enter(&self, event: &DeployEvent) -> Result<Running, Claim> {
        let mut builds = lock(&self.running);
        if let Some(entry) = builds.get(&event.id) {
            return Err(match entry.body == event.body {
                true => Claim::Attach(entry.settled.clone()),
                false => Claim::Conflict,
            });
        }
        let (settle, settled) = watch::channel(None);
        builds.insert(event.id.clone(), Entry { body: event.body, settled });
        Ok(Running { id: event.id.clone(), settle, builds: self.running.clone() })
    }
}

/// A build that this process runs. Dropping it without [`settle`](Self::settle) gives it up.
pub struct Running {
    id: BuildId,
    settle: watch::Sender<Option<Settled>>,
    builds: Builds,
}

impl Running {
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
        let Claim::Go(running) = claims.claim(&event).await.unwrap() else { panic!("the first goes") };
        assert!(claims.is_running("b-1"));
        let Claim::Attach(wait) = claims.claim(&event).await.unwrap() else { panic!("the second attaches") };
        assert!(matches!(claims.claim(&self::event("api")).await.unwrap(), Claim::Conflict));
        running.settle(Settled::Dealt);
        assert_eq!(attached(wait).await, Settled::Dealt);
        assert!(!claims.is_running("b-1"));

        let Claim::Go(running) = claims.claim(&event).await.unwrap() else {
            panic!("not ended, so it goes again")
        };
        let Claim::Attach(wait) = claims.claim(&event).await.unwrap() else { panic!("attaches") };
        drop(running);
        assert_eq!(attached(wait).await, Settled::GivenUp);
    }
}
