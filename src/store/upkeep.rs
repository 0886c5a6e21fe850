//! What is done to a store beside its use: removing what crashes have left, and measuring it.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use super::handle::Store;
use super::inventory;
use super::unread::PassedOver;

impl Store {
    /// Removes the temporary files that crashes have left, and none that is being written. Of each, `told`
    /// hears its length in bytes, or why it stays. Ends soon after `cancel` is cancelled. Needs no space. Blocking.
    pub fn sweep(
        &self,
        cancel: &CancellationToken,
        told: impl FnMut(&Path, Result<u64, StoreError>),
    ) -> Result<(), StoreError> {
        self.backend().sweep(cancel, told)
    }

    /// The length of all blobs together, in bytes; `None` where `cancel` was cancelled before all were seen. Asks
    /// for the length of each: meant for once an hour. What cannot be read counts nothing. Blocking.
    pub fn blob_bytes(&self, cancel: &CancellationToken) -> Result<Option<u64>, StoreError> {
        let mut bytes = 0_u64;
        let mut passed = PassedOver::new(self.backend());
        inventory::blobs(&mut passed, |_, length| {
            bytes = bytes.saturating_add(length);
            Ok(!cancel.is_cancelled())
        })?;
        Ok((!cancel.is_cancelled()).then_some(bytes))
    }
}
