//! What is set once for the whole process before libgit2 is used: its limits, its configuration, and
//! our transport in the place of its own.

use std::sync::OnceLock;

use anyhow::{Context as _, anyhow};
use git2::opts;
use git2::{ConfigLevel, ErrorClass, ErrorCode, Oid, Repository, transport};

use super::error::SourceError;
use super::transport::{http_transport, ssh_transport};

/// How much of a pack is mapped into memory at a time, and of all packs together. libgit2's own
/// figures for 32-bit machines; those for 64-bit ones (1 GiB and 8 GiB) would count against the
/// memory limit of the worker's unit.
const WINDOW: usize = 16 << 20;
const MAPPED: usize = 64 << 20;

/// Should a connection ever bypass our transport: libgit2's own wait without end.
const SOCKET_TIMEOUT_MS: i32 = 60_000;

/// Prepares libgit2; the second and every later call only repeats the first one's answer.
pub(super) fn prepare() -> anyhow::Result<()> {
    static PREPARED: OnceLock<Result<(), git2::Error>> = OnceLock::new();
    PREPARED
        .get_or_init(prepare_once)
        .as_ref()
        .map_err(|error| anyhow!(error.message().to_owned()))
        .context("prepare libgit2")?;
    Ok(())
}

#[expect(unsafe_code, reason = "libgit2's global options and transports are plain globals")]
fn prepare_once() -> Result<(), git2::Error> {
    // SAFETY: the setters ask that nothing else uses libgit2 meanwhile. Only this folder does, through
    // `Sources`, which cannot be had before this function has returned; `OnceLock` lets it run once.
    unsafe {
        opts::set_mwindow_size(WINDOW)?;
        opts::set_mwindow_mapped_limit(MAPPED)?;
        opts::set_server_connect_timeout_in_milliseconds(SOCKET_TIMEOUT_MS)?;
        opts::set_server_timeout_in_milliseconds(SOCKET_TIMEOUT_MS)?;
        // The git configuration of the machine and its users could rewrite URLs (`url.*.insteadOf`) or
        // name proxies: a build must not depend on it.
        for level in [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global] {
            opts::set_search_path(level, "")?;
        }
        for scheme in ["http", "https"] {
            transport::register(scheme, http_transport)?;
        }
        transport::register("ssh", ssh_transport)?;
    }
    Ok(())
}

/// Whether an error is the machine's (no space, no memory, no file handles) and so says nothing about
/// the mirror that was at hand: neither what is missing nor what cannot be read as a pack is.
pub(super) fn is_of_machine(error: &git2::Error) -> bool {
    match error.class() {
        ErrorClass::NoMemory => true,
        ErrorClass::Os | ErrorClass::Filesystem => {
            // Of a damaged pack libgit2 speaks as of a file that cannot be read (pack.c, `packfile_open_locked`).
            error.code() != ErrorCode::NotFound && !error.message().starts_with("invalid packfile")
        }
        _ => false,
    }
}

/// The length of an object in bytes, which is known before the object is read.
pub(super) fn size(repository: &Repository, id: Oid) -> Result<u64, git2::Error> {
    let (size, _) = repository.odb()?.read_header(id)?;
    Ok(size as u64)
}

/// Runs work on a blocking thread, within the caller's tracing span.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and has not begun the work.
            Err(_) => Err(SourceError::Cancelled),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_machines_errors_from_a_broken_mirrors() {
        for (class, code, message, of_machine) in [
            (
                ErrorClass::Os,
                ErrorCode::GenericError,
                "cannot extend packfile 'x': No space left on device",
                true,
            ),
            (ErrorClass::Filesystem, ErrorCode::GenericError, "failed to make directory", true),
            (ErrorClass::NoMemory, ErrorCode::GenericError, "out of memory", true),
            (
                ErrorClass::Os,
                ErrorCode::NotFound,
                "failed to resolve path 'x': No such file or directory",
                false,
            ),
            (ErrorClass::Os, ErrorCode::GenericError, "invalid packfile 'x'", false),
            (ErrorClass::Odb, ErrorCode::GenericError, "packfile is corrupt", false),
            (ErrorClass::Net, ErrorCode::GenericError, "unexpected EOF", false),
        ] {
            assert_eq!(is_of_machine(&git2::Error::new(code, class, message)), of_machine, "{message}");
        }
    }
}
