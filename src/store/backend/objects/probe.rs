//! Whether a service keeps the conditions of puts: some that are like S3 take them and do not.

use object_store::{PutMode, UpdateVersion};

use super::bucket::Objects;
use crate::store::credentials::random_text;
use crate::store::error::StoreError;
use crate::store::layout;

impl Objects {
    /// Puts an object on conditions that do not hold, and removes it, which is needed as well.
    ///
    /// # Errors
    /// [`StoreError::Unconditional`] where one of them was put.
    pub(in crate::store) fn probe(&self) -> Result<(), StoreError> {
        let key = layout::temporary_files().below(&format!("probe-{}", random_text::<10>()));
        let refused = |what: &'static str| StoreError::Unconditional { place: self.url().to_owned(), what };
        let probed = (|| {
            let first = self.put_on(&key, b"one\n", PutMode::Create)?;
            let first = first.ok_or_else(|| refused("takes a first put for a second (If-None-Match)"))?;
            if self.put_on(&key, b"two\n", PutMode::Create)?.is_some() {
                return Err(refused("puts over what is there already (If-None-Match)"));
            }
            if self.put_on(&key, b"two\n", PutMode::Update(first.clone()))?.is_none() {
                return Err(refused("does not put over what has not changed (If-Match)"));
            }
            match self.put_on(&key, b"three\n", PutMode::Update(first))? {
                Some(UpdateVersion { .. }) => Err(refused("puts over what has changed (If-Match)")),
                None => Ok(()),
            }
        })();
        // Where that fails, a sweep removes it.
        let removed = self.delete(&key);
        probed.and(removed)
    }
}
