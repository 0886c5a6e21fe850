//! Who tells the timeline service now: a reporter for each attempt that runs, and for each that an
//! earlier process, or an earlier try, has left half told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::interrupt::Interrupt;
use super::presence::Presence;
use super::record::{AttemptFiles, Journal, Record};
use super::reporter::{Oldest, Reporter, Writer};
use super::spool::Spool;
use super::telling::Telling;
use crate::event::deploy::BuildId;
use crate::timeline::TimelineConfig;
use crate::timeline::client::TimelineClient;
use crate::worker::build_directory::{BuildDirectory, DataDirectory};

/// Reporters of the past that talk at once: those of running builds go first.
const RESUMED: usize = 4;
/// How long the end of the process waits for what can be told at once.
const CLOSE: Duration = Duration::from_secs(5);
/// How often the lag is measured.
const MEASURE: Duration = Duration::from_secs(1);

/// The worker's line to the timeline service.
pub struct Reporting {
    pub(super) client: TimelineClient,
    pub(super) presence: Arc<Presence>,
    pub(super) spool: Arc<Spool>,
    running: Mutex<HashMap<BuildId, Vec<Running>>>,
    resumed: Arc<Semaphore>,
    tasks: TaskTracker,
    /// What cannot be told at once is left to the next process.
    finish: CancellationToken,
    /// Nothing more is told at all.
    stop: CancellationToken,
}

/// A reporter at work.
struct Running {
    stop: CancellationToken,
    done: CancellationToken,
    journal: Arc<Journal>,
    oldest: Oldest,
}

impl Reporting {
    /// The line to the service that is configured, if one is. While the service is away, logs of up to
    /// `max_spool` bytes wait for it.
    pub fn new(config: &TimelineConfig, max_spool: u64) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(client) = TimelineClient::new(config)? else { return Ok(None) };
        let reporting = Arc::new(Self {
            client,
            presence: Arc::default(),
            spool: Spool::new(max_spool),
            running: Mutex::default(),
            resumed: Arc::new(Semaphore::new(RESUMED)),
            tasks: TaskTracker::new(),
            finish: CancellationToken::new(),
            stop: CancellationToken::new(),
        });
        let measured = reporting.clone();
        reporting.tasks.spawn(async move {
            let finish = measured.finish.clone();
            finish.run_until_cancelled(measured.measure()).await;
        });
        Ok(Some(reporting))
    }

    /// For an attempt that was permitted; `token` ends it.
    pub fn tell(
        self: &Arc<Self>,
        id: &BuildId,
        directory: BuildDirectory,
        record: Record,
        token: CancellationToken,
    ) -> Telling {
        Telling::new(self.clone(), id.clone(), directory, record, token)
    }

    /// Goes on with everything that an earlier process has left. The builds that have no outcome come
    /// first: they are about to be delivered again.
    pub async fn resume_all(self: &Arc<Self>, data: &Arc<DataDirectory>) -> anyhow::Result<()> {
        let data = data.clone();
        let listed = tokio::task::spawn_blocking(move || {
            let mut directories = data.builds()?;
            directories.sort_by_cached_key(BuildDirectory::has_ended);
            anyhow::Ok(directories)
        });
        for directory in listed.await?? {
            self.resume(&directory).await;
        }
        Ok(())
    }

    /// Goes on with the attempts of one build that are not told whole; none of them may be running.
    pub(super) async fn resume(self: &Arc<Self>, directory: &BuildDirectory) {
        let Ok(id) = directory.id().parse::<BuildId>() else { return };
        let listed = directory.clone();
        let unfinished = tokio::task::spawn_blocking(move || {
            let mut unfinished = Vec::new();
            for files in AttemptFiles::all(&listed)? {
                match files.read() {
                    Ok(Some(record)) if record.closed.is_none() => {
                        let length = std::fs::metadata(files.log()).map_or(0, |log| log.len());
                        unfinished.push((length, Journal::new(files, record)));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "cannot tell of an earlier attempt");
                    }
                }
            }
            anyhow::Ok(unfinished)
        });
        match unfinished.await.map_err(anyhow::Error::from).flatten() {
            Ok(unfinished) => {
                for (length, journal) in unfinished {
                    self.spool.wait_for(journal.record().attempt, length);
                    let nobody = Interrupt::new(CancellationToken::new());
                    self.follow(id.clone(), journal, Writer::of_the_past(), nobody);
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), build_id = %id, "cannot tell of earlier attempts");
            }
        }
    }

    /// Starts a reporter, unless there is one.
    pub(super) fn follow(
        self: &Arc<Self>,
        id: BuildId,
        journal: Arc<Journal>,
        writer: Writer,
        interrupt: Interrupt,
    ) {
        let (stop, done) = (self.stop.child_token(), CancellationToken::new());
        let oldest = Oldest::default();
        let entry = Running {
            stop: stop.clone(),
            done: done.clone(),
            journal: journal.clone(),
            oldest: oldest.clone(),
        };
        let mut running = self.running();
        running.retain(|_, reporters| {
            reporters.retain(|reporter| !reporter.done.is_cancelled());
            !reporters.is_empty()
        });
        let reporters = running.entry(id.clone()).or_default();
        let attempt = journal.record().attempt;
        if reporters.iter().any(|reporter| reporter.journal.record().attempt == attempt) {
            return;
        }
        reporters.push(entry);
        drop(running);
        let permits = writer.gone.is_cancelled().then(|| self.resumed.clone());
        let span = tracing::info_span!("report", build_id = %id, attempt_id = %attempt);
        let finish = self.finish.clone();
        let reporter = Reporter {
            id,
            client: self.client.clone(),
            presence: self.presence.clone(),
            spool: self.spool.clone(),
            journal,
            writer,
            interrupt,
            oldest,
            finish: finish.clone(),
        };
        let work = async move {
            let _done = done.drop_guard();
            let _permit = match permits {
                None => None,
                Some(permits) => match finish.run_until_cancelled(permits.acquire_owned()).await {
                    Some(permit) => permit.ok(),
                    None => return,
                },
            };
            stop.run_until_cancelled(reporter.run()).await;
        };
        self.tasks.spawn(work.instrument(span));
    }

    /// Waits until nothing more is told of a build.
    pub(super) async fn caught_up(&self, id: &BuildId) {
        let done: Vec<_> =
            self.running().get(id).into_iter().flatten().map(|reporter| reporter.done.clone()).collect();
        for done in done {
            done.cancelled().await;
        }
    }

    /// Ends the reporters of a build; [`resume`](Self::resume) goes on where they were.
    pub(super) async fn pause(&self, id: &BuildId) {
        let mut journals = Vec::new();
        for reporter in self.running().get(id).into_iter().flatten() {
            reporter.stop.cancel();
            journals.push(reporter.journal.clone());
        }
        self.caught_up(id).await;
        // A reporter that was stopped while it wrote leaves the writing behind.
        let retired =
            tokio::task::spawn_blocking(move || journals.iter().for_each(|journal| journal.retire()));
        if let Err(error) = retired.await {
            tracing::error!(%error, "cannot close what was told of earlier attempts");
        }
    }

    /// Tells what can be told at once, and leaves the rest to the next process.
    pub async fn close(&self) {
        self.finish.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                "the timeline service does not have everything yet; the rest is sent after the next start"
            );
            self.stop.cancel();
            self.tasks.wait().await;
        }
    }

    /// Keeps `buildgrid_log_lag_seconds` true.
    async fn measure(&self) {
        let mut interval = tokio::time::interval(MEASURE);
        loop {
            interval.tick().await;
            let oldest = self.running().values().flatten().filter_map(Running::oldest).min();
            let lag = oldest.map_or(0.0, |oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64());
            metrics::gauge!("buildgrid_log_lag_seconds").set(lag.max(0.0));
        }
    }

    /// A panic in another thread cannot leave the map half changed: each change is one call.
    fn running(&self) -> MutexGuard<'_, HashMap<BuildId, Vec<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn oldest(&self) -> Option<OffsetDateTime> {
        *self.oldest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "reporting_tests.rs"]
mod tests;
