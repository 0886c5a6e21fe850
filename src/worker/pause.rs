//! The pause: `<data_dir>/paused` stops a worker's intake for as long as it is there, through restarts.
//! `buildgrid worker pause` writes it, `resume` removes it; a file made by hand does as well.

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use crate::telemetry::printable::printable;
use crate::timeline::entry::timestamp;

/// How often the worker looks whether it is paused.
const LOOK: Duration = Duration::from_secs(1);
/// The most of a file that is read: it may be anybody's.
const LONGEST: u64 = 64 * 1024;

/// Who has paused a worker, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub by: String,
    #[serde(with = "timestamp")]
    pub since: OffsetDateTime,
    pub reason: Option<String>,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Paused {
    By(Pause),
    /// It is there, and nothing that we have written.
    ByHand,
}

impl Pause {
    /// Pauses the worker of this data directory, whole or not at all, and durably.
    pub fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = file(data_dir);
        let write = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
            serde_json::to_writer(&mut file, self)?;
            // Root may write it, and the worker is to read it. The directory keeps all others out.
            file.as_file().set_permissions(Permissions::from_mode(0o644))?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            std::fs::File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| fault("write", &path, error))
    }
}

impl Paused {
    /// Blocking.
    pub fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = file(data_dir);
        let read = || -> io::Result<String> {
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(&path)?, LONGEST), &mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) => Ok(Some(serde_json::from_str(&text).map_or(Self::ByHand, Self::By))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Some(Self::ByHand)),
            Err(error) => Err(fault("read", &path, error)),
        }
    }

    /// Ends the pause; answers whether there was one.
    pub fn remove(data_dir: &Path) -> anyhow::Result<bool> {
        let path = file(data_dir);
        match std::fs::remove_file(&path).and_then(|()| std::fs::File::open(data_dir)?.sync_all()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault("remove", &path, error)),
        }
    }

    /// Who, since when and why.
    pub fn words(&self) -> String {
        match self {
            Self::ByHand => "paused by a file made by hand".to_owned(),
            Self::By(Pause { by, since, reason }) => {
                let since = timestamp::to_string(*since);
                let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                printable(&format!("paused by {by} since {since}{reason}"))
            }
        }
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("paused")
}

/// Why the file cannot be used.
fn fault(what: &str, path: &Path, error: io::Error) -> anyhow::Error {
    match path.is_dir() {
        true => anyhow::anyhow!(
            "{} is a directory, and ought to be the file that pauses the worker; remove it by hand (rmdir)",
            path.display()
        ),
        false => anyhow::Error::from(error).context(format!("{what} {}", path.display())),
    }
}

/// A gate that is closed while the worker is paused. One that cannot see whether it is takes nothing.
pub(super) fn watch(data_dir: &Path, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> Gate {
    let fault = look(data_dir);
    if let Some(fault) = &fault {
        tracing::warn!("the worker takes no events: {fault}");
    }
    let (keeper, gate) = Gate::new("pause", fault.clone());
    let (stop, data_dir, mut said) = (stop.clone(), data_dir.to_owned(), fault);
    tasks.spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let data_dir = data_dir.clone();
            let Ok(fault) = tokio::task::spawn_blocking(move || look(&data_dir)).await else { continue };
            if fault == said {
                continue;
            }
            keeper.set(fault.clone());
            match (&said, &fault) {
                (None, Some(fault)) => {
                    tracing::warn!("the worker takes no events: {fault}; what runs goes on to its end");
                }
                (Some(_), Some(fault)) => tracing::warn!("the worker takes no events still: {fault}"),
                (_, None) => tracing::info!("the worker takes events again: the pause is over"),
            }
            said = fault;
        }
    });
    gate
}

fn look(data_dir: &Path) -> Option<String> {
    match Paused::read(data_dir) {
        Ok(paused) => paused.map(|paused| format!("{}; `buildgrid worker resume` ends it", paused.words())),
        Err(error) => Some(format!("whether it is paused cannot be seen: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Paused::read(folder.path()).unwrap(), None);
        let since = OffsetDateTime::from_unix_timestamp(1_795_428_000).unwrap();
        let pause = Pause { by: "anna".to_owned(), since, reason: Some("disk\u{1b}[2J swap".to_owned()) };
        pause.write(folder.path()).unwrap();
        let read = Paused::read(folder.path()).unwrap().unwrap();
        assert_eq!(read, Paused::By(pause));
        let words = look(folder.path()).unwrap();
        assert!(words.starts_with("paused by anna since 2026-11-23T"), "{words}");
        assert!(words.contains("disk\\u{1b}[2J swap; `buildgrid worker resume`"), "{words}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it");
        assert!(Paused::remove(folder.path()).unwrap() && !Paused::remove(folder.path()).unwrap());
        assert_eq!(look(folder.path()), None);
    }

    #[test]
    fn any_file_of_that_name_pauses() {
        let folder = tempfile::tempdir().unwrap();
        for content in [&b""[..], b"{\"by\":", b"\xff\xfe"] {
            std::fs::write(file(folder.path()), content).unwrap();
            assert_eq!(Paused::read(folder.path()).unwrap(), Some(Paused::ByHand));
        }
        std::fs::remove_file(file(folder.path())).unwrap();
        std::fs::create_dir(file(folder.path())).unwrap();
        let words = look(folder.path()).unwrap();
        assert!(words.contains("cannot be seen") && words.contains("is a directory, and ought"), "{words}");
        let pause = Pause { by: "anna".to_owned(), since: OffsetDateTime::now_utc(), reason: None };
        for error in [pause.write(folder.path()).unwrap_err(), Paused::remove(folder.path()).unwrap_err()] {
            assert!(error.to_string().contains("is a directory, and ought"), "{error:#}");
        }
    }
}
