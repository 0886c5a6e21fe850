//! Small file systems in memory, to be filled to the last byte.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use buildgrid::disk::{DiskConfig, Fill, Mark};
use tempfile::TempDir;

use super::process::{as_root, output};

/// Marks that no disk of this machine reaches: a worker that waits for room here would be no test's fault.
pub fn never_full() -> DiskConfig {
    DiskConfig { high: Mark::InUse(100.0), low: Mark::InUse(99.0) }
}

/// A small file system in memory, gone when dropped.
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    pub fn mount(size: &str) -> Self {
        let disk = Self { directory: tempfile::tempdir().unwrap() };
        let options = format!("size={size},nr_inodes=4096");
        output(as_root("mount").args(["-t", "tmpfs", "-o", &options, "buildgrid-test"]).arg(disk.path()));
        disk
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// In percent, as df tells it.
    pub fn fill(&self) -> f64 {
        Fill::of(self.path()).unwrap().percent()
    }

    /// Lets a ballast take what it can until so many percent are in use; 100 leaves not a byte.
    pub fn fill_to(&self, percent: u64) {
        self.clear();
        let fill = Fill::of(self.path()).unwrap();
        let size = ((fill.used + fill.free) * percent / 100).saturating_sub(fill.used);
        let mut ballast = File::create(self.ballast()).unwrap();
        let page = [7; 4096];
        for _ in 0..size.div_ceil(4096) {
            // The last page may not be there any more.
            if ballast.write(&page).is_err() {
                break;
            }
        }
    }

    /// Removes the ballast.
    pub fn clear(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// As the kernel does after an error of the disk, or back: `ro` or `rw`.
    pub fn remount(&self, how: &str) {
        output(as_root("mount").args(["-o", &format!("remount,{how}")]).arg(self.path()));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a panic somebody may have files open there.
        let unmounted = as_root("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Makes a file or folder look as if it had been changed last so long ago.
pub fn age(path: &Path, by: Duration) {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.set_modified(SystemTime::now() - by).unwrap();
}
