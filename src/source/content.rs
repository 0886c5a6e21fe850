//! What stands in the files and links of a context, read within its limits.

use git2::{Blob, Oid};

use super::error::SourceError;
use super::tree::{Git, MAX_LINK};
use super::walk::shown;

/// The longest that an LFS pointer may be, in bytes.
const MAX_POINTER: u64 = 1024;

impl<'p> Git<'p> {
    /// A file of the context.
    pub(super) fn file(self, id: Oid, path: &[u8]) -> Result<Blob<'p>, SourceError> {
        self.blob(id, &shown(path), self.source.config.max_file, Some("max_file"))
    }

    /// The target of a symbolic link of the context.
    pub(super) fn link(self, id: Oid, path: &[u8]) -> Result<Blob<'p>, SourceError> {
        let path = shown(path);
        let target = self.link_target(id, &path)?;
        let reason = match target.content() {
            [] => "it is a symbolic link without a target",
            target if target.contains(&0) => "the target of the symbolic link contains NUL",
            target if target.len() >= MAX_LINK => "the target of the symbolic link is too long",
            _ => return Ok(target),
        };
        Err(SourceError::BadName { path, reason })
    }

    /// Whether a file is as short as a pointer to one kept elsewhere.
    pub(super) fn may_be_lfs_pointer(self, id: Oid) -> Result<bool, SourceError> {
        Ok(self.size(id)? <= MAX_POINTER)
    }
}

/// Whether a file is a pointer to one kept elsewhere, by the specification of Git LFS: its first line.
pub(super) fn is_lfs_pointer(content: &[u8]) -> bool {
    content.len() as u64 <= MAX_POINTER
        && content.starts_with(b"version https://git-lfs.github.com/spec/v1\n")
}
