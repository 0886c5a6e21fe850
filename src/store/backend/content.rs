//! Reading what is large: a blob as it was when it was opened, and by what it is seen that it has not changed since.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use object_store::ObjectMeta;
use rustix::fs::{Advice, fadvise};

use super::objects::{ObjectReader, Objects};

/// A file that was changed so lately may be changed once more at what its times call the same time.
pub(in crate::store) const SETTLED: Duration = Duration::from_secs(1);

/// An object that is open, whatever is put at its key meanwhile.
pub(in crate::store) enum Content<'a> {
    File(File),
    /// One that is replaced while it is read ends with an error of the kind `NotFound`.
    Object(&'a Objects, ObjectMeta),
}

impl Content<'_> {
    /// Reads it from its beginning.
    pub(in crate::store) fn reader(&self) -> io::Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::File(file) => {
                let mut file = file;
                file.rewind()?;
                Box::new(file)
            }
            Self::Object(objects, meta) => Box::new(ObjectReader::new(objects, meta)?),
        })
    }

    /// Lets nothing of it stay in the system's memory.
    pub(in crate::store) fn forget(&self) {
        if let Self::File(file) = self {
            // Only advice.
            let _ = fadvise(file, 0, None, Advice::DontNeed);
        }
    }
}

/// An object as it was: one with the same stamp has not been written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Stamp {
    /// Device, inode, length, and when content and inode changed last.
    File([i64; 7]),
    Object {
        e_tag: Option<String>,
        modified: SystemTime,
        length: u64,
    },
}

impl Stamp {
    pub(in crate::store) fn of_file(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self::File([
            found.dev().cast_signed(),
            found.ino().cast_signed(),
            found.len().cast_signed(),
            found.mtime(),
            found.mtime_nsec(),
            found.ctime(),
            found.ctime_nsec(),
        ]))
    }

    pub(super) fn of_object(meta: ObjectMeta) -> Self {
        Self::Object { e_tag: meta.e_tag, modified: meta.last_modified.into(), length: meta.size }
    }

    /// Whether it was changed long enough ago, as of now.
    pub(in crate::store) fn is_settled(&self) -> bool {
        match self {
            Self::File([.., seconds, nanoseconds]) => {
                let seconds = (*seconds).try_into().unwrap_or(0);
                let since = Duration::new(seconds, (*nanoseconds).try_into().unwrap_or(0));
                (UNIX_EPOCH + since).elapsed().is_ok_and(|age| age > SETTLED)
            }
            // Other bytes have another tag.
            Self::Object { .. } => true,
        }
    }
}
