//! The janitor: removes what BuildGrid has made and nobody needs any more, every hour, and at once when a
//! disk is too full; then also what can be made again, or what the timeline service has, until there is
//! room again. Nothing of it needs space itself.
//!
//! | what | goes | when space is short |
//! |---|---|---|
//! | directories of ended builds | after `worker.keep_builds`, if the timeline service has all of it | an hour after the end, the oldest first, if it does |
//! | directories of builds without an event or an end | an hour, or `worker.keep_builds`, after the last change | |
//! | git mirrors | after `source.keep_mirrors` | the longest unused first |
//! | how events ended, in the store | after `worker.keep_builds` | |
//! | temporary files of the store | when a crash has left them: no writer holds them | |
//! | logins of builds, in the store | once they have expired | |
//! | private tags on the engine | once older than any build can be | |
//! | the engine's build cache, if it is BuildGrid's alone | above `engine.keep_cache` | the longest unused first; all of it once a build has found the disk full |
//!
//! Every hour, unless a disk is too full, it also packs mirrors that many fetches have left something in.
//!
//! What is in use stays: a running build's directory, a mirror that a fetch or a build reads, the cache
//! that a build uses. What cannot be removed is told and passed over.

mod engine;
mod files;
mod removal;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::build_directory::DataDirectory;
use super::delivery::Handler;
use super::disks::{Pressure, told};
use crate::config::{Config, Live};
use crate::disk::{DiskConfig, Fill, aside};
use crate::source::Sources;
use crate::store::Store;
use files::Needs;
use removal::Tally;

/// How often it goes round.
const ROUND: Duration = Duration::from_secs(3600);
/// How often while a disk is too full: builds end meanwhile, and leave what can go.
const UNDER_PRESSURE: Duration = Duration::from_secs(60);
/// How long the end waits for what is being removed.
const LEAVE: Duration = Duration::from_secs(2);

pub struct Janitor {
    handler: Arc<Handler>,
    live: Live,
    drain: CancellationToken,
}

/// What the configuration says of how long things are kept.
struct Limits {
    keep_builds: Duration,
    keep_mirrors: Duration,
    keep_cache: u64,
    marks: DiskConfig,
    data_dir: PathBuf,
}

impl Limits {
    fn of(config: &Config) -> Self {
        Self {
            keep_builds: config.worker.keep_builds,
            keep_mirrors: config.source.keep_mirrors,
            keep_cache: config.engine.keep_cache.0,
            marks: config.disk,
            data_dir: config.worker.data_dir.clone(),
        }
    }

    /// Whether the disk of the data directory has not come below the low mark yet.
    fn is_short(&self) -> bool {
        is_short(self.marks, &self.data_dir)
    }
}

/// Whether the disk under `path` has not come below the low mark yet. Blocking.
fn is_short(marks: DiskConfig, path: &Path) -> bool {
    Fill::of(path).is_ok_and(|fill| marks.on(fill.whole()).too_full(&fill, true).is_some())
}

/// Why the janitor goes round.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    pressure: Pressure,
    /// An hour has passed.
    is_hourly: bool,
    /// A build has found the engine's disk full.
    engine_full: bool,
}

impl Janitor {
    pub fn new(live: Live, handler: &Arc<Handler>, drain: CancellationToken) -> Self {
        Self { handler: handler.clone(), live, drain }
    }

    fn limits(&self) -> Limits {
        Limits::of(&self.live.now())
    }

    /// Goes round until the drain.
    pub async fn run(self, mut pressure: watch::Receiver<Pressure>) {
        let janitor = Arc::new(self);
        let mut full = janitor.handler.pipeline.engine.as_ref().map(|engine| engine.full());
        let mut hourly = Instant::now();
        let mut engine_full = false;
        while !janitor.drain.is_cancelled() {
            let is_hourly = hourly <= Instant::now();
            if is_hourly {
                hourly = Instant::now() + ROUND;
            }
            let round = Round { pressure: *pressure.borrow(), is_hourly, engine_full };
            janitor.clone().go(round).await;
            if is_hourly {
                janitor.pack(pressure.clone(), full.clone()).await;
            }
            let next = match round.pressure.is_any() {
                true => hourly.min(Instant::now() + UNDER_PRESSURE),
                false => hourly,
            };
            engine_full = tokio::select! {
                () = janitor.drain.cancelled() => false,
                () = tokio::time::sleep_until(next) => false,
                () = told(&mut full) => true,
                () = pressed(&mut pressure, round.pressure) => false,
            };
        }
    }

    async fn go(self: Arc<Self>, round: Round) {
        let mut tally = self.clone().files_aside(round).await.unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "the janitor has not ended its round");
            Tally::default()
        });
        // Nor does an engine that hangs delay the end.
        if let Some(engine) = self.drain.run_until_cancelled(self.engine(round)).await {
            tally.add(engine);
        }
        tally.report();
    }

    /// What lies in files. A disk that hangs does not delay the end: of what is removed then, a part may stay, as
    /// after a crash, and goes another time.
    async fn files_aside(self: Arc<Self>, round: Round) -> anyhow::Result<Tally> {
        let drain = self.drain.clone();
        let files = aside("janitor", move || self.files(round)).context("start a thread")?;
        tokio::select! {
            tally = files => tally.context("it has panicked"),
            () = async { drain.cancelled().await; tokio::time::sleep(LEAVE).await } => Ok(Tally::default()),
        }
    }

    /// Packs mirrors, which may take long, and takes room before it gives some back: it ends where a disk is too full.
    async fn pack(&self, pressure: watch::Receiver<Pressure>, full: Option<watch::Receiver<()>>) {
        let (sources, drain) = (self.handler.pipeline.sources.clone(), self.drain.clone());
        let stop = move || {
            let is_told = full.as_ref().is_some_and(|full| full.has_changed().unwrap_or(false));
            drain.is_cancelled() || pressure.borrow().is_any() || is_told
        };
        match aside("janitor", move || files::packs(&sources, &stop)) {
            Ok(packed) => tokio::select! {
                _ = packed => {}
                () = async { self.drain.cancelled().await; tokio::time::sleep(LEAVE).await } => {}
            },
            Err(error) => tracing::error!(%error, "the janitor cannot start a thread to pack mirrors"),
        }
    }

    /// What lies in files. Blocking.
    fn files(&self, round: Round) -> Tally {
        let mut tally = Tally::default();
        let (handler, limits) = (&self.handler, self.limits());
        let short = round.pressure.data;
        let needs = Needs::Worker { claims: &handler.claims, has_timeline: handler.reporting.is_some() };
        files::builds(&handler.data, &needs, &limits, short, &self.drain, &mut tally);
        files::mirrors(&handler.pipeline.sources, &limits, short, &self.drain, &mut tally);
        let store = handler.pipeline.publisher.store();
        files::temporary(store, &self.drain, &mut tally);
        files::ends(store, &limits, &self.drain, &mut tally);
        if round.is_hourly {
            match store.blob_bytes(&self.drain) {
                Ok(None) => {}
                Ok(Some(bytes)) => metrics::gauge!("buildgrid_store_bytes").set(bytes as f64),
                Err(error) => tracing::warn!(%error, "the size of the store cannot be counted"),
            }
        }
        tally
    }
}

/// Resolves once a disk is too full that was not `before`.
async fn pressed(pressure: &mut watch::Receiver<Pressure>, before: Pressure) {
    let more = |now: &Pressure| {
        now.data && !before.data || now.store && !before.store || now.engine && !before.engine
    };
    if pressure.wait_for(more).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The round of `buildgrid build`, for what earlier ones have left in its own data directory. Blocking.
pub fn by_hand(config: &Config, data: &DataDirectory, sources: &Sources) {
    let (limits, drain, mut tally) = (Limits::of(config), CancellationToken::new(), Tally::default());
    files::builds(data, &Needs::Nobody { has_timeline: false }, &limits, false, &drain, &mut tally);
    files::mirrors(sources, &limits, false, &drain, &mut tally);
    tally.report();
}

/// A round before the start of what needs space for it, as a database does: on a disk that is too full. Blocking.
pub fn make_room(config: &Config, has_timeline: bool) -> anyhow::Result<()> {
    let path = &config.worker.data_dir;
    let is_full = |path: &Path| {
        Fill::of(path).is_ok_and(|fill| config.disk.on(fill.whole()).too_full(&fill, false).is_some())
    };
    // Before the first start there is nothing to clear.
    if !path.exists() || !is_full(path) {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "the disk is too full; looking for what can be spared");
    let (limits, drain, mut tally) = (Limits::of(config), CancellationToken::new(), Tally::default());
    let data = DataDirectory::open(path)?;
    files::builds(&data, &Needs::Nobody { has_timeline }, &limits, true, &drain, &mut tally);
    files::mirrors(&Sources::new(config.source.clone(), data.mirrors())?, &limits, true, &drain, &mut tally);
    if let Ok(store) = Store::open_read_only(&config.store) {
        files::temporary(&store, &drain, &mut tally);
    }
    tally.report();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_disk_that_fills_during_a_round_is_not_missed() {
        let none = Pressure::default();
        let (fill, mut pressure) = watch::channel(none);
        assert!(pressed(&mut pressure, none).now_or_never().is_none());
        let data = Pressure { data: true, ..none };
        fill.send_replace(data);
        let _ = pressure.borrow_and_update();
        assert!(pressed(&mut pressure, none).now_or_never().is_some());
        assert!(pressed(&mut pressure, data).now_or_never().is_none(), "the round was for it");
        fill.send_replace(none);
        assert!(pressed(&mut pressure, data).now_or_never().is_none(), "there is room again");
        fill.send_replace(Pressure { engine: true, ..data });
        assert!(pressed(&mut pressure, data).now_or_never().is_some(), "another one");
    }
}
