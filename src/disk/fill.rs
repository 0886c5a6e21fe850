//! How full a file system is. Blocks, on one that hangs for as long as it does.

use std::fmt::{self, Display};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytesize::ByteSize;
use rustix::fs::{StatVfsMountFlags, statvfs};
use tokio_util::sync::CancellationToken;

/// How full a file system is, as it is for those who are not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Bytes in use, without what is kept back for root.
    pub used: u64,
    pub free: u64,
    /// Those in use and all; none where the file system makes them as it needs them.
    pub inodes: Option<(u64, u64)>,
    pub read_only: bool,
}

impl Fill {
    /// Of the file system that `path` lies on.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self {
            used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            free: bytes(found.f_bavail),
            inodes: (found.f_files > 0).then(|| (found.f_files.saturating_sub(found.f_ffree), found.f_files)),
            read_only: found.f_flag.contains(StatVfsMountFlags::RDONLY),
        })
    }

    /// All bytes that there are for those who are not root.
    pub fn whole(&self) -> u64 {
        self.used.saturating_add(self.free)
    }

    /// The share of bytes in use, as df tells it.
    pub fn percent(&self) -> f64 {
        percent(self.used, self.whole())
    }

    pub fn inodes_percent(&self) -> Option<f64> {
        self.inodes.map(|(used, all)| percent(used, all))
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    match whole {
        0 => 0.0,
        whole => part as f64 * 100.0 / whole as f64,
    }
}

impl Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, all) = (ByteSize(self.free), ByteSize(self.whole()));
        write!(f, "{:.0} % full, {} of {} free", self.percent(), free.display().iec(), all.display().iec())?;
        match self.inodes_percent() {
            Some(inodes) => write!(f, ", {inodes:.0} % of its inodes in use"),
            None => Ok(()),
        }
    }
}

/// The bytes that a file, or a folder with all that is in it, takes on the disk. What cannot be read is left out,
/// and so is what was not looked at when `cancel` was cancelled.
pub fn on_disk(path: &Path, cancel: &CancellationToken) -> u64 {
    if cancel.is_cancelled() {
        return 0;
    }
    let Ok(metadata) = fs::symlink_metadata(path) else { return 0 };
    let own = metadata.blocks().saturating_mul(512);
    match metadata.is_dir() {
        false => own,
        true => {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            own.saturating_add(entries.map(|entry| on_disk(&entry.path(), cancel)).sum())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_df_says() {
        let df = std::process::Command::new("df")
            .args(["-B1", "--output=used,avail", "/proc", "/"])
            .output()
            .unwrap();
        let last = String::from_utf8(df.stdout).unwrap().lines().last().unwrap().to_owned();
        let said: Vec<u64> = last.split_whitespace().map(|number| number.parse().unwrap()).collect();
        let fill = Fill::of(Path::new("/")).unwrap();
        // Others write meanwhile.
        let near = |a: u64, b: u64| a.abs_diff(b) < (1 << 30);
        assert!(near(fill.used, said[0]) && near(fill.free, said[1]), "{fill:?} {said:?}");
        // No blocks at all.
        assert_eq!(Fill::of(Path::new("/proc")).unwrap().percent(), 0.0);
        assert!(Fill::of(Path::new("/no/such/place")).is_err());
    }

    #[test]
    fn counts_what_lies_below() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let empty = on_disk(folder.path(), &cancel);
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/b"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("root")).unwrap();
        let full = on_disk(folder.path(), &cancel);
        assert!((100_000..200_000).contains(&(full - empty)), "{empty} {full}");
        assert_eq!(on_disk(Path::new("/no/such/place"), &cancel), 0);
        cancel.cancel();
        assert_eq!(on_disk(folder.path(), &cancel), 0, "it is not waited for");
    }
}
