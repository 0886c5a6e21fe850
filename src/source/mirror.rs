//! The mirrors of one repository: bare repositories under `<mirrors>/<digest of the URL>/` (of the URL and a
//! namespace, where they were fetched with its credentials), named
//! `shallow-<n>` and `full-<n>`. A shallow repository stays shallow whatever is fetched later, so the
//! two are kept apart. The highest number is the one in use: a mirror that is broken is followed by a new one, one that
//! has gathered many packs by itself with fewer ([`packing`](super::packing)), and each is removed when its last reader
//! has let go of it.
//! The folder's time is that of the last fetch; one on its way out is called `<digest>.removed`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use git2::{Repository, RepositoryInitOptions};

use super::advertisement::Announced;
use super::error::SourceError;
use super::packing::{Extent, PACKING, Packed};

/// With so many packs, one from each fetch, a mirror is packed before the next fetch, where the janitor has not been
/// there in time; and started anew where that does not help.
const MAX_PACKS: usize = 64;

/// How the name of mirrors ends that are being removed.
pub(super) const REMOVED: &str = "removed";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Single commits without their history, fetched by id.
    Shallow,
    /// Refs with all of their history.
    Full,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Shallow, Self::Full];

    fn name(self) -> &'static str {
        match self {
            Self::Shallow => "shallow",
            Self::Full => "full",
        }
    }
}

/// A bare repository on the disk.
#[derive(Debug)]
pub(super) struct Mirror {
    path: PathBuf,
    discarded: AtomicBool,
}

impl Mirror {
    fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, discarded: AtomicBool::new(false) })
    }

    /// How a mirror of the repository at `url` is made.
    pub(super) fn options(url: &str) -> RepositoryInitOptions {
        let mut options = RepositoryInitOptions::new();
        options.bare(true).external_template(false).description(url);
        options
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn open(&self) -> Result<Repository, git2::Error> {
        Repository::open_bare(&self.path)
    }

    /// Marks it as broken: the next fetch starts a new one.
    pub(super) fn discard(&self) {
        self.discarded.store(true, Ordering::Release);
    }

    fn is_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if !self.is_discarded() {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let remove = move || {
            if let Err(error) = fs::remove_dir_all(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a discarded mirror could not be removed");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// The mirrors of one repository; whoever holds it is the only one that fetches into them.
pub(super) struct Slot {
    folder: PathBuf,
    url: String,
    /// The number of the next mirror; `None` until the folder has been looked at.
    next: Option<u64>,
    mirrors: [Option<Arc<Mirror>>; 2],
    /// Those that others have followed, as long as somebody reads them.
    followed: Vec<Weak<Mirror>>,
    /// What the server announced to the last fetch by id that succeeded.
    pub(super) announced: Option<Announced>,
}

impl Slot {
    pub(super) fn new(folder: PathBuf, url: String) -> Self {
        Self { folder, url, next: None, mirrors: [None, None], followed: Vec::new(), announced: None }
    }

    /// Begins a fetch: notes the time as that of the last use. A time that cannot be noted makes the
    /// mirrors seem older than they are, and costs at most another fetch.
    pub(super) fn begin(&mut self, url: &str) -> Result<(), SourceError> {
        url.clone_into(&mut self.url);
        self.look()?;
        let noted = fs::File::open(&self.folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        if let Err(error) = noted {
            tracing::debug!(url, %error, "cannot note when a mirror was used");
        }
        Ok(())
    }

    /// Removes all mirrors, unless one of them is in use; answers whether it did.
    pub(super) fn clear(&mut self) -> io::Result<bool> {
        let mut all = self.mirrors.iter().flatten().map(Arc::strong_count);
        if all.any(|users| users > 1) || self.followed.iter().any(|mirror| mirror.strong_count() > 0) {
            return Ok(false);
        }
        let removed = self.folder.with_extension(REMOVED);
        fs::rename(&self.folder, &removed)?;
        *self = Self::new(std::mem::take(&mut self.folder), std::mem::take(&mut self.url));
        fs::remove_dir_all(removed).map(|()| true)
    }

    /// The mirror of a kind, if there is one.
    pub(super) fn get(&mut self, kind: Kind) -> Result<Option<Arc<Mirror>>, SourceError> {
        self.look()?;
        let mirror = &mut self.mirrors[kind as usize];
        if let Some(discarded) = mirror.take_if(|mirror| mirror.is_discarded()) {
            self.followed.retain(|mirror| mirror.strong_count() > 0);
            self.followed.push(Arc::downgrade(&discarded));
        }
        Ok(mirror.clone())
    }

    /// The mirror of a kind to fetch into, and whether it is new.
    pub(super) fn get_or_create(&mut self, kind: Kind) -> Result<(Arc<Mirror>, bool), SourceError> {
        if let Some(mirror) = self.get(kind)? {
            match self.packed_if_many(kind, mirror) {
                Some(mirror) => return Ok((mirror, false)),
                // Puts aside the one that was given up.
                None => self.get(kind)?,
            };
        }
        let path = self.next_path(kind);
        Repository::init_opts(&path, &Mirror::options(&self.url))
            .map_err(|error| self.failed(error.message().to_owned()))?;
        Ok((self.use_now(kind, path), true))
    }

    /// The mirror, packed if it has many packs; `None` where it still has, which it is given up for.
    fn packed_if_many(&mut self, kind: Kind, mirror: Arc<Mirror>) -> Option<Arc<Mirror>> {
        let has_many = |mirror: &Mirror| mirror.packs().is_ok_and(|packs| packs.len() >= MAX_PACKS);
        if !has_many(&mirror) {
            return Some(mirror);
        }
        let packed = mirror.pack(kind, Extent::Quick, &self.folder, &|| false);
        let followed = packed.and_then(|packed| match packed {
            Some(packed) => self.follow(kind, &mirror, packed),
            None => Ok(None),
        });
        match followed {
            Ok(Some(new)) if !has_many(&new) => return Some(new),
            Ok(_) => {}
            Err(error) => {
                let (url, error) = (&self.url, format!("{error:#}"));
                tracing::warn!(url, error, "a mirror of many packs cannot be packed and is fetched anew");
            }
        }
        for mirror in self.mirrors[kind as usize].iter() {
            mirror.discard();
        }
        None
    }

    /// Lets a packed mirror follow the one that it was made of. `None` if that one is not in use any more, or has
    /// got what the packed one would need more of.
    pub(super) fn follow(
        &mut self,
        kind: Kind,
        old: &Arc<Mirror>,
        packed: Packed,
    ) -> anyhow::Result<Option<Arc<Mirror>>> {
        if !self.get(kind)?.is_some_and(|mirror| Arc::ptr_eq(&mirror, old)) {
            return Ok(None);
        }
        let path = self.next_path(kind);
        if !packed.finish(old, kind, &path)? {
            return Ok(None);
        }
        old.discard();
        self.get(kind)?;
        Ok(Some(self.use_now(kind, path)))
    }

    fn next_path(&self, kind: Kind) -> PathBuf {
        self.folder.join(format!("{}-{}", kind.name(), self.next.unwrap_or(0)))
    }

    /// Takes the mirror into use that is at [`next_path`](Self::next_path).
    fn use_now(&mut self, kind: Kind, path: PathBuf) -> Arc<Mirror> {
        self.next = Some(self.next.unwrap_or(0) + 1);
        let mirror = Mirror::new(path);
        self.mirrors[kind as usize] = Some(Arc::clone(&mirror));
        mirror
    }

    pub(super) fn failed(&self, reason: String) -> SourceError {
        SourceError::Mirror { url: self.url.clone(), reason }
    }

    /// Takes stock of the folder once, and removes what an earlier process has left unfinished.
    fn look(&mut self) -> Result<(), SourceError> {
        if self.next.is_none() {
            self.next = Some(self.take_stock().map_err(|error| self.failed(error.to_string()))?);
        }
        Ok(())
    }

    fn take_stock(&mut self) -> io::Result<u64> {
        fs::create_dir_all(&self.folder)?;
        let mut found: Vec<(u64, Kind, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with(PACKING) {
                fs::remove_dir_all(entry.path())?;
                continue;
            }
            let parsed = name.to_str().and_then(|name| {
                let (kind, number) = name.rsplit_once('-')?;
                let kind = Kind::ALL.into_iter().find(|known| known.name() == kind)?;
                Some((number.parse().ok()?, kind, entry.path()))
            });
            found.extend(parsed);
        }
        found.sort_by_key(|(number, ..)| *number);
        let next = found.last().map_or(0, |(number, ..)| number + 1);
        for (_, kind, path) in found {
            sweep(&path)?;
            // A lower number is what a crash has left of a discarded mirror: dropping it removes it.
            if let Some(older) = self.mirrors[kind as usize].replace(Mirror::new(path)) {
                older.discard();
            }
        }
        Ok(next)
    }
}

/// Removes lock files and half-written packs. No other process uses the mirrors: whatever lies there
/// was left by a crash, and a lock would stand in the way of every fetch.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_dir() {
            sweep(&entry.path())?;
        } else if name.to_string_lossy().ends_with(".lock") || name.to_string_lossy().contains("_git2_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(folder: &Path) -> Slot {
        Slot::new(folder.to_owned(), "https://git.example.com/x".to_owned())
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_discarded_mirror_goes_with_its_last_reader() {
        let folder = tempfile::tempdir().unwrap();
        let mut slot = slot(folder.path());
        assert!(slot.get(Kind::Full).unwrap().is_none());
        let (reader, new) = slot.get_or_create(Kind::Full).unwrap();
        assert!(new && !slot.get_or_create(Kind::Full).unwrap().1);
        reader.discard();
        let (second, new) = slot.get_or_create(Kind::Full).unwrap();
        assert!(new);
        assert_eq!(names(folder.path()), ["full-0", "full-1"]);
        reader.open().unwrap();
        drop(reader);
        assert_eq!(names(folder.path()), ["full-1"]);
        drop((slot, second));
        assert_eq!(names(folder.path()), ["full-1"]);
    }

    #[test]
    fn sweeps_what_a_crash_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = slot(folder.path());
        for kind in Kind::ALL {
            first.get_or_create(kind).unwrap();
        }
        let (old, _) = first.get_or_create(Kind::Shallow).unwrap();
        let left = old.path.clone();
        fs::create_dir_all(folder.path().join("shallow-7/objects/pack")).unwrap();
        fs::create_dir_all(folder.path().join("packing-a1b2/objects")).unwrap();
        for file in ["shallow.lock", "objects/pack/pack_git2_a1b2c3", "objects/pack/pack-1.pack"] {
            fs::write(folder.path().join("shallow-7").join(file), "").unwrap();
        }
        drop((first, old));
        let mut second = slot(folder.path());
        let mirror = second.get(Kind::Shallow).unwrap().unwrap();
        assert_eq!(mirror.path, folder.path().join("shallow-7"));
        assert!(!left.exists());
        assert_eq!(names(&mirror.path), ["objects"]);
        assert_eq!(names(&mirror.path.join("objects/pack")), ["pack-1.pack"]);
        assert!(second.get(Kind::Full).unwrap().is_some());
        mirror.discard();
        second.get_or_create(Kind::Shallow).unwrap();
        drop(mirror);
        assert_eq!(names(folder.path()), ["full-1", "shallow-8"]);
    }

    #[test]
    fn mirrors_in_use_are_not_cleared() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a");
        let mut slot = slot(&folder);
        slot.begin("https://git.example.com/x").unwrap();
        let (reader, _) = slot.get_or_create(Kind::Full).unwrap();
        assert!(!slot.clear().unwrap(), "a build reads it");
        reader.discard();
        drop(slot.get_or_create(Kind::Full).unwrap());
        assert!(!slot.clear().unwrap(), "a build reads the one before");
        reader.open().unwrap();
        drop(reader);
        assert!(slot.clear().unwrap());
        assert_eq!(names(root.path()), [""; 0]);
        let (_, new) = slot.get_or_create(Kind::Full).unwrap();
        assert!(new, "the next fetch starts anew");
        assert_eq!(names(&folder), ["full-0"]);
    }

    #[test]
    fn a_mirror_of_many_packs_that_are_not_joined_at_once_is_started_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut slot = slot(folder.path());
        let (mirror, _) = slot.get_or_create(Kind::Full).unwrap();
        fs::create_dir_all(mirror.path.join("objects/pack")).unwrap();
        for number in 0..MAX_PACKS {
            assert!(!slot.get_or_create(Kind::Full).unwrap().1);
            let pack =
                fs::File::create(mirror.path.join(format!("objects/pack/pack-{number}.pack"))).unwrap();
            pack.set_len(1 << 30).unwrap();
        }
        assert!(slot.get_or_create(Kind::Full).unwrap().1);
        assert_eq!(names(folder.path()), ["full-0", "full-1"]);
        drop(mirror);
        assert_eq!(names(folder.path()), ["full-1"]);
    }
}
