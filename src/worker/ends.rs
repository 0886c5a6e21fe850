//! How events ended, as all workers of one store know it. The claim at the timeline service keeps two workers
//! from building one event; when it cannot be asked, they may, and then this makes sure that there is one
//! end: whichever worker comes to an end first, its end is everybody's.

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::event::deploy::{BuildId, DeployEvent};
use crate::event::result::ResultEvent;
use crate::store::Store;
use crate::store::digest::Digest;

#[derive(Clone)]
pub struct Ends {
    store: Store,
}

/// What the store knows of an event's end.
#[derive(Debug, PartialEq)]
pub enum Found {
    Nothing,
    Ended(Box<ResultEvent>),
    /// The id is another event's, which has ended.
    Conflict,
}

#[derive(Serialize, Deserialize)]
struct End {
    /// The digest of the event's bytes.
    event: Digest,
    result: ResultEvent,
}

impl Ends {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// How the event has ended, if it has. With a `requeue`, an end that another attempt may change is none.
    pub async fn find(&self, event: &DeployEvent, requeue: Option<&str>) -> anyhow::Result<Found> {
        if requeue.is_some()
            && let Some(end) = self.read(&event.id, requeue).await?
        {
            return Ok(end.found_by(event));
        }
        Ok(match self.read(&event.id, None).await? {
            Some(end) if requeue.is_some() && end.event == event.body && end.result.may_change() => {
                Found::Nothing
            }
            Some(end) => end.found_by(event),
            None => Found::Nothing,
        })
    }

    /// Keeps the event's end, unless it has one, and answers with the one that stands.
    pub async fn settle(
        &self,
        event: &DeployEvent,
        requeue: Option<&str>,
        result: ResultEvent,
    ) -> anyhow::Result<ResultEvent> {
        let end = End { event: event.body, result };
        let bytes = serde_json::to_vec(&end).context("write the event's end")?;
        let mut found = self.store.put_end(&event.id, requeue, bytes.clone()).await?;
        if let Some(damaged) = found.take_if(|found| parse(&event.id, found).is_none()) {
            found = self.store.mend_end(&event.id, requeue, damaged, bytes).await?;
        }
        match found.and_then(|found| parse(&event.id, &found)) {
            Some(stands) if stands.event == event.body => Ok(stands.result),
            // It is this one; or both were built at once under one id, unnoticed, and each has its own end.
            _ => Ok(end.result),
        }
    }

    async fn read(&self, id: &BuildId, requeue: Option<&str>) -> anyhow::Result<Option<End>> {
        Ok(self.store.end(id, requeue).await?.and_then(|bytes| parse(id, &bytes)))
    }
}

impl End {
    fn found_by(self, event: &DeployEvent) -> Found {
        match self.event == event.body {
            true => Found::Ended(Box::new(self.result)),
            false => Found::Conflict,
        }
    }
}

/// A damaged one is none, and the next end takes its place.
fn parse(id: &BuildId, bytes: &[u8]) -> Option<End> {
    match serde_json::from_slice(bytes) {
        Ok(end) => Some(end),
        Err(error) => {
            tracing::warn!(%error, build_id = %id, "the end of an event in the store cannot be read; ignored");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::result::{Kind, State};
    use crate::store::StoreConfig;

    fn event(id: &str, app: &str) -> DeployEvent {
        let json = format!(
            r#"{{"version":1,"id":"{id}","namespace":"smoke","app":"{app}",
                "commit":"9fceb02d0ae598e95dc970b74767f19372d61af8","fake":{{}}}}"#
        );
        DeployEvent::parse(json.as_bytes()).unwrap().0
    }

    fn ended(event: &DeployEvent, state: State, kind: Option<Kind>, worker: &str) -> ResultEvent {
        ResultEvent { kind, ..ResultEvent::of(event, 1, state, worker) }
    }

    fn workers() -> (tempfile::TempDir, Ends, Ends) {
        let folder = tempfile::tempdir().unwrap();
        let open = || Ends::new(Store::open(&StoreConfig::at(folder.path().to_owned())).unwrap());
        let (one, two) = (open(), open());
        (folder, one, two)
    }

    #[tokio::test]
    async fn the_first_end_is_everybodys() {
        let (_folder, one, two) = workers();
        let event = event("b-1", "web");
        assert_eq!(two.find(&event, None).await.unwrap(), Found::Nothing);
        let cancelled = ended(&event, State::Cancelled, None, "one");
        assert_eq!(one.settle(&event, None, cancelled.clone()).await.unwrap(), cancelled);
        assert_eq!(two.find(&event, None).await.unwrap(), Found::Ended(Box::new(cancelled.clone())));
        let failed = ended(&event, State::Failed, Some(Kind::Build), "two");
        assert_eq!(two.settle(&event, None, failed).await.unwrap(), cancelled);
        assert_eq!(two.find(&self::event("b-1", "api"), None).await.unwrap(), Found::Conflict);
    }

    #[tokio::test]
    async fn a_requeue_opens_what_it_can_change() {
        let (_folder, one, two) = workers();
        let event = event("b-1", "web");
        let broken = ended(&event, State::Failed, Some(Kind::Infrastructure), "one");
        one.settle(&event, None, broken.clone()).await.unwrap();
        assert_eq!(two.find(&event, Some("../again")).await.unwrap(), Found::Nothing);
        let failed = ended(&event, State::Failed, Some(Kind::Build), "two");
        assert_eq!(two.settle(&event, Some("../again"), failed.clone()).await.unwrap(), failed);
        assert_eq!(one.find(&event, Some("../again")).await.unwrap(), Found::Ended(Box::new(failed)));
        assert_eq!(one.find(&event, None).await.unwrap(), Found::Ended(Box::new(broken)));

        let event = self::event("b-2", "web");
        let failed = ended(&event, State::Failed, Some(Kind::Build), "one");
        one.settle(&event, None, failed.clone()).await.unwrap();
        assert_eq!(two.find(&event, Some("again")).await.unwrap(), Found::Ended(Box::new(failed)));
    }

    #[tokio::test]
    async fn a_damaged_end_is_none() {
        let (folder, one, two) = workers();
        let event = event("b-1", "web");
        one.settle(&event, None, ended(&event, State::Cancelled, None, "one")).await.unwrap();
        let key = crate::store::layout::end(&event.id, None);
        std::fs::write(folder.path().join(key.as_str()), b"{\"event\":").unwrap();
        assert_eq!(one.find(&event, None).await.unwrap(), Found::Nothing);
        let failed = ended(&event, State::Failed, Some(Kind::Build), "two");
        assert_eq!(two.settle(&event, None, failed.clone()).await.unwrap(), failed);
        assert_eq!(one.find(&event, None).await.unwrap(), Found::Ended(Box::new(failed)));
    }
}
