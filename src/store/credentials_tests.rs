//! Tests of the registry's logins.

use super::*;
use crate::store::StoreConfig;
use secrecy::ExposeSecret as _;

#[tokio::test]
async fn are_verified_until_rotated_or_removed() {
    let root = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(root.path().join("store"));
    let store = Store::open(&config).unwrap();
    let reader = Store::open_read_only(&config).unwrap();
    let namespaces: BTreeSet<Namespace> = ["acme", "smoke"].map(|name| name.parse().unwrap()).into();
    let added = store.add_credential(namespaces.clone()).await.unwrap();
    let user = added.credential.user.clone();
    let first = added.password.expose_secret();
    assert!(user.as_str().starts_with("acme-") && first.len() == 32, "{user} {first}");

    let verified = reader.verify_credential(user.as_str(), first).await.unwrap().unwrap();
    assert_eq!((&verified, &verified.namespaces), (&added.credential, &namespaces));
    for (name, password) in [
        (user.as_str(), "wrong"),
        (user.as_str(), ""),
        ("acme-other", first),
        ("", ""),
        // The decoy's.
        ("nobody", ""),
        ("../version", first),
    ] {
        assert_eq!(reader.verify_credential(name, password).await.unwrap(), None, "{name}");
    }

    assert_eq!(reader.credential(&user).await.unwrap().as_ref(), Some(&added.credential));
    assert!(store.may_write_credentials().await.unwrap());
    let rotated = store.rotate_credential(&user).await.unwrap().unwrap();
    let second = rotated.password.expose_secret();
    assert_eq!(reader.verify_credential(user.as_str(), first).await.unwrap(), None);
    assert!(reader.verify_credential(user.as_str(), second).await.unwrap().is_some());
    let all = reader.credentials().await.unwrap();
    assert_eq!(all, Credentials { usable: vec![rotated.credential.clone()], ..Credentials::default() });

    assert!(store.remove_credential(&user).await.unwrap());
    assert!(!store.remove_credential(&user).await.unwrap());
    assert_eq!(reader.verify_credential(user.as_str(), second).await.unwrap(), None);
    assert!(store.rotate_credential(&user).await.unwrap().is_none());
    assert_eq!(reader.credential(&user).await.unwrap(), None);
}

#[tokio::test]
async fn a_password_that_is_too_long_is_not_even_hashed() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    let added = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    let user = added.credential.user.clone();
    let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
    for (length, is_good) in [(MAX_PASSWORD, true), (MAX_PASSWORD + 1, false), (1 << 20, false)] {
        let password = "x".repeat(length);
        let password_digest = Digest::of(password.as_bytes());
        // By its digest it is the right one.
        std::fs::write(&file, json(&Credential { password_digest, ..added.credential.clone() })).unwrap();
        let verified = store.verify_credential(user.as_str(), &password).await.unwrap();
        assert_eq!(verified.is_some(), is_good, "{length}");
    }
}

#[tokio::test]
async fn one_that_is_lent_ends_by_itself() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
    let valid = async |new: &NewCredential| {
        let (user, password) = (new.credential.user.as_str(), new.password.expose_secret());
        store.verify_credential(user, password).await.unwrap().is_some()
    };
    let lent = store.lend_credential("acme".parse().unwrap(), Duration::from_secs(3600)).await.unwrap();
    let over = store.lend_credential("acme".parse().unwrap(), Duration::ZERO).await.unwrap();
    let kept = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    assert!(valid(&lent).await && valid(&kept).await && !valid(&over).await);
    assert_eq!(store.sweep_credentials().unwrap(), 1);
    let left: Vec<_> = store.credentials().await.unwrap().usable;
    assert!(left.contains(&lent.credential) && left.contains(&kept.credential) && left.len() == 2);
    let file = root.path().join(format!("buildgrid/credentials/{}.json", kept.credential.user));
    assert!(!std::fs::read_to_string(file).unwrap().contains("expires_at"), "as earlier versions wrote it");
}

/// A login that is told, one beside it, and the file of the first.
async fn two(root: &std::path::Path, store: &Store) -> (UserName, Credential, std::path::PathBuf) {
    let add = || store.add_credential(["acme".parse().unwrap()].into());
    let (user, other) = (add().await.unwrap().credential.user, add().await.unwrap().credential);
    let file = root.join(format!("buildgrid/credentials/{user}.json"));
    (user, other, file)
}

/// The others are listed and swept beside one that is told, which can be removed.
async fn hides_no_other(store: &Store, other: &Credential, user: &UserName) {
    let over = store.lend_credential("acme".parse().unwrap(), Duration::ZERO).await.unwrap();
    let all = store.credentials().await.unwrap();
    assert!(all.usable.contains(other) && all.usable.contains(&over.credential));
    assert_eq!(store.sweep_credentials().unwrap(), 1, "the others are swept");
    assert_eq!(store.credentials().await.unwrap().usable, std::slice::from_ref(other));
    assert!(store.remove_credential(user).await.unwrap());
    let all = store.credentials().await.unwrap();
    assert!(all.damaged.is_empty() && all.unread.is_empty(), "{all:?}");
}

#[tokio::test]
async fn a_damaged_one_is_told_with_what_helps_and_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    let (user, other, file) = two(root.path(), &store).await;
    std::fs::write(&file, "{").unwrap();
    let all = store.credentials().await.unwrap();
    let ([damaged], []) = (&all.damaged[..], &all.unread[..]) else { panic!("{all:?}") };
    assert_eq!(damaged.user, user);
    for said in [damaged.to_string(), store.credential(&user).await.unwrap_err().to_string()] {
        assert!(said.contains(&*file.to_string_lossy()) && !said.contains("image"), "{said}");
        assert!(said.contains(&format!("`buildgrid credential remove {user}`")), "{said}");
    }
    hides_no_other(&store, &other, &user).await;
}

#[tokio::test]
async fn one_that_cannot_be_read_now_is_not_called_damaged_and_hides_no_other() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    let (user, other, file) = two(root.path(), &store).await;
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    let all = store.credentials().await.unwrap();
    let ([], [unread]) = (&all.damaged[..], &all.unread[..]) else { panic!("{all:?}") };
    assert_eq!(unread.user, user);
    for said in [unread.to_string(), store.credential(&user).await.unwrap_err().to_string()] {
        assert!(said.contains(&*file.to_string_lossy()) && said.contains("symbolic links"), "{said}");
        assert!(!["image", "damaged", "remove"].iter().any(|word| said.contains(word)), "{said}");
    }
    assert!(unread.to_string().contains("look at whose its file is and at the disk, or try again"));
    hides_no_other(&store, &other, &user).await;
}

#[tokio::test]
async fn a_store_that_is_away_has_no_unread_logins() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path())).unwrap();
    let user = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap().credential.user;
    let file = root.path().join(format!("buildgrid/credentials/{user}.json"));
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    std::fs::remove_file(root.path().join("buildgrid/version")).unwrap();
    assert!(matches!(store.credentials().await, Err(StoreError::NoStore(_))));
}

#[tokio::test]
async fn keep_no_password() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::at(root.path().to_owned())).unwrap();
    let added = store.add_credential(["acme".parse().unwrap()].into()).await.unwrap();
    let file = root.path().join(format!("buildgrid/credentials/{}.json", added.credential.user));
    let kept = std::fs::read_to_string(file).unwrap();
    assert!(!kept.contains(added.password.expose_secret()), "{kept}");
    assert!(!format!("{added:?}").contains(added.password.expose_secret()));
}
