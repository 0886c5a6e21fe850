//! The mirrors on the disk, by how long they have not been used, and how those go that nobody needs.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::mirror::REMOVED;
use super::sources::Sources;

/// The mirrors of one repository.
#[derive(Debug, Clone)]
pub struct KeptMirrors {
    pub folder: PathBuf,
    /// The time since the last fetch.
    pub unused: Duration,
}

impl Sources {
    /// All mirrors, the longest unused first. Finishes what an earlier removal has left. Blocking.
    pub fn kept(&self) -> io::Result<Vec<KeptMirrors>> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(self.folder())? {
            let folder = entry?.path();
            if folder.extension().is_some_and(|end| end == REMOVED) {
                if let Err(error) = fs::remove_dir_all(&folder) {
                    tracing::warn!(path = %folder.display(), %error, "mirrors that were on their way out stay");
                }
                continue;
            }
            // One that goes away meanwhile, or is of a later time, is none to remove.
            let unused = fs::metadata(&folder).and_then(|found| found.modified());
            let unused = unused.map(|used| used.elapsed().unwrap_or_default());
            kept.extend(unused.map(|unused| KeptMirrors { folder, unused }));
        }
        kept.sort_by_key(|mirrors| std::cmp::Reverse(mirrors.unused));
        Ok(kept)
    }

    /// Removes mirrors, unless a fetch or a build uses them; answers whether it did. Blocking.
    pub fn remove(&self, mirrors: &KeptMirrors) -> io::Result<bool> {
        let name = mirrors.folder.file_name().and_then(|name| name.to_str());
        let is_ours = |name: &&str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(name) = name.filter(is_ours) else { return Ok(false) };
        let line = self.line_of(name.to_owned(), String::new());
        match line.slot.try_lock() {
            Ok(mut slot) => slot.clear(),
            Err(_) => Ok(false),
        }
    }
}
