//! The submodules of a commit that a build's context has in it, each at the commit that the one above it records. They
//! are fetched like the repository itself: by the same rules for URLs and addresses, with the credentials that the
//! namespace has for each of them, into mirrors of their own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytesize::ByteSize;

use super::commit::CommitId;
use super::error::SourceError;
use super::fetched::{CommitSource, FetchedCommit};
use super::gitmodules;
use super::ignore::{Matched, Rules};
use super::libgit2;
use super::session::Budget;
use super::sources::{Errand, Sources};
use super::tree::{Entry, Git, Plan, kind};
use super::url::RepositoryUrl;

/// How deep submodules may lie in one another, and how many a build may have.
const MAX_DEPTH: usize = 10;
const MAX_SUBMODULES: usize = 256;
/// The largest `.gitmodules` that is read.
const MAX_FILE: ByteSize = ByteSize::kib(256);
/// How many submodules one `.gitmodules` may name: each is looked for in the tree.
const MAX_NAMED: usize = 1024;

/// The submodules of a commit, by their paths from its top; `None` for one that is to stay empty.
pub(super) type Submodules = BTreeMap<Vec<u8>, Option<CommitSource>>;

/// The part of a repository that a build sees.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The folder that is the context; empty for the whole repository.
    pub root: &'a str,
    /// Relative to the root.
    pub dockerfile: &'a str,
}

/// A repository whose submodules are still to be looked for.
struct Parent {
    path: String,
    url: RepositoryUrl,
    source: CommitSource,
    /// It and those that it lies in.
    chain: Chain,
}

type Chain = Vec<(RepositoryUrl, CommitId)>;

/// A submodule that a commit has.
struct Found {
    /// From the top of the repository that has it.
    path: String,
    url: Option<String>,
    is_left_out: bool,
    commit: CommitId,
}

impl Sources {
    /// Fetches the submodules, and theirs, of a commit that was fetched from `url`: those in the build's scope which
    /// `.dockerignore` does not leave out. All of them together may take as much time and as many bytes as one fetch.
    pub async fn fetch_submodules(
        &self,
        errand: Errand<'_>,
        url: &RepositoryUrl,
        mut commit: FetchedCommit,
        scope: Scope<'_>,
    ) -> Result<FetchedCommit, SourceError> {
        let mut walk = Walk { budget: Arc::new(Budget::new(self.config())), waiting: VecDeque::new() };
        let chain = vec![(url.clone(), commit.id.clone())];
        let source = commit.source.clone();
        walk.enter(Parent { path: String::new(), url: url.clone(), source, chain }, errand).await?;
        if walk.waiting.is_empty() {
            return Ok(commit);
        }
        // First those without which root, Dockerfile and `.dockerignore` cannot be read.
        let rules = loop {
            match self.rules(&commit, scope).await {
                Ok(rules) => break rules,
                Err(error) => {
                    let missing = error.missing_submodule().and_then(|path| walk.take(path));
                    let (parent, found) = missing.ok_or(error)?;
                    self.fetch_submodule(errand, &mut commit, &mut walk, &parent, found).await?;
                }
            }
        };
        while let Some((parent, found)) = walk.waiting.pop_front() {
            let path = below(&parent.path, &found.path);
            if inside(&path, scope.root).is_some_and(|inside| !leaves_out(&rules, inside)) {
                self.fetch_submodule(errand, &mut commit, &mut walk, &parent, found).await?;
            }
        }
        Ok(commit)
    }

    async fn fetch_submodule(
        &self,
        errand: Errand<'_>,
        commit: &mut FetchedCommit,
        walk: &mut Walk,
        parent: &Parent,
        found: Found,
    ) -> Result<(), SourceError> {
        let path = below(&parent.path, &found.path);
        let source = match found.is_left_out {
            true => None,
            false if commit.modules.len() >= MAX_SUBMODULES => {
                return Err(bad(&path, format!("it is one of more than {MAX_SUBMODULES}")));
            }
            false => {
                let (url, chain) = found.of(parent, &path)?;
                let id = &found.commit;
                (errand.permit)(&url).map_err(|reason| bad(&path, reason))?;
                errand.log.status(format!("submodule {path:?}: commit {} of {url}", id.short())).await;
                let fetched = self.fetch_within(errand, &url, id, Arc::clone(&walk.budget)).await;
                let source = fetched.map_err(|error| within(&path, error))?.source;
                walk.enter(Parent { path: path.clone(), url, source: source.clone(), chain }, errand).await?;
                Some(source)
            }
        };
        Arc::make_mut(&mut commit.modules).insert(path.into_bytes(), source);
        Ok(())
    }

    /// What the build leaves out, once all is there that has to be read for it.
    async fn rules(&self, commit: &FetchedCommit, scope: Scope<'_>) -> Result<Rules, SourceError> {
        let (source, modules) = (commit.source.clone(), Arc::clone(&commit.modules));
        let (root, dockerfile) = (scope.root.to_owned(), scope.dockerfile.to_owned());
        libgit2::blocking(move || Ok(Plan::make(source, &modules, &root, dockerfile)?.rules)).await
    }
}

/// The submodules that are still to be looked at.
struct Walk {
    budget: Arc<Budget>,
    waiting: VecDeque<(Arc<Parent>, Found)>,
}

impl Walk {
    async fn enter(&mut self, parent: Parent, errand: Errand<'_>) -> Result<(), SourceError> {
        let source = parent.source.clone();
        let looking = libgit2::blocking(move || submodules_of(&source));
        let found = errand.cancel.run_until_cancelled(looking).await.ok_or(SourceError::Cancelled)?;
        errand.pulse.beat();
        let parent = Arc::new(parent);
        let found = found.map_err(|error| within(&parent.path, error))?;
        self.waiting.extend(found.into_iter().map(|found| (Arc::clone(&parent), found)));
        Ok(())
    }

    /// The one at a path from the top.
    fn take(&mut self, path: &str) -> Option<(Arc<Parent>, Found)> {
        let at = self.waiting.iter().position(|(parent, found)| below(&parent.path, &found.path) == path)?;
        self.waiting.remove(at)
    }
}

impl Found {
    /// Its URL, and with it the repositories that it lies in.
    fn of(&self, parent: &Parent, path: &str) -> Result<(RepositoryUrl, Chain), SourceError> {
        let url = self.url(parent).map_err(|reason| bad(path, reason))?;
        if parent.chain.len() > MAX_DEPTH {
            return Err(bad(path, format!("it lies in more than {MAX_DEPTH} others")));
        }
        let mut chain = parent.chain.clone();
        chain.push((url.clone(), self.commit.clone()));
        match parent.chain.contains(&chain[chain.len() - 1]) {
            true => Err(bad(path, "it contains itself".to_owned())),
            false => Ok((url, chain)),
        }
    }

    fn url(&self, parent: &Parent) -> Result<RepositoryUrl, String> {
        let Some(url) = self.url.as_deref() else { return Err("it has no URL in .gitmodules".to_owned()) };
        let is_relative = url.starts_with("./") || url.starts_with("../");
        let read = if is_relative { parent.url.join(url) } else { url.parse() };
        read.map_err(|error| format!("its URL in .gitmodules cannot be used: {error}"))
    }
}

/// The submodules that `.gitmodules` names and the commit has, in the order of their paths.
fn submodules_of(source: &CommitSource) -> Result<Vec<Found>, SourceError> {
    let repository = source.mirror.open().map_err(|error| source.broken(&error))?;
    let git = Git { repository: &repository, source };
    let top = git.tree(source.tree)?;
    let file = match top.get_name(".gitmodules").map(|entry| (entry.id(), kind(&entry))) {
        Some((id, Entry::File { .. })) => git.blob(id, ".gitmodules", MAX_FILE, None)?,
        // git does not follow a link in its place either.
        _ => return Ok(Vec::new()),
    };
    let named = gitmodules::parse(&String::from_utf8_lossy(file.content()));
    if named.len() > MAX_NAMED {
        let reason = format!("it names {} submodules; at most {MAX_NAMED} are looked for", named.len());
        return Err(bad(".gitmodules", reason));
    }
    let mut all = Vec::new();
    for module in named {
        let Some(path) = module.path else { continue };
        let path = path.trim_end_matches('/').to_owned();
        if let Some(commit) = git.gitlink(&path)? {
            all.push(Found { path, url: module.url, is_left_out: module.is_left_out, commit });
        }
    }
    all.sort_by(|one, other| one.path.cmp(&other.path));
    // Of two names for one path the first counts.
    all.dedup_by(|one, other| one.path == other.path);
    Ok(all)
}

fn below(folder: &str, path: &str) -> String {
    match folder {
        "" => path.to_owned(),
        folder => format!("{folder}/{path}"),
    }
}

/// The path from `root`, if it lies in there.
fn inside<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    match root {
        "" => Some(path),
        root => path.strip_prefix(root)?.strip_prefix('/'),
    }
}

/// Whether nothing of a folder is sent.
fn leaves_out(rules: &Rules, folder: &str) -> bool {
    let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
    let (ignored, _) =
        ends.fold((false, Matched::default()), |(_, matched), end| rules.ignores(&folder[..end], &matched));
    ignored && !rules.reaches_into(folder)
}

fn bad(path: &str, reason: String) -> SourceError {
    SourceError::BadSubmodule { path: path.to_owned(), reason }
}

fn within(path: &str, error: SourceError) -> SourceError {
    match error {
        SourceError::Cancelled => SourceError::Cancelled,
        error if path.is_empty() => error,
        error => SourceError::InSubmodule { path: path.to_owned(), error: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_decides_what_is_needed() {
        assert_eq!(inside("web/lib", "web"), Some("lib"));
        assert_eq!(
            (inside("lib", ""), inside("website", "web"), inside("web", "web")),
            (Some("lib"), None, None)
        );
        let rules = Rules::parse(".dockerignore", b"vendor\ndocs/*\n!docs/api/x\n").unwrap();
        for (folder, left_out) in
            [("vendor", true), ("vendor/a", true), ("docs/api", false), ("docs/b", true), ("src", false)]
        {
            assert_eq!(leaves_out(&rules, folder), left_out, "{folder}");
        }
    }
}
