//! How events ended: the first end that is put stands, whichever worker puts it. A worker that cannot ask
//! the timeline service learns here that an event which it got after another's crash has ended.

use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::backend::Swap;
use super::error::StoreError;
use super::handle::Store;
use super::layout;
use crate::event::deploy::BuildId;

impl Store {
    /// The end of an event, if one was put. `requeue` names the operator's wish that it be tried again.
    pub async fn end(&self, id: &BuildId, requeue: Option<&str>) -> Result<Option<Vec<u8>>, StoreError> {
        let key = layout::end(id, requeue);
        self.blocking(move |directory| directory.read(&key)).await
    }

    /// Puts the end of an event, durably, unless one stands, which is then the answer.
    pub async fn put_end(
        &self,
        id: &BuildId,
        requeue: Option<&str>,
        end: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let key = layout::end(id, requeue);
        self.blocking(move |directory| {
            Ok(match directory.put_if_absent(&[], &key, &end)? {
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
        self.blocking(move |directory| {
            Ok(match directory.compare_and_set(&layout::ends_lock(), &[], &key, &damaged, &end)? {
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
        let directory = self.directory();
        for shard in directory.list(&layout::ends())? {
            let shard = layout::ends_in(&shard);
            for name in directory.list(&shard)? {
                if drain.is_cancelled() {
                    return Ok(());
                }
                let path = directory.path(&shard).join(name);
                let Ok(metadata) = path.metadata() else { continue };
                let is_old = metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|old| old > age));
                if is_old {
                    let removed = std::fs::remove_file(&path).map(|()| metadata.len());
                    told(&path, removed.map_err(|error| StoreError::io("remove", &path, error)));
                }
            }
        }
        Ok(())
    }
}
