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
        let mut walk = Walk { budget: Arc::new(Budget::new(self.config())), scope, waiting: VecDeque::new() };
        let chain = vec![(url.clone(), commit.id.clone())];
        let source = commit.source.clone();
        walk.enter(Parent { path: String::new(), url: url.clone(), source, chain }, errand).await?;
        let mut modules = Submodules::new();
        let mut rules = None;
        while let Some((parent, found)) = walk.waiting.pop_front() {
            let path = below(&parent.path, &found.path);
            if !walk.needs(&path) {
                let Some(inside) = inside(&path, scope.root) else { continue };
                if rules.is_none() {
                    rules = Some(self.rules(&commit, scope).await?);
                }
                if rules.as_ref().is_some_and(|rules| leaves_out(rules, inside)) {
                    continue;
                }
            }
            let source = match found.is_left_out {
                true => None,
                false if modules.len() >= MAX_SUBMODULES => {
                    return Err(bad(&path, format!("it is one of more than {MAX_SUBMODULES}")));
                }
                false => {
                    let child = found.of(&parent, &path)?;
                    let (id, url) = (&found.commit, &child.0);
                    (errand.permit)(url).map_err(|reason| bad(&path, reason))?;
                    let words = format!("submodule {path:?}: commit {} of {url}", id.short());
                    errand.log.status(words).await;
                    let fetched = self.fetch_within(errand, url, id, Arc::clone(&walk.budget)).await;
                    let source = fetched.map_err(|error| within(&path, error))?.source;
                    let (url, chain) = child;
                    walk.enter(Parent { path: path.clone(), url, source: source.clone(), chain }, errand)
                        .await?;
                    Some(source)
                }
            };
            modules.insert(path.into_bytes(), source);
            commit.modules = Arc::new(modules.clone());
        }
        Ok(commit)
    }

    async fn rules(&self, commit: &FetchedCommit, scope: Scope<'_>) -> Result<Rules, SourceError> {
        let (source, modules) = (commit.source.clone(), Arc::clone(&commit.modules));
        let (root, dockerfile) = (scope.root.to_owned(), scope.dockerfile.to_owned());
        libgit2::blocking(move || Plan::rules(source, &modules, &root, &dockerfile)).await
    }
}

/// The submodules that are still to be looked at.
struct Walk<'a> {
    budget: Arc<Budget>,
    scope: Scope<'a>,
    /// First those without which root and `.dockerignore` cannot be read.
    waiting: VecDeque<(Arc<Parent>, Found)>,
}

impl Walk<'_> {
    async fn enter(&mut self, parent: Parent, errand: Errand<'_>) -> Result<(), SourceError> {
        let source = parent.source.clone();
        let looking = libgit2::blocking(move || submodules_of(&source));
        let found = errand.cancel.run_until_cancelled(looking).await.ok_or(SourceError::Cancelled)?;
        errand.pulse.beat();
        let parent = Arc::new(parent);
        for found in found.map_err(|error| within(&parent.path, error))? {
            let waiting = (Arc::clone(&parent), found);
            match self.needs(&below(&waiting.0.path, &waiting.1.path)) {
                true => self.waiting.push_front(waiting),
                false => self.waiting.push_back(waiting),
            }
        }
        Ok(())
    }

    /// Whether the root or the Dockerfile lies in a submodule.
    fn needs(&self, path: &str) -> bool {
        let Scope { root, dockerfile } = self.scope;
        leads_to(path, root) || leads_to(path, &below(root, dockerfile))
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

/// Whether `target` is `path` or lies in it.
fn leads_to(path: &str, target: &str) -> bool {
    target.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        assert!(leads_to("web", "web/app") && leads_to("web", "web"));
        assert!(!leads_to("web", "website") && !leads_to("web", ""));
        let rules = Rules::parse(".dockerignore", b"vendor\ndocs/*\n!docs/api/x\n").unwrap();
        for (folder, left_out) in
            [("vendor", true), ("vendor/a", true), ("docs/api", false), ("docs/b", true), ("src", false)]
        {
            assert_eq!(leaves_out(&rules, folder), left_out, "{folder}");
        }
    }
}
