//! Who runs a command, and what that user may not look into.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::exit::{Exit, Failure};
use crate::store::StoreConfig;

/// A user of this machine: `anna (1000)`, or `1000` for one that has no name here.
pub(super) fn user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => uid.to_string(),
    }
}

/// The user that this process runs as.
pub(super) fn us() -> String {
    user(Uid::effective().as_raw())
}

/// What another user would leave in the store, its owner could not write to.
pub(super) fn refuse_other_owner(store: &StoreConfig) -> Result<(), Failure> {
    let Some(store) = store.directory() else { return Ok(()) };
    // /proc/self belongs to the user that the program runs as.
    let (Ok(store_owner), Ok(ours)) = (std::fs::metadata(store), std::fs::metadata("/proc/self")) else {
        return Ok(());
    };
    if store_owner.uid() == ours.uid() {
        return Ok(());
    }
    let reason = format!(
        "the store {} belongs to {}; run this as that user, for example by sudo -u '#{}'",
        store.display(),
        user(store_owner.uid()),
        store_owner.uid()
    );
    Err(Failure::new(Exit::Usage, anyhow::Error::msg(reason)))
}

/// If this user may not look whether `path` is there: which directory keeps it out, and who may.
pub(super) fn denied(path: &Path) -> Option<String> {
    let is_denied = |error: &Error| error.kind() == ErrorKind::PermissionDenied;
    std::fs::symlink_metadata(path).err().filter(is_denied)?;
    // The first above it that can be seen at all is the one that cannot be looked into.
    let mut above = path.ancestors().skip(1);
    let (directory, owner) =
        above.find_map(|directory| Some((directory, std::fs::metadata(directory).ok()?.uid())))?;
    Some(format!(
        "permission denied: {} belongs to {}, and this runs as {}; run it as that user or as root",
        directory.display(),
        user(owner),
        us()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_with_their_numbers() {
        assert_eq!(user(0), "root (0)");
        assert_eq!(user(4_000_000_000), "4000000000");
        assert!(us().contains(&Uid::effective().to_string()), "{}", us());
    }

    #[test]
    fn what_is_not_there_is_not_denied() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(denied(folder.path()), None);
        assert_eq!(denied(&folder.path().join("a/b")), None);
    }
}
