//! The mirrors on the disk, by how long they have not been used: how those go that nobody needs, and how the others are
//! packed.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::mirror::{Kind, REMOVED};
use super::packing::Extent;
use super::sources::{Line, Sources};

/// The pause between two looks whether a fetch has ended.
const TURN: Duration = Duration::from_millis(50);

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
        let Some(line) = self.line_at(mirrors) else { return Ok(false) };
        match line.slot.try_lock() {
            Ok(mut slot) => slot.clear(),
            Err(_) => Ok(false),
        }
    }

    /// Packs mirrors in which many fetches have left something; answers how many it did. Fetches go on meanwhile, and
    /// those that read the old ones keep them until they have ended. `stop` is asked often, and ends it. Blocking.
    pub fn pack(&self, mirrors: &KeptMirrors, stop: &dyn Fn() -> bool) -> anyhow::Result<usize> {
        let Some(line) = self.line_at(mirrors) else { return Ok(0) };
        let mut count = 0;
        for kind in Kind::ALL {
            let mirror = match line.slot.try_lock() {
                Ok(mut slot) => slot.get(kind)?,
                // Another time.
                Err(_) => return Ok(count),
            };
            let Some(mirror) = mirror else { continue };
            let packed = match mirror.pack(kind, Extent::Whole, &mirrors.folder, stop) {
                Err(_) if stop() => return Ok(count),
                packed => packed?,
            };
            let Some(packed) = packed else { continue };
            let mut slot = loop {
                match line.slot.try_lock() {
                    Ok(slot) => break slot,
                    Err(_) if stop() => return Ok(count),
                    Err(_) => std::thread::sleep(TURN),
                }
            };
            count += usize::from(slot.follow(kind, &mirror, packed)?.is_some());
        }
        Ok(count)
    }

    fn line_at(&self, mirrors: &KeptMirrors) -> Option<Line> {
        let name = mirrors.folder.file_name().and_then(|name| name.to_str());
        let is_ours = |name: &&str| name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        name.filter(is_ours).map(|name| self.line_of(name.to_owned(), String::new()))
    }
}
