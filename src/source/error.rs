//! Why there is no source: one variant for each thing that somebody can do something about, each with
//! its own sentence, and whose fault it is.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::commit::CommitId;
use crate::publish::name::Namespace;

/// Whose fault an error is, which decides whether the event is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The build's own: trying again changes nothing.
    Build,
    /// Ours, or the network's: worth another try.
    Infrastructure,
    /// Nobody's: the build was cancelled.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("{url} cannot be reached: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url} timed out: {doing} took longer than {} (source.{key})", humantime(.limit))]
    TimedOut { url: String, doing: &'static str, limit: Duration, key: &'static str },
    #[error(
        "{host} is at {address}, which is not on the public internet; builds are fetched from there only if source.allow_private_addresses lists it"
    )]
    RefusedAddress { host: String, address: String },
    #[error(
        "{url} redirects to {target}, {reason}; if that is where the repository is, make it the event's repository.url"
    )]
    RefusedRedirect { url: String, target: String, reason: String },
    /// Nothing was sent by which the server could know whose build it is.
    #[error(
        "{url} asks for credentials ({how}), and namespace {namespace} has none for it; if the repository is private, put them into a file git.{namespace}.<name> of worker.credentials_dir"
    )]
    NeedsCredentials { url: String, how: String, namespace: Namespace },
    #[error("{url} refuses the credentials in {name} ({how}); are they still valid, and may they read it?")]
    CredentialsRefused { url: String, name: String, how: String },
    #[error("the git credentials in {name} cannot be used: {reason}")]
    BadCredential { name: String, reason: String },
    #[error(
        "{url} would get the credentials in {name} over plain HTTP, where others can read them; use https:// in the event and in the file"
    )]
    UnprotectedCredential { url: String, name: String },
    #[error(
        "the SSH server {host} is not known: its key is {fingerprint}; if that is the fingerprint its operator names, add this line to {} (source.known_hosts): {line}", .file.display()
    )]
    HostKeyUnknown { host: String, fingerprint: String, file: PathBuf, line: String },
    #[error(
        "the SSH server {host} shows another key than the one in {} (source.known_hosts): {fingerprint}; somebody may be listening in, or its operator has changed it and the file must follow", .file.display()
    )]
    HostKeyChanged { host: String, fingerprint: String, file: PathBuf },
    #[error("source.known_hosts {} cannot be read: {reason}", .file.display())]
    UnreadableKnownHosts { file: PathBuf, reason: String },
    /// `with` is the credential that was sent.
    #[error("{url} is not found ({how}); check the event's repository.url{}", unseen(.with, .namespace))]
    RepositoryNotFound { url: String, how: String, namespace: Namespace, with: Option<String> },
    #[error("{url} is not a git repository served over smart HTTP: {reason}")]
    NotARepository { url: String, reason: String },
    #[error(
        "commit {commit} is not in {url}, or no branch or tag leads to it any more; was it force-pushed away, or never pushed?"
    )]
    CommitNotFound { url: String, commit: CommitId },
    #[error("{what} is larger than {}{}{remedy}", .limit.display().iec(), setting(.key))]
    TooLarge {
        what: String,
        limit: ByteSize,
        /// The setting under `source` that the limit comes from, if it can be set.
        key: Option<&'static str>,
        remedy: &'static str,
    },
    #[error("{what}: more than {limit} (source.{key}){remedy}")]
    TooMany { what: String, limit: u64, key: &'static str, remedy: &'static str },
    #[error("build.root {root:?} is not in commit {commit}")]
    NoSuchFolder { root: String, commit: CommitId },
    #[error("build.root {root:?} is {kind} in commit {commit}, not a folder")]
    NotAFolder { root: String, kind: &'static str, commit: CommitId },
    #[error("there is no {dockerfile:?} in {}{}", folder(.root), elsewhere(.found))]
    NoDockerfile {
        root: String,
        dockerfile: String,
        /// Files of the repository that look like Dockerfiles, as paths from its top.
        found: Vec<String>,
    },
    #[error("{path:?} is {kind}, not a file")]
    NotAFile { path: String, kind: &'static str },
    #[error("{path:?} is a symbolic link{}, {reason}", .by.as_ref().map(|by| format!(" by way of {by:?}")).unwrap_or_default())]
    BadLink { path: String, by: Option<String>, reason: &'static str },
    /// What is wrong is so in a submodule.
    #[error("submodule {path:?}: {error}")]
    InSubmodule { path: String, error: Box<SourceError> },
    #[error("submodule {path:?} cannot be fetched: {reason}")]
    BadSubmodule { path: String, reason: String },
    /// One that the build needs and does not have.
    #[error("{path:?} is a submodule {reason}; add it to .dockerignore if the build does not need it")]
    Submodule { path: String, reason: &'static str },
    /// The first few of them.
    #[error(
        "Git LFS keeps {} elsewhere: what lies in the repository are pointers, and fetching from LFS is not supported; commit the files themselves, or add to .dockerignore what the build does not need", listed(.paths)
    )]
    LfsPointers { paths: Vec<String> },
    #[error("{path:?} is not a name that a build context may have: {reason}")]
    BadName { path: String, reason: &'static str },
    #[error("{file}, line {line}: the pattern {pattern:?} cannot be read: {reason}")]
    BadIgnorePattern { file: String, line: usize, pattern: String, reason: &'static str },
    /// libgit2 or the git server went off the protocol.
    #[error("fetching {url} failed: {reason}")]
    Git { url: String, reason: String },
    /// The disk, or what was on it.
    #[error("the mirror of {url} on the worker's disk failed: {reason}")]
    Mirror { url: String, reason: String },
    /// The token was cancelled, or the receiving end of the context was dropped.
    #[error("cancelled")]
    Cancelled,
}

impl SourceError {
    /// The submodule without which what has to be read cannot be.
    pub(super) fn missing_submodule(&self) -> Option<&str> {
        match self {
            Self::Submodule { path, .. } => Some(path),
            _ => None,
        }
    }

    pub fn fault(&self) -> Fault {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::CredentialsRefused { .. }
            | Self::BadCredential { .. }
            | Self::HostKeyUnknown { .. }
            | Self::HostKeyChanged { .. }
            | Self::UnreadableKnownHosts { .. }
            | Self::Git { .. }
            | Self::Mirror { .. } => Fault::Infrastructure,
            Self::InSubmodule { error, .. } => error.fault(),
            Self::Cancelled => Fault::Cancelled,
            _ => Fault::Build,
        }
    }
}

fn humantime(duration: &Duration) -> impl std::fmt::Display {
    humantime_serde::re::humantime::format_duration(*duration)
}

/// Who may not see a repository is often told that there is none.
fn unseen(with: &Option<String>, namespace: &Namespace) -> String {
    match with {
        Some(name) => format!(", and whether the credentials in {name} may read it"),
        None => format!(
            "; if the repository is private, namespace {namespace} needs credentials for it in a file git.{namespace}.<name> of worker.credentials_dir"
        ),
    }
}

fn setting(key: &Option<&'static str>) -> String {
    key.map(|key| format!(" (source.{key})")).unwrap_or_default()
}

fn folder(root: &str) -> String {
    match root {
        "" => "the repository".to_owned(),
        root => format!("the folder {root:?}"),
    }
}

fn listed(paths: &[String]) -> String {
    paths.iter().map(|path| format!("{path:?}")).collect::<Vec<_>>().join(", ")
}

fn elsewhere(found: &[String]) -> String {
    match found {
        [] => ", nor a Dockerfile anywhere else in the repository: add one".to_owned(),
        [one] => match one.rsplit_once('/') {
            Some((parent, name)) => format!(
                "; the repository has {one:?}: set build.root to {parent:?} and build.dockerfile to {name:?}"
            ),
            None => {
                format!(
                    "; the repository has {one:?}: leave build.root out and set build.dockerfile to {one:?}"
                )
            }
        },
        found => format!(
            "; the repository has {}: set build.root to the folder and build.dockerfile to the file",
            listed(found)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_the_dockerfiles_are() {
        let error = |root: &str, found: &[&str]| {
            let found = found.iter().map(|path| path.to_string()).collect();
            SourceError::NoDockerfile { root: root.into(), dockerfile: "Dockerfile".into(), found }
                .to_string()
        };
        assert_eq!(
            error("", &["docker/web/Dockerfile"]),
            r#"there is no "Dockerfile" in the repository; the repository has "docker/web/Dockerfile": set build.root to "docker/web" and build.dockerfile to "Dockerfile""#
        );
        assert!(
            error("web", &["Dockerfile"]).starts_with(r#"there is no "Dockerfile" in the folder "web"; "#)
        );
        assert!(
            error("", &["a/Dockerfile", "b/Dockerfile"]).contains(r#""a/Dockerfile", "b/Dockerfile": set"#)
        );
        assert!(error("", &[]).ends_with("add one"));
    }

    #[test]
    fn the_remote_being_away_is_not_the_builds_fault() {
        let url = || "https://git.example.com/x".to_owned();
        let down = SourceError::Unreachable { url: url(), reason: "connection refused".into() };
        assert_eq!(down.fault(), Fault::Infrastructure);
        let missing = SourceError::CommitNotFound { url: url(), commit: "a".repeat(40).parse().unwrap() };
        assert_eq!(missing.fault(), Fault::Build);
        assert_eq!(SourceError::Cancelled.fault(), Fault::Cancelled);
    }
}
