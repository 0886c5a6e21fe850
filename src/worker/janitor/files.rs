//! What lies in files: build directories, mirrors, and the store's temporary files. All of it blocks.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Limits;
use super::removal::Tally;
use crate::disk::on_disk;
use crate::event::deploy::BuildId;
use crate::source::Sources;
use crate::store::Store;
use crate::worker::build_directory::{BuildDirectory, DataDirectory};
use crate::worker::claims::{Claims, Running};
use crate::worker::reporting::{is_confirmed, is_unconfirmed};

/// The time after its end for which an event may well come again and is answered from its directory; and
/// that in which a directory gets its event.
const FLOOR: Duration = Duration::from_secs(3600);

/// Who may need a build directory.
pub(super) enum Needs<'a> {
    Worker {
        claims: &'a Claims,
        has_timeline: bool,
    },
    /// No worker runs.
    Nobody {
        has_timeline: bool,
    },
}

impl Needs<'_> {
    fn has_timeline(&self) -> bool {
        match self {
            Self::Worker { has_timeline, .. } | Self::Nobody { has_timeline } => *has_timeline,
        }
    }

    /// Whether something in it is still to be told.
    fn is_unconfirmed(&self, directory: &BuildDirectory) -> bool {
        self.has_timeline() && is_unconfirmed(directory)
    }

    /// Whether everything in it is kept elsewhere.
    fn is_confirmed(&self, directory: &BuildDirectory) -> bool {
        self.has_timeline() && is_confirmed(directory)
    }

    /// Takes the directory out of use. `None`: it is in use.
    fn hold(&self, directory: &BuildDirectory) -> Option<Option<Running>> {
        // What has another name than a build's was not made by BuildGrid.
        let id: BuildId = directory.id().parse().ok()?;
        match self {
            Self::Worker { claims, .. } => claims.hold(&id).map(Some),
            Self::Nobody { .. } => Some(None),
        }
    }
}

/// Build directories, the oldest first.
pub(super) fn builds(
    data: &DataDirectory,
    needs: &Needs<'_>,
    limits: &Limits,
    is_short: bool,
    drain: &CancellationToken,
    tally: &mut Tally,
) {
    let directories = match data.builds() {
        Ok(directories) => directories,
        Err(error) => {
            let error = format!("{error:#}");
            return tracing::warn!(error, "the build directories cannot be looked through for what is old");
        }
    };
    let mut directories: Vec<_> = directories.into_iter().map(|one| (one.unchanged(), one)).collect();
    directories.sort_by_key(|(unchanged, _)| std::cmp::Reverse(*unchanged));
    let mut is_short = is_short;
    for (unchanged, directory) in directories {
        if drain.is_cancelled() || unchanged < FLOOR {
            return;
        }
        let why = if unchanged > limits.keep_builds && !needs.is_unconfirmed(&directory) {
            "nothing has happened in it for longer than worker.keep_builds"
        } else if !directory.exists() {
            "it holds no event: a crash has left it"
        } else if is_short && directory.has_ended() && needs.is_confirmed(&directory) {
            "space is short, and the timeline service has all of it"
        } else {
            continue;
        };
        let Some(_held) = needs.hold(&directory) else { continue };
        // Whoever used it since it was looked at has it still.
        if directory.unchanged() < unchanged {
            continue;
        }
        let bytes = on_disk(directory.path(), drain);
        tally.note("a build directory", directory.path(), why, directory.remove().map(|()| bytes));
        is_short = is_short && limits.is_short();
    }
}

/// Mirrors, the longest unused first.
pub(super) fn mirrors(
    sources: &Sources,
    limits: &Limits,
    is_short: bool,
    drain: &CancellationToken,
    tally: &mut Tally,
) {
    let kept = match sources.kept() {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "the mirrors cannot be looked through for what is old"),
    };
    for mirrors in kept {
        let why = if mirrors.unused > limits.keep_mirrors {
            "nothing was fetched from it for longer than source.keep_mirrors"
        } else if is_short && limits.is_short() {
            "space is short, and it is the longest unused"
        } else {
            return;
        };
        if drain.is_cancelled() {
            return;
        }
        let bytes = on_disk(&mirrors.folder, drain);
        match sources.remove(&mirrors) {
            Ok(false) => {}
            removed => {
                tally.note("the mirrors of a repository", &mirrors.folder, why, removed.map(|_| bytes))
            }
        }
    }
}

/// Packs the mirrors in which many fetches have left something, until it is to stop.
pub(super) fn packs(sources: &Sources, stop: &dyn Fn() -> bool) {
    let kept = match sources.kept() {
        Ok(kept) => kept,
        Err(error) => return tracing::warn!(%error, "the mirrors cannot be looked through for what to pack"),
    };
    for mirrors in kept {
        if stop() {
            return;
        }
        let path = mirrors.folder.display();
        match sources.pack(&mirrors, stop) {
            Ok(0) => {}
            Ok(_) => tracing::info!(%path, "packed the mirrors of a repository"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::warn!(%path, error, "the mirrors of a repository cannot be packed; it is tried again later");
            }
        }
    }
}

/// What the store remembers of how events ended.
pub(super) fn ends(store: &Store, limits: &Limits, drain: &CancellationToken, tally: &mut Tally) {
    let forgotten = store.forget_ends(limits.keep_builds, drain, |path, removed| match removed {
        Ok(bytes) => tally.count(bytes),
        failed => tally.note("the end of an event", path, "it is older than worker.keep_builds", failed),
    });
    if let Err(error) = forgotten {
        tracing::warn!(%error, "the store cannot be looked through for ends of long ago");
    }
}

/// The store's temporary files.
pub(super) fn temporary(store: &Store, drain: &CancellationToken, tally: &mut Tally) {
    let swept = store.sweep(drain, |path, removed| {
        tally.note("a temporary file of the store", path, "a crash has left it", removed);
    });
    if let Err(error) = swept {
        tracing::warn!(%error, "the store cannot be looked through for what crashes have left");
    }
    match store.sweep_credentials() {
        Ok(0) => {}
        Ok(removed) => tracing::info!(removed, "removed logins of builds that have expired in the store"),
        Err(error) => {
            tracing::warn!(%error, "the store cannot be looked through for logins that have expired")
        }
    }
}
