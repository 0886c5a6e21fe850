//! One put on condition, whose answer may be lost.
//!
//! The library would send it again by itself, and then take what its first request has put for another's. So each request
//! is sent once here, and where one may have been done without an answer, it is looked what stands there.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error, ObjectStore as _, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion};

use super::bucket::{Objects, absent_is_none};
use super::client::{Client, TRIES};
use crate::store::error::StoreError;
use crate::store::layout::Key;

/// How long is waited before the second request, and twice as long at most before each further one.
const PAUSE: Duration = Duration::from_millis(100);

impl Objects {
    /// Puts `bytes` at `key` on condition; `None` where it does not hold. Whoever puts the same bytes at once may be told
    /// that it has, too.
    pub(super) fn put_on(
        &self,
        key: &Key,
        bytes: &[u8],
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, StoreError> {
        let (client, path, bytes) = (self.client.clone(), self.at(key), Bytes::copy_from_slice(bytes));
        let put = self.wait(async move { client.put_on(&path, bytes, mode).await });
        put.map_err(self.failed("write", key))
    }
}

impl Client {
    /// The same. After an error it may have been put.
    pub(super) async fn put_on(
        &self,
        path: &Path,
        bytes: Bytes,
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, Error> {
        let pauses = ExponentialBuilder::default().with_min_delay(PAUSE).with_jitter().with_max_times(TRIES);
        let mut pauses = pauses.build();
        // Whether it may have been done by a request before.
        let mut is_unsure = false;
        loop {
            let payload = PutPayload::from(bytes.clone());
            // None: no further request.
            let pause = pauses.next();
            match self.once.put_opts(path, payload, mode.clone().into()).await {
                Ok(put) => return Ok(Some(put.into())),
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    let found = self.standing(path, &bytes).await?;
                    let holds = match (&found, &mode) {
                        (None, PutMode::Create) => true,
                        (Some((version, _)), PutMode::Update(seen)) => version == seen,
                        _ => false,
                    };
                    match found {
                        Some((own, true)) if is_unsure => return Ok(Some(own)),
                        // S3 refuses one of two who put at the same moment (409), whether it holds or not.
                        _ if holds && pause.is_some() => {}
                        _ => return Ok(None),
                    }
                }
                // No answer, or one such as 500 or 503.
                Err(Error::Generic { .. }) if pause.is_some() => is_unsure = true,
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause.unwrap_or_default()).await;
        }
    }

    /// The version of what stands there, and whether it is `bytes`.
    pub(super) async fn standing(
        &self,
        path: &Path,
        bytes: &Bytes,
    ) -> Result<Option<(UpdateVersion, bool)>, Error> {
        let Some(found) = absent_is_none(self.patient.get(path).await)? else { return Ok(None) };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        // What is not of this length may be large.
        let is_same = found.meta.size == bytes.len() as u64 && found.bytes().await? == *bytes;
        Ok(Some((version, is_same)))
    }
}
