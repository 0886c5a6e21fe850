//! From a commit id to a build context: one commit, fetched with libgit2, streamed as a tar.

pub mod commit;
pub mod url;
