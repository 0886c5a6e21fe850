//! That one process alone does something: an object that it puts on condition and renews, and that another takes over
//! once it is old by the clock of the service. It saves work; nothing is wrong where two believe to have it.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, UpdateVersion};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bucket::Objects;
use super::client::Client;
use crate::store::credentials::random_text;
use crate::store::error::StoreError;
use crate::store::layout::{self, Key};

/// Every how long it is renewed.
const BEAT: Duration = Duration::from_secs(20);
/// One that was not renewed for so long has no holder any more.
const OLD: Duration = Duration::from_secs(120);
/// How long its end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time of the service, and when it was that.
type Clock = Arc<Mutex<(SystemTime, Instant)>>;

pub(in crate::store) struct ObjectLease {
    clock: Clock,
    beating: Option<DropGuard>,
    ended: Receiver<()>,
}

impl ObjectLease {
    /// The time by the clock of the service, which tells when it was put something.
    pub(in crate::store) fn now(&self) -> SystemTime {
        let (then, at) = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        then + at.elapsed()
    }
}

impl Drop for ObjectLease {
    fn drop(&mut self) {
        self.beating = None;
        // Where it cannot be given back, it gets old.
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

impl Objects {
    /// Takes the lease at `key`, unless another process has it: `None`.
    pub(in crate::store) fn lease(&self, key: &Key) -> Result<Option<ObjectLease>, StoreError> {
        let (version, put_at) = loop {
            let Some(version) = self.take(key)? else { return Ok(None) };
            // Where somebody has removed it by hand, it is not taken.
            if let Some(put_at) = self.modified(key)? {
                break (version, put_at);
            }
        };
        let (client, path) = (self.client.clone(), self.at(key));
        let clock: Clock = Arc::new(Mutex::new((put_at, Instant::now())));
        let stop = CancellationToken::new();
        let (over, ended) = std::sync::mpsc::sync_channel(1);
        let beats = beat(client, path, version, clock.clone(), stop.clone());
        self.runtime().spawn(async move {
            beats.await;
            let _ = over.send(());
        });
        Ok(Some(ObjectLease { clock, beating: Some(stop.drop_guard()), ended }))
    }

    fn take(&self, key: &Key) -> Result<Option<UpdateVersion>, StoreError> {
        let bytes = body();
        if let Some(version) = self.put_on(key, &bytes, PutMode::Create)? {
            return Ok(Some(version));
        }
        match self.fetch(key)? {
            None => self.put_on(key, &bytes, PutMode::Create),
            Some(found) => {
                // An empty one was given back.
                let is_free = found.bytes.is_empty()
                    || self.clock()?.duration_since(found.modified).is_ok_and(|age| age > OLD);
                match is_free {
                    true => self.put_on(key, &bytes, PutMode::Update(found.version)),
                    false => Ok(None),
                }
            }
        }
    }

    /// The time by the clock of the service: that of an object which is put for it.
    fn clock(&self) -> Result<SystemTime, StoreError> {
        let key = layout::temporary_files().below(&format!("clock-{}", random_text::<10>()));
        self.put(&[(&key, b"\n")])?;
        let now = self.modified(&key)?;
        self.delete(&key)?;
        now.ok_or_else(|| StoreError::Object {
            action: "read",
            place: self.place(&key),
            reason: "it was put a moment ago and is gone".to_owned(),
        })
    }
}

/// Renews the lease until it is stopped, and gives it back then.
async fn beat(
    client: Arc<Client>,
    path: Path,
    mut version: UpdateVersion,
    clock: Clock,
    stop: CancellationToken,
) {
    while stop.run_until_cancelled(tokio::time::sleep(BEAT)).await.is_some() {
        match client.put_on(&path, body().into(), PutMode::Update(version.clone())).await {
            Ok(Some(done)) => version = done,
            // Another process has it, since this one was stopped for long.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "a lease in the object store could not be renewed; it is tried again");
                continue;
            }
        }
        if let Ok(meta) = client.patient.head(&path).await {
            *clock.lock().unwrap_or_else(PoisonError::into_inner) =
                (meta.last_modified.into(), Instant::now());
        }
    }
    if let Err(error) = client.put_on(&path, Bytes::new(), PutMode::Update(version)).await {
        tracing::debug!(%error, "a lease in the object store could not be given back; it gets old");
    }
}

/// Different each time, so that each has a version of its own.
fn body() -> Vec<u8> {
    format!("{{\"lease\":\"{}\"}}\n", random_text::<10>()).into_bytes()
}
