//! The registry's credentials, as admins manage them on a page: those whose namespaces are all theirs.
//!
//! They lie in the store, where the registry reads them. A service may see no store, or one that it cannot
//! write: then [`Kept`] says so, and the page names the command.

use std::collections::BTreeSet;

use super::access::{Namespaces, Principal, Scope};
use super::refusal::Refusal;
use super::service::Timeline;
use crate::publish::name::Namespace;
use crate::store::{Credential, Credentials, NewCredential, Store, StoreError, UnreadLogin, UserName};

/// The most namespaces of one credential that is made on a page.
const MAX_NAMESPACES: usize = 64;

/// What the service knows of the credentials.
#[derive(Debug)]
pub enum Kept {
    /// Nothing, and why.
    Elsewhere(StoreError),
    Here {
        credentials: Vec<Credential>,
        /// Those whose file is none, for whoever may see all: it is not known whose they are.
        damaged: Vec<UserName>,
        /// The same of those that cannot be read now, and may be good.
        unread: Vec<UnreadLogin>,
        /// Whether the service may change them.
        writable: bool,
    },
}

/// Those that an admin may see, sorted by user name.
pub(super) async fn all(timeline: &Timeline, principal: &Principal) -> Result<Kept, Refusal> {
    principal.must(Scope::Credentials)?;
    let read = async {
        let store = timeline.store()?;
        let credentials = store.credentials().await?;
        Ok::<_, StoreError>((credentials, store.may_write_credentials().await?))
    };
    Ok(match read.await {
        Ok((Credentials { usable: mut credentials, mut damaged, mut unread }, writable)) => {
            credentials.retain(|credential| is_theirs(principal, credential));
            for login in &damaged {
                tracing::warn!(%login, "a registry credential is damaged");
            }
            for login in &unread {
                tracing::warn!(%login, "a registry credential cannot be read");
            }
            if !matches!(principal.namespaces, Namespaces::All) {
                damaged.clear();
                unread.clear();
            }
            let damaged = damaged.into_iter().map(|login| login.user).collect();
            Kept::Here { credentials, damaged, unread, writable }
        }
        Err(error) => {
            if !matches!(error, StoreError::NoStore(_)) {
                tracing::warn!(%error, "the registry's credentials cannot be read");
            }
            Kept::Elsewhere(error)
        }
    })
}

/// Makes one for these namespaces.
pub(super) async fn add(
    timeline: &Timeline,
    principal: &Principal,
    namespaces: BTreeSet<Namespace>,
) -> Result<NewCredential, Refusal> {
    principal.must(Scope::Credentials)?;
    match namespaces.len() {
        0 => return Err(Refusal::Malformed("a credential needs a namespace to pull from".to_owned())),
        count if count > MAX_NAMESPACES => {
            return Err(Refusal::Malformed(format!(
                "{count} namespaces; at most {MAX_NAMESPACES} are taken"
            )));
        }
        _ => {}
    }
    for namespace in &namespaces {
        principal.must_see(namespace, || format!("namespace {namespace}"))?;
    }
    let new = timeline.store()?.add_credential(namespaces).await?;
    let Credential { user, namespaces, .. } = &new.credential;
    tracing::info!(%user, ?namespaces, by = principal.name, "a registry credential was made");
    Ok(new)
}

/// Gives one a new password.
pub(super) async fn rotate(
    timeline: &Timeline,
    principal: &Principal,
    user: &UserName,
) -> Result<NewCredential, Refusal> {
    let store = theirs(timeline, principal, user).await?;
    let new = store.rotate_credential(user).await?.ok_or_else(|| absent(user))?;
    tracing::info!(%user, by = principal.name, "a registry credential has a new password");
    Ok(new)
}

/// Removes one.
pub(super) async fn remove(
    timeline: &Timeline,
    principal: &Principal,
    user: &UserName,
) -> Result<(), Refusal> {
    let store = theirs(timeline, principal, user).await?;
    match store.remove_credential(user).await? {
        true => tracing::info!(%user, by = principal.name, "a registry credential was removed"),
        false => return Err(absent(user)),
    }
    Ok(())
}

/// The store, if it has a credential of this name that the principal may change.
async fn theirs<'a>(
    timeline: &'a Timeline,
    principal: &Principal,
    user: &UserName,
) -> Result<&'a Store, Refusal> {
    principal.must(Scope::Credentials)?;
    let store = timeline.store()?;
    let found = store.credential(user).await?;
    match found.is_some_and(|credential| is_theirs(principal, &credential)) {
        true => Ok(store),
        false => Err(absent(user)),
    }
}

/// One that is lent to a build is nobody's: it goes with the build.
fn is_theirs(principal: &Principal, credential: &Credential) -> bool {
    credential.expires_at.is_none()
        && credential.namespaces.iter().all(|namespace| principal.namespaces.hold(namespace))
}

fn absent(user: &UserName) -> Refusal {
    Refusal::NotFound(format!("credential {user}"))
}
