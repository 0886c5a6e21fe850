//! Logins that were right a moment ago: a pull is many requests by one login, which need not all read it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::store::{Credential, Store, StoreError, UserName};

/// For how long a login is right after it was read. One that is removed or has a new password is refused that much
/// later at most.
const HOLDS: Duration = Duration::from_secs(1);

/// Logins remembered at once, of a few hundred bytes each.
const MOST: u64 = 10_000;

/// Remembers nothing but what says yes: who gets a login wrong is judged by the store each time, so that one that is
/// new, or has a new password, is known at once.
#[derive(Debug, Clone)]
pub(super) struct Logins(Cache<UserName, Read>);

#[derive(Debug, Clone)]
struct Read {
    credential: Arc<Credential>,
    /// When reading it began.
    at: Instant,
}

impl Default for Logins {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Logins {
    /// The login of this user and password.
    pub(super) async fn verify(
        &self,
        store: &Store,
        user: &str,
        password: &str,
    ) -> Result<Option<Arc<Credential>>, StoreError> {
        let now = Instant::now();
        let remembered = user.parse().ok().and_then(|user: UserName| self.0.get(&user));
        if let Some(read) = remembered
            && now.duration_since(read.at) < HOLDS
            && read.credential.is_for(password)
        {
            return Ok(Some(read.credential));
        }
        let Some(credential) = store.verify_credential(user, password).await? else { return Ok(None) };
        let credential = Arc::new(credential);
        self.0.insert(credential.user.clone(), Read { credential: credential.clone(), at: now });
        Ok(Some(credential))
    }
}
