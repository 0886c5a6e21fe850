//! Finding what an event names in a git tree: the folder, the Dockerfile, the `.dockerignore`.

use std::collections::VecDeque;

use bytesize::ByteSize;
use git2::{Blob, Oid, Repository, Tree, TreeEntry};

use super::error::SourceError;
use super::fetched::CommitSource;
use super::ignore::Rules;
use super::libgit2;

/// Symbolic links followed on the way to one file; Linux itself follows 40.
const MAX_LINKS: usize = 40;
/// The largest `.dockerignore` that is read.
const MAX_IGNORE_FILE: ByteSize = ByteSize::mib(1);
/// The largest Dockerfile that is read.
const MAX_DOCKERFILE: ByteSize = ByteSize::mib(4);
/// The largest tree, and the largest commit, that is read: half a million names in one folder.
pub(super) const MAX_TREE: ByteSize = ByteSize::mib(16);
/// The longest target of a symbolic link, in bytes: Linux' PATH_MAX.
pub(super) const MAX_LINK: usize = 4096;
/// How many Dockerfiles are named to somebody who has pointed at the wrong place, and how many entries
/// of the repository are looked at for them.
const MAX_FOUND: usize = 10;
const MAX_LOOKED_AT: usize = 100_000;

/// What shall be sent, found and read: only the writing is left.
pub(super) struct Plan {
    pub(super) source: CommitSource,
    pub(super) repository: Repository,
    /// The tree of `build.root`.
    pub(super) root: Oid,
    /// The Dockerfile, relative to the root, as the event names it.
    pub(super) dockerfile: String,
    /// What stands in it.
    pub(super) text: Vec<u8>,
    pub(super) rules: Rules,
    /// What is sent whatever the rules say, relative to the root: the Dockerfile and the
    /// `.dockerignore`, and the links that lead to them.
    pub(super) always: Vec<Vec<u8>>,
}

impl Plan {
    pub(super) fn make(source: CommitSource, root: &str, dockerfile: String) -> Result<Self, SourceError> {
        let repository = source.mirror.open().map_err(|error| source.broken(&error))?;
        let git = Git { repository: &repository, source: &source };
        let root_tree = git.folder(root)?;
        let Some(found) = git.find_file(root_tree, &dockerfile)? else {
            let found = git.dockerfiles()?;
            return Err(SourceError::NoDockerfile { root: root.to_owned(), dockerfile, found });
        };
        let text = git.blob(found.id, &dockerfile, MAX_DOCKERFILE, None)?.content().to_vec();
        let mut always = found.way;
        let mut rules = Rules::default();
        for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
            let Some(found) = git.find_file(root_tree, &name)? else { continue };
            let content = git.blob(found.id, &name, MAX_IGNORE_FILE, None)?;
            rules = Rules::parse(&name, content.content())?;
            always.extend(found.way);
            break;
        }
        Ok(Self { root: root_tree, dockerfile, text, rules, always, source, repository })
    }
}

/// A file in a tree.
struct Found {
    id: Oid,
    /// Its path, and before it those of the symbolic links that were followed to it.
    way: Vec<Vec<u8>>,
}

/// The repository, with the error a failing read of it means.
pub(super) struct Git<'a> {
    pub(super) repository: &'a Repository,
    pub(super) source: &'a CommitSource,
}

impl<'a> Git<'a> {
    pub(super) fn tree(&self, id: Oid) -> Result<Tree<'a>, SourceError> {
        let broken = |error| self.source.broken(&error);
        // libgit2 reads and parses it whole.
        if libgit2::size(self.repository, id).map_err(broken)? > MAX_TREE.0 {
            return Err(SourceError::TooLarge {
                what: format!("the list of files of a folder (tree {id})"),
                limit: MAX_TREE,
                key: None,
                remedy: "; spread its files over more folders",
            });
        }
        self.repository.find_tree(id).map_err(broken)
    }

    /// A blob of at most `limit`, whose size is asked before it is read: libgit2 reads it whole. It can
    /// stream only loose objects, and what is fetched always lies in packs.
    pub(super) fn blob(
        &self,
        id: Oid,
        path: &str,
        limit: ByteSize,
        key: Option<&'static str>,
    ) -> Result<Blob<'a>, SourceError> {
        let broken = |error| self.source.broken(&error);
        if libgit2::size(self.repository, id).map_err(broken)? > limit.0 {
            return Err(match key {
                None => {
                    SourceError::NotAFile { path: path.to_owned(), kind: "too large a file for what it is" }
                }
                Some(_) => SourceError::TooLarge {
                    what: format!("{path:?}"),
                    limit,
                    key,
                    remedy: "; add it to .dockerignore if the build does not need it",
                },
            });
        }
        self.repository.find_blob(id).map_err(broken)
    }

    /// The target of a symbolic link.
    pub(super) fn link_target(&self, id: Oid, path: &str) -> Result<Blob<'a>, SourceError> {
        self.blob(id, path, ByteSize(MAX_LINK as u64), None)
    }

    /// The tree of a folder, which may not be behind a link.
    fn folder(&self, root: &str) -> Result<Oid, SourceError> {
        let mut tree = self.tree(self.source.tree)?;
        for name in root.split('/').filter(|name| !name.is_empty()) {
            let Some((id, kind)) = tree.get_name(name).map(|entry| (entry.id(), kind(&entry))) else {
                return Err(SourceError::NoSuchFolder {
                    root: root.to_owned(),
                    commit: self.source.commit.clone(),
                });
            };
            match kind {
                Entry::Folder => tree = self.tree(id)?,
                Entry::Submodule => return Err(SourceError::Submodule { path: root.to_owned() }),
                other => {
                    return Err(SourceError::NotAFolder {
                        root: root.to_owned(),
                        kind: other.name(),
                        commit: self.source.commit.clone(),
                    });
                }
            }
        }
        Ok(tree.id())
    }

    /// The file at a path relative to `root`. Symbolic links are followed as long as they stay inside
    /// of it, as the engine follows them in what it is sent.
    fn find_file(&self, root: Oid, path: &str) -> Result<Option<Found>, SourceError> {
        let mut folders: Vec<(Vec<u8>, Oid)> = Vec::new();
        let mut names: VecDeque<Vec<u8>> = path.split('/').map(|name| name.as_bytes().to_vec()).collect();
        let mut way = Vec::new();
        while let Some(name) = names.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    if folders.pop().is_none() {
                        return Err(bad_link(path, &way, "which leaves the build context"));
                    }
                    continue;
                }
                _ => {}
            }
            let tree = self.tree(folders.last().map_or(root, |(_, id)| *id))?;
            let entry = match tree.get_name_bytes(&name) {
                Some(entry) => entry,
                None if way.is_empty() => return Ok(None),
                None => return Err(bad_link(path, &way, "which leads nowhere")),
            };
            let mut here = folders.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>();
            here.push(&name);
            let here = here.join(&b'/');
            match kind(&entry) {
                Entry::Folder => folders.push((name, entry.id())),
                Entry::Link => {
                    way.push(here);
                    if way.len() > MAX_LINKS {
                        return Err(bad_link(path, &way, "one of too many to follow"));
                    }
                    let target = self.link_target(entry.id(), path)?;
                    if target.content().starts_with(b"/") {
                        return Err(bad_link(path, &way, "which is absolute"));
                    }
                    for name in target.content().split(|byte| *byte == b'/').rev() {
                        names.push_front(name.to_vec());
                    }
                }
                Entry::File { .. } if names.iter().all(|name| name.is_empty()) => {
                    way.push(here);
                    return Ok(Some(Found { id: entry.id(), way }));
                }
                // A file stands where a folder would have to.
                Entry::File { .. } => return Ok(None),
                Entry::Submodule => {
                    return Err(SourceError::Submodule { path: String::from_utf8_lossy(&here).into_owned() });
                }
                Entry::Unknown => return Ok(None),
            }
        }
        Err(SourceError::NotAFile { path: path.to_owned(), kind: "a folder" })
    }

    /// Paths in the commit that look like Dockerfiles, the highest first.
    fn dockerfiles(&self) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut folders = VecDeque::from([(String::new(), self.source.tree)]);
        while let Some((folder, id)) = folders.pop_front() {
            for entry in &self.tree(id)? {
                looked_at += 1;
                if looked_at > MAX_LOOKED_AT || found.len() == MAX_FOUND {
                    return Ok(found);
                }
                // A name that is not UTF-8 cannot be put into an event.
                let Ok(name) = entry.name() else { continue };
                let looks_like_one = name == "Dockerfile"
                    || name == "Containerfile"
                    || name.starts_with("Dockerfile.") && !name.ends_with(".dockerignore")
                    || name.ends_with(".Dockerfile");
                match kind(&entry) {
                    Entry::Folder => folders.push_back((format!("{folder}{name}/"), entry.id())),
                    Entry::File { .. } if looks_like_one => found.push(format!("{folder}{name}")),
                    _ => {}
                }
            }
        }
        Ok(found)
    }
}

fn bad_link(path: &str, way: &[Vec<u8>], reason: &'static str) -> SourceError {
    let target = way.last().map(|path| String::from_utf8_lossy(path).into_owned()).unwrap_or_default();
    match target == path {
        true => SourceError::BadLink { path: path.to_owned(), by: None, reason },
        false => SourceError::BadLink { path: path.to_owned(), by: Some(target), reason },
    }
}

/// What an entry of a tree is, by its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    File { executable: bool },
    Link,
    Folder,
    Submodule,
    Unknown,
}

impl Entry {
    fn name(self) -> &'static str {
        match self {
            Self::File { .. } => "a file",
            Self::Link => "a symbolic link",
            Self::Folder => "a folder",
            Self::Submodule => "a submodule",
            Self::Unknown => "of an unknown kind",
        }
    }
}

pub(super) fn kind(entry: &TreeEntry<'_>) -> Entry {
    let mode = entry.filemode_raw();
    match mode & 0o170_000 {
        0o040_000 => Entry::Folder,
        0o100_000 => Entry::File { executable: mode & 0o111 != 0 },
        0o120_000 => Entry::Link,
        0o160_000 => Entry::Submodule,
        _ => Entry::Unknown,
    }
}
