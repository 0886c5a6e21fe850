//! How events ended: the first end that is put stands, whichever worker puts it. A worker that cannot ask
//! the timeline service learns here that an event which it got after another's crash has ended.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backend::{Seen, Swap};
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use super::unread::PassedOver;
use crate::event::deploy::BuildId;

impl Store {
    /// The end of an event, if one was put. `requeue` names the operator's wish that it be tried again.
    pub async fn end(&self, id: &BuildId, requeue: Option<&str>) -> Result<Option<Vec<u8>>, StoreError> {
        let key = layout::end(id, requeue);
        self.blocking(move |backend| backend.read(&key)).await
    }

    /// Puts the end of an event, durably, unless one stands, which is then the answer.
    pub async fn put_end(
        &self,
        id: &BuildId,
        requeue: Option<&str>,
        end: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let key = layout::end(id, requeue);
        self.blocking(move |backend| {
            Ok(match backend.put_if_absent(&[], &key, &end)? {
                Swap::Done => None,
                Swap::Found(found) => Some(found),
            })
        })
        .await
    }

    /// Replaces an end that cannot be read, if it is still `damaged`; else answers with what stands there.
    pub async fn mend_end(
        &self,
        id: &BuildId,
        requeue: Option<&str>,
        damaged: Vec<u8>,
        end: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let key = layout::end(id, requeue);
        self.blocking(move |backend| {
            Ok(match backend.compare_and_set(&layout::ends_lock(), &[], &key, &damaged, &end)? {
                Swap::Done => None,
                Swap::Found(found) => Some(found),
            })
        })
        .await
    }

    /// Removes the ends that are older than `age`, until `drain`; of each, `told` hears its length in bytes,
    /// or why it stays. Blocking.
    pub fn forget_ends(
        &self,
        age: Duration,
        drain: &CancellationToken,
        mut told: impl FnMut(&Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        let backend = self.backend();
        let ends = layout::ends();
        let (mut passed, mut old) = (PassedOver::new(backend), Vec::new());
        backend.walk(&ends, &mut |path, seen| {
            let end = match seen {
                Seen::Object(end) => end,
                Seen::Folder => return Ok(true),
                Seen::Unread(error) => return passed.tell(error).map(|()| !drain.is_cancelled()),
            };
            if end.modified.elapsed().is_ok_and(|elapsed| elapsed > age) {
                old.push(ends.below(path));
            }
            Ok(!drain.is_cancelled())
        })?;
        for unread in &passed.told {
            tracing::warn!(
                path = unread.path,
                reason = unread.reason,
                "an end of an event cannot be read, and stays"
            );
        }
        for key in old {
            if drain.is_cancelled() {
                return Ok(());
            }
            match backend.discard(&key) {
                Ok(None) => {}
                Ok(Some(bytes)) => told(&backend.place(&key), Ok(bytes)),
                Err(error) => told(&backend.place(&key), Err(error)),
            }
        }
        Ok(())
    }
}
