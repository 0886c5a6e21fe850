//! One fetch as the transport sees it: its limits, its cancellation, and what went wrong. libgit2
//! carries only text through its error codes, so the typed error is kept here.

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::url::Url;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::address::AllowedAddress;
use super::advertisement::Announced;
use super::config::SourceConfig;
use super::credentials::Credential;
use super::error::SourceError;
use super::sources::Permit;
use super::url::RepositoryUrl;
use crate::publish::name::Namespace;

thread_local! {
    /// The fetch that runs on this blocking thread. libgit2 makes a transport from a URL alone.
    static CURRENT: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

pub(super) struct Session {
    pub(super) config: Arc<SourceConfig>,
    /// `source.allow_private_addresses`, read.
    pub(super) allowed: Arc<[AllowedAddress]>,
    pub(super) repository: RepositoryUrl,
    /// The repository's URL, for messages.
    pub(super) url: String,
    pub(super) whose: Whose,
    runtime: Handle,
    cancel: CancellationToken,
    budget: Arc<Budget>,
    /// Whether the server can be believed when it refuses a commit: see [`advertisement`](super::advertisement).
    refuses_only_missing: AtomicBool,
    notes: Mutex<Notes>,
}

/// For whom a fetch is.
pub(super) struct Whose {
    pub(super) namespace: Namespace,
    /// Where that may fetch from.
    pub(super) permit: Permit,
    /// What it logs in with, if it has something for the repository.
    pub(super) credential: Option<Credential>,
}

/// What may still be spent, on one fetch or on several together.
pub(super) struct Budget {
    begun: Instant,
    limit: Duration,
    /// In milliseconds: what was spent in lines for repositories, which does not count.
    waited: AtomicU64,
    received: AtomicU64,
}

impl Budget {
    /// One that begins now.
    pub(super) fn new(config: &SourceConfig) -> Self {
        let limit = config.fetch_timeout;
        Self { begun: Instant::now(), limit, waited: AtomicU64::new(0), received: AtomicU64::new(0) }
    }

    /// Takes nothing for time that was spent in a line for a repository.
    pub(super) fn waited(&self, time: Duration) {
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.waited.fetch_add(time, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        self.begun + self.limit + Duration::from_millis(self.waited.load(Ordering::Relaxed))
    }
}

struct Notes {
    /// The repository's URL, or where the server redirected to on the same host.
    base: Url,
    failure: Option<SourceError>,
    /// What the server said instead of a pack.
    remote_error: Option<String>,
    /// What it has announced to an earlier session, which takes the place of its list of refs.
    remembered: Option<Announced>,
    /// What it announces in its list of refs.
    announced: Option<Announced>,
}

impl Session {
    /// A session on the runtime that this is called on.
    pub(super) fn new(
        config: Arc<SourceConfig>,
        allowed: Arc<[AllowedAddress]>,
        url: &RepositoryUrl,
        whose: Whose,
        cancel: CancellationToken,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            config,
            allowed,
            repository: url.clone(),
            url: url.to_string(),
            whose,
            runtime: Handle::current(),
            cancel,
            budget,
            refuses_only_missing: AtomicBool::new(false),
            notes: Mutex::new(Notes {
                base: url.as_url().clone(),
                failure: None,
                remote_error: None,
                remembered: None,
                announced: None,
            }),
        }
    }

    /// Makes this the session of the current thread until the guard is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> impl Drop + use<> {
        struct Guard;
        impl Drop for Guard {
            fn drop(&mut self) {
                CURRENT.set(None);
            }
        }
        CURRENT.set(Some(Arc::clone(self)));
        Guard
    }

    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Waits for `work` on this blocking thread: no longer than `limit`, no longer than the fetch may
    /// take, and not after it was cancelled. `key` is the setting that `limit` comes from.
    pub(super) fn wait<T>(
        &self,
        doing: &'static str,
        (limit, key): (Duration, &'static str),
        work: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => Err(SourceError::Cancelled),
                // Before the work, which a server can keep ready at any time.
                () = tokio::time::sleep_until(self.budget.deadline()) => Err(self.fetch_timed_out()),
                result = work => result,
                () = tokio::time::sleep(limit) => Err(self.timed_out(doing, limit, key)),
            }
        })
    }

    /// Whether the fetch may go on, for code that has nothing to wait for.
    pub(super) fn check(&self) -> Result<(), SourceError> {
        match () {
            () if self.cancel.is_cancelled() => Err(SourceError::Cancelled),
            () if Instant::now() >= self.budget.deadline() => Err(self.fetch_timed_out()),
            () => Ok(()),
        }
    }

    pub(super) fn connect_limit(&self) -> (Duration, &'static str) {
        (self.config.connect_timeout, "connect_timeout")
    }

    pub(super) fn stall_limit(&self) -> (Duration, &'static str) {
        (self.config.stall_timeout, "stall_timeout")
    }

    fn fetch_timed_out(&self) -> SourceError {
        self.timed_out("the fetch", self.config.fetch_timeout, "fetch_timeout")
    }

    pub(super) fn timed_out(&self, doing: &'static str, limit: Duration, key: &'static str) -> SourceError {
        SourceError::TimedOut { url: self.url.clone(), doing, limit, key }
    }

    /// The server does not give the repository to whom we are.
    pub(super) fn unauthorized(&self, how: String) -> SourceError {
        let url = self.url.clone();
        match &self.whose.credential {
            Some(Credential { name, .. }) => SourceError::CredentialsRefused { url, name: name.clone(), how },
            None => SourceError::NeedsCredentials { url, how, namespace: self.whose.namespace.clone() },
        }
    }

    /// Counts bytes that came from the server, up to `source.max_pack`.
    pub(super) fn count(&self, bytes: usize) -> Result<(), SourceError> {
        let received = self.budget.received.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        match received > self.config.max_pack.0 {
            true => Err(SourceError::TooLarge {
                what: format!("what {} sent", self.url),
                limit: self.config.max_pack,
                key: Some("max_pack"),
                remedy: "",
            }),
            false => Ok(()),
        }
    }

    /// The bytes received from the server so far, in all its answers.
    pub(super) fn received(&self) -> u64 {
        self.budget.received.load(Ordering::Relaxed)
    }

    /// Keeps the first failure; what libgit2 makes of it afterwards tells less.
    pub(super) fn fail(&self, error: SourceError) {
        self.notes().failure.get_or_insert(error);
    }

    pub(super) fn take_failure(&self) -> Option<SourceError> {
        self.notes().failure.take()
    }

    pub(super) fn set_remote_error(&self, text: String) {
        self.notes().remote_error = Some(text);
    }

    pub(super) fn take_remote_error(&self) -> Option<String> {
        self.notes().remote_error.take()
    }

    pub(super) fn base(&self) -> Url {
        self.notes().base.clone()
    }

    pub(super) fn set_base(&self, base: Url) {
        self.notes().base = base;
    }

    /// What the server has announced before, where it is not to be asked for its list of refs.
    pub(super) fn remembered(&self) -> Option<Announced> {
        self.notes().remembered.clone()
    }

    pub(super) fn remember(&self, announced: Option<Announced>) {
        if let Some(announced) = &announced {
            self.set_refuses_only_missing(announced.refuses_only_missing);
        }
        self.notes().remembered = announced;
    }

    /// What the server announces in its list of refs, if that was read.
    pub(super) fn announced(&self) -> Option<Announced> {
        self.notes().announced.clone()
    }

    pub(super) fn set_announced(&self, announced: Option<Announced>) {
        self.notes().announced = announced;
    }

    /// Whether the server was found at the repository's URL, and not where that redirects to.
    pub(super) fn is_at_its_url(&self) -> bool {
        self.notes().base == *self.repository.as_url()
    }

    pub(super) fn set_refuses_only_missing(&self, value: bool) {
        self.refuses_only_missing.store(value, Ordering::Relaxed);
    }

    pub(super) fn refuses_only_missing(&self) -> bool {
        self.refuses_only_missing.load(Ordering::Relaxed)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        // Each note is one assignment: a panic elsewhere cannot leave them half written.
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_a_line_is_not_spent() {
        let budget =
            Budget::new(&SourceConfig { fetch_timeout: Duration::from_secs(60), ..SourceConfig::default() });
        for waited in [40, 50] {
            budget.waited(Duration::from_secs(waited));
        }
        assert_eq!(budget.deadline(), budget.begun + Duration::from_secs(150));
    }
}
