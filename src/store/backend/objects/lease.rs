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
        let beats = beat(client, path, version, clock.clone(), stop.clone(), BEAT);
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

/// Renews the lease every so often until it is stopped, and gives it back then.
async fn beat(
    client: Arc<Client>,
    path: Path,
    mut version: UpdateVersion,
    clock: Clock,
    stop: CancellationToken,
    every: Duration,
) {
    // What a renewal without an answer may have put. The next one puts the same, so that there is never more than that.
    let mut unsure: Option<Bytes> = None;
    while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
        let renewal = unsure.clone().unwrap_or_else(|| body().into());
        match client.put_on(&path, renewal.clone(), PutMode::Update(version.clone())).await {
            Ok(Some(done)) => (version, unsure) = (done, None),
            Ok(None) => match own(&client, &path, &mut unsure).await {
                Ok(Some(own)) => version = own,
                // Another process has it, since this one was stopped for long.
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(%error, "it cannot be read whose a lease in the object store is; it is tried again");
                    continue;
                }
            },
            Err(error) => {
                tracing::debug!(%error, "a lease in the object store could not be renewed; it is tried again");
                unsure = Some(renewal);
                continue;
            }
        }
        if let Ok(meta) = client.patient.head(&path).await {
            *clock.lock().unwrap_or_else(PoisonError::into_inner) =
                (meta.last_modified.into(), Instant::now());
        }
    }
    if let Ok(Some(own)) = own(&client, &path, &mut unsure).await {
        version = own;
    }
    if let Err(error) = client.put_on(&path, Bytes::new(), PutMode::Update(version)).await {
        tracing::debug!(%error, "a lease in the object store could not be given back; it gets old");
    }
}

/// The version of what stands there, if it is the renewal of which that was not sure.
async fn own(
    client: &Client,
    path: &Path,
    unsure: &mut Option<Bytes>,
) -> Result<Option<UpdateVersion>, object_store::Error> {
    let Some(renewal) = unsure.as_ref() else { return Ok(None) };
    let standing = client.standing(path, renewal).await?;
    *unsure = None;
    Ok(standing.and_then(|(version, is_own)| is_own.then_some(version)))
}

/// Different each time, so that each has a version of its own.
fn body() -> Vec<u8> {
    format!("{{\"lease\":\"{}\"}}\n", random_text::<10>()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::backend::s3::S3;

    /// Renews until `each` answers that it is enough, and gives back.
    fn renewed(server: &S3, until: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let objects = Objects::connect(&server.store()).unwrap();
        let key = layout::collection_lease();
        let version = objects.put_on(&key, b"taken\n", PutMode::Create).unwrap().unwrap();
        let lease = server.files().join(key.as_str());
        // It is done without an answer, and then nothing is.
        let put = format!("PUT /images/grid/{}", key.as_str());
        server.lose_answer(&put, || ());
        for _ in 0..super::super::client::TRIES {
            server.refuse(&put, 503, "SlowDown");
        }
        let (stop, clock) =
            (CancellationToken::new(), Arc::new(Mutex::new((SystemTime::now(), Instant::now()))));
        let (client, path) = (objects.client.clone(), objects.at(&key));
        let beats = beat(client, path, version, clock, stop.clone(), Duration::from_millis(50));
        let beats = objects.runtime().spawn(beats);
        let began = Instant::now();
        while !(server.are_faults_over() && until(&std::fs::read(&lease).unwrap())) {
            assert!(began.elapsed() < Duration::from_secs(30), "it is not renewed any more");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.cancel();
        objects.runtime().block_on(beats).unwrap();
        std::fs::read(&lease).unwrap()
    }

    #[test]
    fn a_renewal_whose_answers_were_lost_is_its_own() {
        let first = Mutex::new(None);
        let server = S3::start();
        let left = renewed(&server, |lease| {
            let mut first = first.lock().unwrap();
            lease != first.get_or_insert_with(|| lease.to_vec()).as_slice()
        });
        assert_eq!(left, b"", "it was renewed after that, and given back");
        // At once after it, too.
        let server = S3::start();
        assert_eq!(renewed(&server, |_| true), b"");
    }
}
