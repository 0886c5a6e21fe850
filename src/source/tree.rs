//! Finding what an event names in a git tree: the folder, the Dockerfile, the `.dockerignore`.

use std::collections::{BTreeMap, VecDeque};

use bytesize::ByteSize;
use git2::{Blob, Oid, Repository, Tree, TreeEntry};

use super::commit::CommitId;
use super::error::SourceError;
use super::fetched::CommitSource;
use super::ignore::Rules;
use super::libgit2;
use super::submodules::Submodules;

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

/// The repositories that a context is made of.
pub(super) struct Repositories {
    main: Opened,
    /// The submodules by their paths from the top; `None` for one that is to stay empty.
    modules: BTreeMap<Vec<u8>, Option<Opened>>,
}

struct Opened {
    repository: Repository,
    source: CommitSource,
}

impl Opened {
    fn new(source: CommitSource) -> Result<Self, SourceError> {
        let repository = source.mirror.open().map_err(|error| source.broken(&error))?;
        Ok(Self { repository, source })
    }

    fn top(&self) -> Node<'_> {
        let git = Git { repository: &self.repository, source: &self.source };
        Node { git, id: self.source.tree }
    }
}

impl Repositories {
    fn open(source: CommitSource, modules: &Submodules) -> Result<Self, SourceError> {
        let opened = |source: &Option<CommitSource>| source.clone().map(Opened::new).transpose();
        let modules = modules.iter().map(|(path, source)| Ok((path.clone(), opened(source)?)));
        Ok(Self { main: Opened::new(source)?, modules: modules.collect::<Result<_, SourceError>>()? })
    }

    fn top(&self) -> Node<'_> {
        self.main.top()
    }

    /// The top of the submodule at a path; `None` for one that is to stay empty.
    pub(super) fn submodule(&self, path: &[u8]) -> Result<Option<Node<'_>>, SourceError> {
        match self.modules.get(path) {
            Some(module) => Ok(module.as_ref().map(Opened::top)),
            None => Err(SourceError::Submodule {
                path: String::from_utf8_lossy(path).into_owned(),
                reason: "that was not fetched, since .gitmodules does not name it",
            }),
        }
    }

    /// The submodule at a path on the way to what the build cannot do without.
    fn needed(&self, path: &[u8]) -> Result<Node<'_>, SourceError> {
        self.submodule(path)?.ok_or_else(|| SourceError::Submodule {
            path: String::from_utf8_lossy(path).into_owned(),
            reason: "that .gitmodules says not to fetch (update = none)",
        })
    }
}

/// What shall be sent, found and read: only the writing is left.
pub(super) struct Plan {
    pub(super) source: CommitSource,
    pub(super) repositories: Repositories,
    /// `build.root`.
    root: String,
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
    pub(super) fn make(
        source: CommitSource,
        modules: &Submodules,
        root: &str,
        dockerfile: String,
    ) -> Result<Self, SourceError> {
        let repositories = Repositories::open(source.clone(), modules)?;
        let folder = repositories.folder(root)?;
        let Some(found) = repositories.find_file(root, folder, &dockerfile)? else {
            let found = repositories.top().git.dockerfiles()?;
            return Err(SourceError::NoDockerfile { root: root.to_owned(), dockerfile, found });
        };
        let (rules, way) = repositories.rules(root, folder, &dockerfile)?;
        let text = found.git.blob(found.id, &dockerfile, MAX_DOCKERFILE, None)?.content().to_vec();
        let always = [found.way, way].concat();
        Ok(Self { root: root.to_owned(), dockerfile, text, rules, always, source, repositories })
    }

    /// The root, and where it lies.
    pub(super) fn root(&self) -> Result<(&str, Node<'_>), SourceError> {
        Ok((&self.root, self.repositories.folder(&self.root)?))
    }
}

/// A path from the top of the repository.
pub(super) fn from_top(root: &str, path: &[u8]) -> Vec<u8> {
    match root {
        "" => path.to_vec(),
        root => [root.as_bytes(), b"/", path].concat(),
    }
}

/// A file in a tree.
struct Found<'a> {
    git: Git<'a>,
    id: Oid,
    /// Its path, and before it those of the symbolic links that were followed to it.
    way: Vec<Vec<u8>>,
}

/// A repository, with the error a failing read of it means.
#[derive(Clone, Copy)]
pub(super) struct Git<'a> {
    pub(super) repository: &'a Repository,
    pub(super) source: &'a CommitSource,
}

/// A folder: in which repository, and its tree there.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) git: Git<'a>,
    pub(super) id: Oid,
}

impl<'a> Node<'a> {
    pub(super) fn tree(self) -> Result<Tree<'a>, SourceError> {
        self.git.tree(self.id)
    }
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

    /// The length of an object, in bytes.
    pub(super) fn size(self, id: Oid) -> Result<u64, SourceError> {
        libgit2::size(self.repository, id).map_err(|error| self.source.broken(&error))
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
            let remedy = match key {
                None => ", the most that is read of such a file",
                Some(_) => "; add it to .dockerignore if the build does not need it",
            };
            return Err(SourceError::TooLarge { what: format!("{path:?}"), limit, key, remedy });
        }
        self.repository.find_blob(id).map_err(broken)
    }

    /// The target of a symbolic link.
    pub(super) fn link_target(&self, id: Oid, path: &str) -> Result<Blob<'a>, SourceError> {
        self.blob(id, path, ByteSize(MAX_LINK as u64), None)
    }

    /// The commit that a submodule at a path has, if there is one there.
    pub(super) fn gitlink(&self, path: &str) -> Result<Option<CommitId>, SourceError> {
        let mut tree = self.tree(self.source.tree)?;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let Some((id, kind)) = tree.get_name(name).map(|entry| (entry.id(), kind(&entry))) else { break };
            match kind {
                Entry::Folder => tree = self.tree(id)?,
                Entry::Submodule if names.peek().is_none() => return Ok(id.to_string().parse().ok()),
                _ => break,
            }
        }
        Ok(None)
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

impl Repositories {
    /// A folder, which may not be behind a link.
    fn folder(&self, root: &str) -> Result<Node<'_>, SourceError> {
        let mut node = self.top();
        let mut path = String::new();
        for name in root.split('/').filter(|name| !name.is_empty()) {
            path = String::from_utf8_lossy(&from_top(&path, name.as_bytes())).into_owned();
            let tree = node.tree()?;
            let Some((id, kind)) = tree.get_name(name).map(|entry| (entry.id(), kind(&entry))) else {
                return Err(SourceError::NoSuchFolder {
                    root: root.to_owned(),
                    commit: self.main.source.commit.clone(),
                });
            };
            match kind {
                Entry::Folder => node.id = id,
                Entry::Submodule => node = self.needed(path.as_bytes())?,
                other => {
                    return Err(SourceError::NotAFolder {
                        root: root.to_owned(),
                        kind: other.name(),
                        commit: self.main.source.commit.clone(),
                    });
                }
            }
        }
        Ok(node)
    }

    /// The rules of the `.dockerignore` that counts for a Dockerfile, and the way to it.
    fn rules(
        &self,
        root: &str,
        folder: Node<'_>,
        dockerfile: &str,
    ) -> Result<(Rules, Vec<Vec<u8>>), SourceError> {
        for name in [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()] {
            let Some(found) = self.find_file(root, folder, &name)? else { continue };
            let content = found.git.blob(found.id, &name, MAX_IGNORE_FILE, None)?;
            return Ok((Rules::parse(&name, content.content())?, found.way));
        }
        Ok((Rules::default(), Vec::new()))
    }

    /// The file at a path relative to `folder`, which is the root. Symbolic links are followed as long as they stay inside
    /// of it, as the engine follows them in what it is sent.
    fn find_file<'a>(
        &'a self,
        root: &str,
        folder: Node<'a>,
        path: &str,
    ) -> Result<Option<Found<'a>>, SourceError> {
        let mut folders: Vec<(Vec<u8>, Node<'a>)> = Vec::new();
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
            let node = folders.last().map_or(folder, |(_, node)| *node);
            let (git, tree) = (node.git, node.tree()?);
            let entry = match tree.get_name_bytes(&name) {
                Some(entry) => entry,
                None if way.is_empty() => return Ok(None),
                None => return Err(bad_link(path, &way, "which leads nowhere")),
            };
            let mut here = folders.iter().map(|(name, _)| name.as_slice()).collect::<Vec<_>>();
            here.push(&name);
            let here = here.join(&b'/');
            match kind(&entry) {
                Entry::Folder => folders.push((name, Node { git, id: entry.id() })),
                Entry::Link => {
                    way.push(here);
                    if way.len() > MAX_LINKS {
                        return Err(bad_link(path, &way, "one of too many to follow"));
                    }
                    let target = git.link_target(entry.id(), path)?;
                    if target.content().starts_with(b"/") {
                        return Err(bad_link(path, &way, "which is absolute"));
                    }
                    for name in target.content().split(|byte| *byte == b'/').rev() {
                        names.push_front(name.to_vec());
                    }
                }
                Entry::File { .. } if names.iter().all(|name| name.is_empty()) => {
                    way.push(here);
                    return Ok(Some(Found { git, id: entry.id(), way }));
                }
                // A file stands where a folder would have to.
                Entry::File { .. } => return Ok(None),
                Entry::Submodule => folders.push((name, self.needed(&from_top(root, &here))?)),
                Entry::Unknown => return Ok(None),
            }
        }
        Err(SourceError::NotAFile { path: path.to_owned(), kind: "a folder" })
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
