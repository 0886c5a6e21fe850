//! The login by which the engine pulls base images that BuildGrid itself has built (`FROM <registry.host>/…`): made
//! when a build first needs it, for the images of its namespace alone, and removed with the build. What a crash leaves
//! expires by itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::build::credentials::{Lend, Login};
use crate::publish::name::Namespace;
use crate::store::{NewCredential, Store};

/// How much longer than its build it may last: the clock of the registry's machine may be ahead.
const SKEW: Duration = Duration::from_secs(3600);

pub(super) struct PullLogin {
    store: Store,
    namespace: Namespace,
    lasts: Duration,
    made: OnceCell<NewCredential>,
}

impl PullLogin {
    /// For a build of `namespace` that takes `longest` at most. Nothing is made yet.
    pub(super) fn new(store: Store, namespace: Namespace, longest: Duration) -> Arc<Self> {
        Arc::new(Self { store, namespace, lasts: longest.saturating_add(SKEW), made: OnceCell::new() })
    }

    /// What makes it.
    pub(super) fn lend(self: &Arc<Self>) -> Lend {
        let login = self.clone();
        Arc::new(move || {
            let login = login.clone();
            Box::pin(async move { login.login().await })
        })
    }

    async fn login(&self) -> Result<Login, String> {
        let make = || self.store.lend_credential(self.namespace.clone(), self.lasts);
        let made = self.made.get_or_try_init(make).await.map_err(|error| {
            tracing::error!(%error, "cannot make the login for pulling a base image");
            format!("the login for pulling the base image cannot be made: {error}")
        })?;
        Ok(Login { user: made.credential.user.to_string(), secret: made.password.clone() })
    }

    /// Removes it, if it was made.
    pub(super) async fn end(&self) {
        let Some(made) = self.made.get() else { return };
        if let Err(error) = self.store.remove_credential(&made.credential.user).await {
            tracing::warn!(%error, user = %made.credential.user, "a build's login is left in the store until it expires");
        }
    }
}
