//! A commit that lies in a mirror: what it says about itself, and the way to its context.

use std::sync::Arc;

use git2::{ErrorCode, Oid};
use time::OffsetDateTime;

use super::commit::CommitId;
use super::config::SourceConfig;
use super::context::Context;
use super::error::SourceError;
use super::files::Recipe;
use super::libgit2;
use super::mirror::Mirror;
use super::session::Session;
use super::submodules::Submodules;
use super::tree::MAX_TREE;

/// The longest subject and author kept, in characters.
const MAX_TEXT: usize = 256;

/// A commit that was fetched. It keeps its mirror: while it lives, its context can be streamed.
#[derive(Debug, Clone)]
pub struct FetchedCommit {
    pub id: CommitId,
    /// The first paragraph of its message, on one line.
    pub subject: String,
    /// The author's name.
    pub author: String,
    /// When it was committed.
    pub time: OffsetDateTime,
    pub(super) source: CommitSource,
    /// Those of its submodules that were fetched.
    pub(super) modules: Arc<Submodules>,
}

/// Where a commit's content is read from, and within which limits.
#[derive(Debug, Clone)]
pub(super) struct CommitSource {
    pub(super) mirror: Arc<Mirror>,
    pub(super) commit: CommitId,
    pub(super) tree: Oid,
    /// Seconds since the epoch, not before it: the time of every file of the context.
    pub(super) time: u64,
    pub(super) url: String,
    pub(super) config: Arc<SourceConfig>,
}

impl FetchedCommit {
    /// Looks for a commit in a mirror.
    ///
    /// # Errors
    /// The inner error when the commit cannot be used, the outer one when the mirror cannot be read.
    pub(super) fn find(
        mirror: &Arc<Mirror>,
        id: &CommitId,
        session: &Session,
    ) -> Result<Result<Option<Self>, SourceError>, git2::Error> {
        let repository = mirror.open()?;
        let oid = Oid::from_str(id.as_str())?;
        let commit = match libgit2::size(&repository, oid) {
            // libgit2 reads and parses it whole.
            Ok(size) if size > MAX_TREE.0 => {
                return Ok(Err(SourceError::TooLarge {
                    what: format!("commit {id}"),
                    limit: MAX_TREE,
                    key: None,
                    remedy: "",
                }));
            }
            Ok(_) => repository.find_commit(oid),
            Err(error) => Err(error),
        };
        let commit = match commit {
            Ok(commit) => commit,
            Err(error) if error.code() == ErrorCode::NotFound => return Ok(Ok(None)),
            Err(error) => return Err(error),
        };
        // A mirror without the commit's tree is broken. The tree itself is not read before its size is judged.
        libgit2::size(&repository, commit.tree_id())?;
        let seconds = commit.time().seconds();
        let source = CommitSource {
            mirror: Arc::clone(mirror),
            commit: id.clone(),
            tree: commit.tree_id(),
            time: u64::try_from(seconds).unwrap_or(0),
            url: session.url.clone(),
            config: Arc::clone(&session.config),
        };
        Ok(Ok(Some(Self {
            id: id.clone(),
            subject: one_line(commit.summary_bytes().unwrap_or_default()),
            author: one_line(commit.author().name_bytes()),
            time: OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH),
            source,
            modules: Arc::default(),
        })))
    }

    /// The build context: the folder `root` of the commit (empty for the whole repository) as it is
    /// sent, without what `.dockerignore` leaves out. `dockerfile` is relative to `root`; both are
    /// relative paths without `.` and `..`.
    ///
    /// The Dockerfile and the `.dockerignore` are always in it, because an engine reads them out of an
    /// uploaded context. With the docker command line, which sends them beside the context, `COPY .`
    /// does not copy them where the `.dockerignore` names them; here it does.
    ///
    /// Root, Dockerfile and `.dockerignore` are read before this returns, so that whatever is wrong
    /// with them is known before an engine is asked; limits and the like show as it is sent.
    pub async fn context(&self, root: &str, dockerfile: &str) -> Result<Context, SourceError> {
        let (source, modules) = (self.source.clone(), Arc::clone(&self.modules));
        let (root, dockerfile) = (root.to_owned(), dockerfile.to_owned());
        let recipe = Recipe { source, modules, root, dockerfile };
        let (mut plan, recipe) = libgit2::blocking(move || Ok((recipe.plan()?, recipe))).await?;
        let (dockerfile, text) = (plan.dockerfile.clone(), std::mem::take(&mut plan.text));
        Ok(Context { dockerfile, text, plan, recipe })
    }
}

impl CommitSource {
    /// What libgit2 could not read of the mirror: unless the machine is at fault, the mirror is broken,
    /// and the next fetch replaces it.
    pub(super) fn broken(&self, error: &git2::Error) -> SourceError {
        tracing::warn!(url = self.url, error = error.message(), "the mirror cannot be read");
        if !libgit2::is_of_machine(error) {
            self.mirror.discard();
        }
        SourceError::Mirror { url: self.url.clone(), reason: error.message().to_owned() }
    }
}

fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}
