//! The way through the git trees of a context: which entries are sent, in the order of their paths, name by name. No
//! file is read.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use git2::{Oid, Tree};

use super::error::SourceError;
use super::ignore::Matched;
use super::tree::{Entry, Git, Node, Plan, from_top, kind};

/// The longest path of an entry, in bytes: Linux' PATH_MAX.
const MAX_PATH: usize = 4096;
/// How many folders are open at once, one in the other, and how many entries they may have together: each is in memory
/// as a whole.
const MAX_DEPTH: usize = 256;
const MAX_OPEN_ENTRIES: usize = 2_000_000;
/// Entries that are looked at for each one that may be sent. Trees can share their subtrees, so that
/// a small repository holds more paths than anybody can walk; those that are ignored count here.
const LOOKED_AT_FOR_EACH: u64 = 10;

/// An entry that is sent.
#[derive(Clone, Copy)]
pub(super) enum Item<'p> {
    Folder,
    Link(Git<'p>, Oid),
    File { git: Git<'p>, id: Oid, executable: bool },
}

/// Who goes along. Every path is relative to the context.
pub(super) trait Visitor<'p> {
    /// Another entry was looked at, sent or not; breaks off the walk where nobody wants it any more.
    fn looked(&mut self) -> ControlFlow<()>;
    fn visit(&mut self, path: &[u8], item: Item<'p>) -> Result<(), SourceError>;
}

/// How much of a context is walked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// These paths, what is below them, and the folders that they lie in.
    Of(BTreeSet<Vec<u8>>),
}

impl Part {
    fn has(&self, path: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Of(paths) => {
                let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
                ends.chain([path.len()]).any(|end| paths.contains(&path[..end]))
            }
        }
    }

    fn leads_on(&self, folder: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Of(paths) => {
                let below = [folder, b"/"].concat();
                paths.range(below.clone()..).next().is_some_and(|own| own.starts_with(&below))
            }
        }
    }
}

fn is_below(folder: &[u8], path: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// Walks through a part of a context.
pub(super) fn walk<'p>(
    plan: &'p Plan,
    part: &Part,
    visitor: &mut dyn Visitor<'p>,
) -> Result<(), SourceError> {
    Walk { plan, part, visitor, path: Vec::new(), looked_at: 0 }.walk()
}

struct Walk<'a, 'p> {
    plan: &'p Plan,
    part: &'a Part,
    visitor: &'a mut dyn Visitor<'p>,
    /// The path of the entry at hand.
    path: Vec<u8>,
    looked_at: u64,
}

/// A folder that is being walked.
struct Folder<'p> {
    /// The repository that it lies in.
    git: Git<'p>,
    tree: Tree<'p>,
    /// Its entries by name: git has a folder behind what begins as it does.
    order: Vec<u32>,
    /// The next of them.
    next: usize,
    /// The length of its path.
    path: usize,
    matched: Matched,
    /// An ignored folder is sent only before the first thing in it that is not.
    sent: bool,
}

impl<'p> Walk<'_, 'p> {
    fn walk(&mut self) -> Result<(), SourceError> {
        let (top, root) = self.plan.root()?;
        let mut folders = vec![self.open(root, Matched::default())?];
        folders[0].sent = true;
        while let Some(folder) = folders.last_mut() {
            let Some((id, kind)) = self.next_of(folder)? else {
                folders.pop();
                continue;
            };
            self.look()?;
            let is_wanted = self.part.has(&self.path);
            if !is_wanted && !self.part.leads_on(&self.path) {
                continue;
            }
            let path = shown(&self.path);
            let (ignored, matched) = self.plan.rules.ignores(&path, &folder.matched);
            let sent = is_wanted && (!ignored || self.is_needed());
            let git = folder.git;
            let mut is_empty = false;
            if matches!(kind, Entry::Folder | Entry::Submodule) {
                if ignored
                    && !self.is_needed()
                    && !self.leads_to_needed()
                    && !self.plan.rules.reaches_into(&path)
                {
                    continue;
                }
                let node = match kind {
                    Entry::Submodule => self.plan.repositories.submodule(&from_top(top, &self.path))?,
                    _ => Some(Node { git, id }),
                };
                match node {
                    Some(_) if folders.len() >= MAX_DEPTH => {
                        let reason = "its folders are nested more than 256 deep";
                        return Err(SourceError::BadName { path, reason });
                    }
                    Some(_)
                        if folders.iter().map(|open| open.tree.len()).sum::<usize>() > MAX_OPEN_ENTRIES =>
                    {
                        let reason = "the folders that it lies in have more than 2,000,000 entries together";
                        return Err(SourceError::BadName { path, reason });
                    }
                    Some(node) => folders.push(self.open(node, matched)?),
                    None => is_empty = true,
                }
            }
            if !sent {
                continue;
            }
            for folder in folders.iter_mut().filter(|folder| !folder.sent) {
                folder.sent = true;
                self.visitor.visit(&self.path[..folder.path], Item::Folder)?;
            }
            let item = match kind {
                // As in a checkout: a folder with nothing in it.
                Entry::Submodule if is_empty => Item::Folder,
                Entry::Folder | Entry::Submodule => continue,
                Entry::File { executable } => Item::File { git, id, executable },
                Entry::Link => Item::Link(git, id),
                Entry::Unknown => {
                    return Err(SourceError::BadName { path, reason: "its mode is none that git writes" });
                }
            };
            self.visitor.visit(&self.path, item)?;
        }
        Ok(())
    }

    /// Opens the folder at the path at hand.
    fn open(&self, node: Node<'p>, matched: Matched) -> Result<Folder<'p>, SourceError> {
        let (git, tree) = (node.git, node.tree()?);
        let name = |index: u32| tree.get(index as usize).map(|entry| entry.name_bytes().to_vec());
        let mut order: Vec<u32> = (0..u32::try_from(tree.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_cached_key(|index| name(*index));
        // Whoever unpacks it takes the last, and who looks it up takes any: they would not speak of one file.
        if let Some(twice) = order.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
            let mut path = self.path.clone();
            join(&mut path, &name(twice[0]).unwrap_or_default());
            let reason = "it stands twice in its folder, which git does not write";
            return Err(SourceError::BadName { path: shown(&path), reason });
        }
        Ok(Folder { git, tree, order, next: 0, path: self.path.len(), matched, sent: false })
    }

    /// Steps to the next entry of a folder.
    fn next_of(&mut self, folder: &mut Folder<'_>) -> Result<Option<(Oid, Entry)>, SourceError> {
        let entry = folder.order.get(folder.next).and_then(|index| folder.tree.get(*index as usize));
        let Some(entry) = entry else { return Ok(None) };
        folder.next += 1;
        self.path.truncate(folder.path);
        self.push_name(entry.name_bytes())?;
        Ok(Some((entry.id(), kind(&entry))))
    }

    /// Whether the path at hand is sent whatever the rules say.
    fn is_needed(&self) -> bool {
        self.plan.always.contains(&self.path)
    }

    fn leads_to_needed(&self) -> bool {
        self.plan.always.iter().any(|needed| is_below(&self.path, needed))
    }

    fn push_name(&mut self, name: &[u8]) -> Result<(), SourceError> {
        join(&mut self.path, name);
        let reason = match name {
            b"" => "a name is empty",
            b"." | b".." => "it stands for another folder",
            _ if name.eq_ignore_ascii_case(b".git") => "git keeps its own files there",
            _ if name.contains(&b'/') || name.contains(&0) => "a name contains '/' or NUL",
            _ if self.path.len() > MAX_PATH => "the path is longer than 4096 bytes",
            _ => return Ok(()),
        };
        Err(SourceError::BadName { path: shown(&self.path).chars().take(MAX_PATH).collect(), reason })
    }

    fn look(&mut self) -> Result<(), SourceError> {
        self.looked_at += 1;
        if self.visitor.looked().is_break() {
            return Err(SourceError::Cancelled);
        }
        let limit = self.plan.source.config.max_files;
        match self.looked_at > limit.saturating_mul(LOOKED_AT_FOR_EACH) {
            true => Err(too_many_files("the repository, ignored ones included, has too many files", limit)),
            false => Ok(()),
        }
    }
}

fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

pub(super) fn too_many_files(what: &str, limit: u64) -> SourceError {
    SourceError::TooMany {
        what: what.to_owned(),
        limit,
        key: "max_files",
        remedy: "; list in .dockerignore what the build does not need",
    }
}

/// A path for the rules and for people. Bytes that are not UTF-8 match no literal, only wildcards.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_its_paths_what_is_below_and_the_way_there() {
        let part = Part::Of([b"a/b".to_vec(), b"a-/x".to_vec(), b"c".to_vec()].into());
        for (path, has, leads_on) in [
            ("a", false, true),
            ("a/b", true, false),
            ("a/b/x", true, false),
            ("a/bc", false, false),
            ("c/d/e", true, false),
            ("a-", false, true),
            ("d", false, false),
        ] {
            assert_eq!(
                (part.has(path.as_bytes()), part.leads_on(path.as_bytes())),
                (has, leads_on),
                "{path}"
            );
        }
        assert!(Part::All.has(b"x") && Part::All.leads_on(b"x"));
    }
}
