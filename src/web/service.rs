//! The service: what its handlers share, and its start and end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::access::Passwords;
use super::clock;
use super::db::Database;
use super::history;
use super::live::Live;
use super::policy::PolicyConfig;
use super::queue::Enqueuer;
use super::router::router;
use crate::config;
use crate::permit::Rules;
use crate::serving::tls::Tls;
use crate::serving::{self, Guesses, Limits, Proxies};
use crate::store::{Store, StoreError};

/// A client that for this long sends no complete request head, or takes no byte, is disconnected.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long running requests may go on when the service is told to stop. Who follows a log is told at once.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Searches through logs at a time, each on as many cores as it finds.
const SEARCHES: usize = 2;

/// What the handlers share.
pub struct Timeline {
    pub(super) database: Database,
    pub(super) live: Live,
    pub(super) passwords: Passwords,
    /// Sign-ins that failed.
    pub(super) guesses: Guesses,
    /// Who is believed about where a request comes from.
    pub(super) proxies: Proxies,
    pub(super) queue: Enqueuer,
    /// Where the images are, if that can be read here.
    pub(super) store: Option<Store>,
    /// As it may be reloaded.
    config: config::Live,
    /// Who may follow a log: three of four connections. The others are left to workers, whose leases would
    /// run out behind idle readers, and to all other calls.
    pub(super) followers: Arc<Semaphore>,
    /// Who may look for words in a log: its blocks are unpacked for it, on few cores, which appends need as well.
    pub(super) searches: Semaphore,
    /// What addresses of pages begin with.
    pub(super) base: String,
    /// Whether browsers reach it by TLS, so that their cookies may insist on it.
    pub(super) secure: bool,
    /// Cancelled when the service stops.
    pub(super) stop: CancellationToken,
    max_connections: usize,
    tls: Option<Tls>,
}

impl Timeline {
    /// A service on this database, which enqueues into `queue`. The leases that held when
    /// the database was last used hold on: their workers could not renew them meanwhile.
    pub async fn new(
        config: impl Into<config::Live>,
        database: Database,
        queue: Enqueuer,
        store: Option<Store>,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let passwords = tokio::task::spawn_blocking(Passwords::new).await.context("prepare logins")?;
        database.renew_all(OffsetDateTime::now_utc()).await.context("renew the leases")?;
        let live = config.into();
        let now = live.now();
        let (proxies, config) = (Proxies::new(&now.server), now.timeline);
        let base = config.base().map_or_else(|| format!("http://{}", config.listen), str::to_owned);
        Ok(Self {
            database,
            live: Live::default(),
            passwords: passwords.context("prepare logins")?,
            guesses: Guesses::of_people(),
            proxies,
            queue,
            store,
            config: live,
            followers: Arc::new(Semaphore::new((config.max_connections * 3 / 4).max(1))),
            searches: Semaphore::new(SEARCHES),
            secure: base.starts_with("https://"),
            base,
            stop,
            max_connections: config.max_connections,
            tls: None,
        })
    }

    /// As configured in `timeline.tls`, if it is.
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The host that image URLs begin with.
    pub(super) fn registry_host(&self) -> String {
        self.config.now().registry.host
    }

    /// The store, where this process sees one.
    pub(super) fn store(&self) -> Result<&Store, StoreError> {
        self.store.as_ref().ok_or_else(|| StoreError::NoStore(self.config.now().store.to_string().into()))
    }

    /// What builds may do, as far as the configuration here says: the workers', where both read one file.
    pub(super) fn rules(&self) -> Rules {
        Rules::of(&self.config.now())
    }

    /// What the arbiter goes by now.
    pub(super) fn policy(&self) -> PolicyConfig {
        self.config.now().policy
    }
}

/// Serves pages and API until the service is told to stop; then lets running requests end.
pub async fn serve(listener: TcpListener, timeline: Arc<Timeline>) -> anyhow::Result<()> {
    let address = listener.local_addr().context("ask for the timeline's address")?;
    tracing::info!(%address, url = timeline.base, "the timeline is serving");
    let limits = Limits {
        service: "timeline",
        connections: timeline.max_connections,
        client_timeout: CLIENT_TIMEOUT,
        drain_timeout: DRAIN,
    };
    let (stop, database) = (timeline.stop.clone(), timeline.database.clone());
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    tokio::spawn(clock::watch(database.clone(), ended.clone()));
    let (live, store) = (timeline.config.clone(), timeline.store.clone());
    tokio::spawn(history::keep(database.clone(), live, store, ended));
    let (tls, proxies) = (timeline.tls.clone(), timeline.proxies.clone());
    serving::serve(listener, router(timeline), tls, proxies, limits, stop).await?;
    database.close().await;
    tracing::info!(%address, "the timeline has stopped");
    Ok(())
}
