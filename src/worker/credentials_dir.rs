//! The directory with the builds' secrets: whether it can be used, and the gate that is closed while it cannot.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::secrets::Secrets;

/// How often the worker looks whether its secrets can be read.
const LOOK: Duration = Duration::from_secs(1);

/// systemd's (`$CREDENTIALS_DIRECTORY`, systemd.exec(5)), or one that only the worker's user can read.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    path: PathBuf,
    /// systemd sees to its protection.
    is_systemds: bool,
}

/// Why the directory cannot be used, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Directory {
    /// The configured one, else systemd's, if there is one.
    pub fn of(configured: Option<PathBuf>, systemds: Option<PathBuf>) -> Option<Self> {
        let path = configured.or_else(|| systemds.clone())?;
        Some(Self { is_systemds: Some(&path) == systemds.as_ref(), path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its files can be listed by this user, and by no other. Blocking.
    pub fn check(&self) -> Result<(), Unusable> {
        let metadata = fs::metadata(&self.path).map_err(|error| self.unreadable(&error))?;
        if !metadata.is_dir() {
            return Err(self.unusable("is not a directory; name one"));
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if !self.is_systemds && mode & 0o077 != 0 {
            let path = self.path.display();
            return Err(self.unusable(&format!(
                "has mode {mode:04o}: its secrets are open to other users; chmod 0700 {path}"
            )));
        }
        fs::read_dir(&self.path).map(drop).map_err(|error| self.unreadable(&error))
    }

    /// What it means that it cannot be read.
    pub fn unreadable(&self, error: &io::Error) -> Unusable {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound if self.is_systemds => {
                "start the service anew, for which systemd makes it"
            }
            io::ErrorKind::NotFound => "make it, with mode 0700 and owned by the user that this runs as",
            io::ErrorKind::PermissionDenied => "it must belong to the user that this runs as",
            _ => "check its disk and mount",
        };
        self.unusable(&format!("cannot be read ({error}); {remedy}"))
    }

    fn unusable(&self, words: &str) -> Unusable {
        let key = if self.is_systemds { "$CREDENTIALS_DIRECTORY" } else { "worker.credentials_dir" };
        Unusable(format!("{} ({key}) {words}", self.path.display()))
    }
}

/// A gate that is closed while the secrets cannot be read: without them no log could be masked, and so nothing be
/// built. Without a directory, nothing can be wrong with it.
pub(super) fn watch(secrets: &Secrets, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> Gate {
    let look = |secrets: &Secrets| secrets.check().err().map(|unusable| unusable.to_string());
    let fault = look(secrets);
    if let Some(reason) = &fault {
        tracing::warn!(reason, "the secrets cannot be read; taking no events");
    }
    let (keeper, gate) = Gate::new("secrets", fault);
    if secrets.directory().is_none() {
        return gate;
    }
    let (stop, secrets) = (stop.clone(), secrets.clone());
    tasks.spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
            let secrets = secrets.clone();
            let Ok(fault) = tokio::task::spawn_blocking(move || look(&secrets)).await else { continue };
            match (keeper.set(fault.clone()), fault) {
                (true, Some(reason)) => {
                    tracing::warn!(reason, "the secrets cannot be read; taking no events");
                }
                (true, None) => tracing::info!("the secrets can be read again"),
                _ => {}
            }
        }
    });
    gate
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    fn refused(path: &Path, systemds: Option<&Path>) -> String {
        let directory = Directory::of(Some(path.to_owned()), systemds.map(Path::to_owned)).unwrap();
        directory.check().unwrap_err().to_string()
    }

    #[test]
    fn one_that_cannot_be_used_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::set_permissions(path, Permissions::from_mode(0o750)).unwrap();
        assert_eq!(
            refused(path, None),
            format!(
                "{0} (worker.credentials_dir) has mode 0750: its secrets are open to other users; chmod 0700 {0}",
                path.display()
            )
        );
        Directory::of(None, Some(path.to_owned())).unwrap().check().unwrap();
        let missing = path.join("missing");
        let said = refused(&missing, None);
        assert!(said.contains("missing (worker.credentials_dir) cannot be read (No such file"), "{said}");
        assert!(said.contains("make it, with mode 0700"), "{said}");
        let said = refused(&missing, Some(&missing));
        assert!(
            said.contains("($CREDENTIALS_DIRECTORY)") && said.contains("start the service anew"),
            "{said}"
        );
        let file = path.join("file");
        fs::write(&file, "").unwrap();
        assert!(refused(&file, None).contains("is not a directory"));
        assert!(Directory::of(None, None).is_none());
    }
}
