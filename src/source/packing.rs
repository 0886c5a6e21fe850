//! Joining what fetches leave in a mirror. Each one leaves a pack, in all of which every object is looked for, and a
//! ref, which is told to the server with the next request. libgit2 writes packs and cannot replace them, and readers
//! open theirs late: so the packed mirror is made beside the old one, in a folder `packing-…`, with links to the packs
//! that stay as they are, and follows it ([`Slot::follow`](super::mirror::Slot::follow)).

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context as _;
use git2::{Odb, Oid, PackBuilder, Repository};
use tempfile::TempDir;

use super::mirror::{Kind, Mirror};

/// How the names of folders begin in which mirrors are being packed.
pub(super) const PACKING: &str = "packing-";
/// Up to so many packs cost a reader nothing.
const FEW_PACKS: usize = 8;
/// How many of the newest commits of a shallow mirror stay known by their refs. The server is told of all of them; the
/// next commit is most often next to one of them.
const KEPT_COMMITS: usize = 64;
/// How much is joined while a build waits: some tenths of a second of work.
const QUICK: u64 = 8 << 20;
/// What libgit2 may take of memory for finding differences. It reads this as the length above which it does not look
/// for differences of a file, too (pack-objects.c, `packbuilder_config`).
const MEMORY: i64 = 16 << 20;

/// How much is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The smallest packs alone, while a build waits.
    Quick,
    /// So many of the smaller packs that each one left is twice as large as all that are smaller: a byte is written
    /// again once for each doubling. Where that is all of them, what no kept ref leads to goes.
    Whole,
}

/// A pack, by its file's name without the ending.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pack {
    name: String,
    size: u64,
}

/// A packed mirror that is not in use yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Packed {
    folder: TempDir,
    /// The packs of the old mirror that this one has in its own.
    joined: HashSet<Pack>,
    /// The refs whose objects alone are in it; `None` where all objects are.
    pruned: Option<Refs>,
}

/// Names with what they point at, in the order of the names.
type Refs = Vec<(String, Oid)>;

impl Mirror {
    /// Its packs, the smallest first.
    pub(super) fn packs(&self) -> io::Result<Vec<Pack>> {
        let mut packs = Vec::new();
        let entries = match fs::read_dir(self.path().join("objects/pack")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(packs),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(".pack")) {
                packs.push(Pack { name: name.to_owned(), size: entry.metadata()?.len() });
            }
        }
        packs.sort_by(|a, b| (a.size, &a.name).cmp(&(b.size, &b.name)));
        Ok(packs)
    }

    /// Makes a packed mirror of this one below `folder`, which is on the same file system, unless there is little to
    /// join. Fetches into it and readers of it may go on meanwhile. `stop` is asked often, and ends it.
    pub(super) fn pack(
        &self,
        kind: Kind,
        extent: Extent,
        folder: &Path,
        stop: &dyn Fn() -> bool,
    ) -> anyhow::Result<Option<Packed>> {
        let packs = self.packs()?;
        if packs.len() <= FEW_PACKS {
            return Ok(None);
        }
        let joined = &packs[..extent.joined(&packs)];
        if joined.len() < 2 {
            return Ok(None);
        }
        let folder = tempfile::Builder::new().prefix(PACKING).tempdir_in(folder)?;
        Repository::init_opts(folder.path(), &Mirror::options(""))?;
        let old = self.open()?;
        limit_memory(&old)?;
        let mut builder = old.packbuilder()?;
        builder.set_progress_callback(|_, _, _| !stop())?;
        let pruned = match joined.len() == packs.len() {
            true => {
                let refs = kept_refs(&old, kind)?;
                insert_reachable(&old, &mut builder, kind, &refs)?;
                Some(refs)
            }
            false => {
                insert_all(&mut builder, self.path(), joined, folder.path())?;
                None
            }
        };
        if builder.object_count() > 0 {
            builder.write(&folder.path().join("objects/pack"), 0).context("write the pack")?;
        }
        drop(builder);
        let joined = joined.iter().cloned().collect();
        Ok(Some(Packed { folder, joined, pruned }))
    }
}

impl Extent {
    /// How many of the packs, which are in the order of their sizes, are joined.
    fn joined(self, packs: &[Pack]) -> usize {
        let mut sum = 0;
        let mut joined = 0;
        for (number, pack) in packs.iter().enumerate() {
            let fits = match self {
                Self::Quick => sum + pack.size <= QUICK,
                Self::Whole => pack.size < 2 * sum,
            };
            if fits {
                joined = number + 1;
            }
            sum += pack.size;
        }
        joined
    }
}

impl Packed {
    /// Brings it to where `old` is now, which nobody fetches into meanwhile, and moves it to `path`. Answers whether it
    /// did: what was pruned may be what an object needs that came later.
    pub(super) fn finish(self, old: &Mirror, kind: Kind, path: &Path) -> anyhow::Result<bool> {
        let Self { folder, joined, pruned } = self;
        let mut later = old.packs()?;
        later.retain(|pack| !joined.contains(pack));
        let refs = kept_refs(&old.open()?, kind)?;
        if pruned.is_some_and(|pruned| !later.is_empty() || pruned != refs) {
            return Ok(false);
        }
        for pack in later {
            for end in ["pack", "idx"] {
                let file = format!("objects/pack/{}.{end}", pack.name);
                match fs::hard_link(old.path().join(&file), folder.path().join(&file)) {
                    // It has been joined to the same pack before.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => linked.with_context(|| format!("link {file}"))?,
                }
            }
        }
        fs::write(folder.path().join("packed-refs"), packed(&refs))?;
        let known: HashSet<String> = refs.iter().map(|(_, id)| id.to_string()).collect();
        let shallow = fs::read_to_string(old.path().join("shallow")).unwrap_or_default();
        let kept = |line: &&str| kind == Kind::Full || known.contains(*line);
        let shallow: String = shallow.lines().filter(kept).map(|line| format!("{line}\n")).collect();
        if !shallow.is_empty() {
            fs::write(folder.path().join("shallow"), shallow)?;
        }
        fs::rename(folder.keep(), path)?;
        Ok(true)
    }
}

/// The refs that stay: all of a full mirror's, and of a shallow one's those of the newest commits.
fn kept_refs(repository: &Repository, kind: Kind) -> Result<Refs, git2::Error> {
    let mut refs = Vec::new();
    for found in repository.references()? {
        let found = found?;
        if let (Ok(name), Some(id)) = (found.name(), found.target()) {
            refs.push((name.to_owned(), id));
        }
    }
    if kind == Kind::Shallow && refs.len() > KEPT_COMMITS {
        let time = |id| repository.find_commit(id).map(|commit| commit.time().seconds());
        let mut dated = Vec::new();
        for (name, id) in refs {
            dated.push((time(id)?, name, id));
        }
        dated.sort_by(|a, b| b.cmp(a));
        dated.truncate(KEPT_COMMITS);
        refs = dated.into_iter().map(|(_, name, id)| (name, id)).collect();
    }
    refs.sort();
    Ok(refs)
}

/// As git writes refs into one file (git-pack-refs); which of them are tags' is not said.
fn packed(refs: &Refs) -> String {
    let mut text = "# pack-refs with: sorted \n".to_owned();
    for (name, id) in refs {
        let _ = writeln!(text, "{id} {name}");
    }
    text
}

fn insert_reachable(
    repository: &Repository,
    builder: &mut PackBuilder<'_>,
    kind: Kind,
    refs: &Refs,
) -> Result<(), git2::Error> {
    if kind == Kind::Full {
        let mut walk = repository.revwalk()?;
        walk.push_glob("refs/*")?;
        builder.insert_walk(&mut walk)?;
    }
    refs.iter().try_for_each(|(_, id)| builder.insert_recursive(*id, None))
}

/// Everything that is in some of the packs.
fn insert_all(
    builder: &mut PackBuilder<'_>,
    mirror: &Path,
    packs: &[Pack],
    folder: &Path,
) -> anyhow::Result<()> {
    let alone = tempfile::Builder::new().prefix("joined-").tempdir_in(folder)?;
    fs::create_dir(alone.path().join("pack"))?;
    for pack in packs {
        for end in ["pack", "idx"] {
            let file = format!("pack/{}.{end}", pack.name);
            fs::hard_link(mirror.join("objects").join(&file), alone.path().join(&file))?;
        }
    }
    let odb = Odb::new()?;
    odb.add_disk_alternate(alone.path().to_str().context("the mirrors' path is not UTF-8")?)?;
    let mut ids = Vec::new();
    odb.foreach(|id| {
        ids.push(*id);
        true
    })?;
    ids.into_iter().try_for_each(|id| builder.insert_object(id, None))?;
    Ok(())
}

fn limit_memory(repository: &Repository) -> Result<(), git2::Error> {
    let mut config = repository.config()?;
    for key in ["pack.windowMemory", "pack.deltaCacheSize"] {
        if config.get_i64(key) != Ok(MEMORY) {
            config.set_i64(key, MEMORY)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(extent: Extent, sizes: &[u64]) -> usize {
        extent.joined(
            &sizes.iter().map(|size| Pack { name: size.to_string(), size: *size }).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn each_pack_that_stays_is_twice_as_large_as_all_smaller_ones() {
        for (sizes, expected) in [
            (&[][..], 0),
            (&[5], 0),
            (&[1, 1], 2),
            (&[1, 2, 6, 18], 0),
            (&[1, 1, 100], 2),
            (&[1, 1, 3, 100], 3),
            (&[10, 10, 10, 10, 50], 5),
            (&[10, 10, 10, 10, 80], 4),
        ] {
            assert_eq!(joined(Extent::Whole, sizes), expected, "{sizes:?}");
        }
    }

    #[test]
    fn while_a_build_waits_little_is_joined() {
        assert_eq!(joined(Extent::Quick, &[1, 1, 1]), 3);
        assert_eq!(joined(Extent::Quick, &[1, QUICK / 2, QUICK / 2, 2 * QUICK]), 2);
        assert_eq!(joined(Extent::Quick, &[QUICK + 1, QUICK + 1]), 0);
    }

    #[test]
    fn refs_are_written_as_git_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let repository = Repository::init_opts(folder.path(), &Mirror::options("")).unwrap();
        let id = repository.treebuilder(None).unwrap().write().unwrap();
        let refs = vec![("refs/heads/a".to_owned(), id), ("refs/heads/b/c".to_owned(), id)];
        fs::write(folder.path().join("packed-refs"), packed(&refs)).unwrap();
        assert_eq!(kept_refs(&repository, Kind::Full).unwrap(), refs);
    }
}
