//! How long logs are kept: a round every hour removes those that are old, and `buildgrid history prune` at once.
//! What a log belongs to stays in the history, and says that its log was removed.

mod config;

use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::db::history::{self, Of, Old, OldLog};
use super::db::{Database, Job, WriteError};
use crate::config::Live;
use crate::event::result::ResultEvent;
use crate::publish::name::{AppName, ImageRepository, Namespace};
use crate::store::Store;

pub use config::HistoryConfig;

/// How often it goes round.
const ROUND: Duration = Duration::from_secs(3600);
/// How long after the start the first time: workers that come back are served before.
const FIRST: Duration = Duration::from_secs(60);

/// What a round has found in an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pruned {
    pub namespace: Namespace,
    pub app: AppName,
    /// Logs that were removed, or would be.
    pub logs: u64,
    /// What they took in the database, in bytes.
    pub bytes: u64,
    /// Logs that are old and stay, with their images.
    pub with_images: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("the database: {0}")]
    Read(#[from] sqlx::Error),
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// One look through all logs.
pub struct Round<'a> {
    pub database: &'a Database,
    /// Where the images are; where it cannot be looked at, all of them count as there.
    pub store: Option<&'a Store>,
    pub limits: HistoryConfig,
    pub now: OffsetDateTime,
    /// Whether it only tells what it would do.
    pub dry_run: bool,
}

impl Round<'_> {
    /// Removes what is old, and answers what it was, app by app.
    pub async fn prune(&self) -> Result<Vec<Pruned>, PruneError> {
        let mut apps = Vec::new();
        for (namespace, app) in self.database.apps_with_logs().await? {
            let mut pruned =
                Pruned { namespace: namespace.clone(), app: app.clone(), logs: 0, bytes: 0, with_images: 0 };
            let HistoryConfig { keep_logs, keep_last, .. } = self.limits;
            let old = Old { namespace, app, cutoff: self.now - keep_logs, keep_last };
            for of in [Of::Builds, Of::Deploys] {
                let (mut logs, mut next) = self.database.old_logs(&old, of, None).await?;
                loop {
                    self.remove(logs, &mut pruned).await?;
                    let Some(before) = next else { break };
                    (logs, next) = self.database.old_logs(&old, of, Some(before)).await?;
                }
            }
            if pruned.logs + pruned.with_images > 0 {
                apps.push(pruned);
            }
        }
        if !self.dry_run && !apps.is_empty() {
            while self.database.write(give_back()).await? {}
        }
        Ok(apps)
    }

    async fn remove(&self, logs: Vec<OldLog>, pruned: &mut Pruned) -> Result<(), PruneError> {
        for old in logs {
            if self.limits.keep_with_images && self.has_image(&old.id, old.result.as_ref()).await {
                pruned.with_images += 1;
                continue;
            }
            let (bytes, cutoff) = (old.bytes, self.now - self.limits.keep_logs);
            if self.dry_run || self.database.write(removal(old, cutoff, self.now)).await? {
                pruned.logs += 1;
                pruned.bytes += bytes;
            }
        }
        Ok(())
    }

    /// Whether the image that a build has published is there, as far as it can be known.
    async fn has_image(&self, build: &str, result: Option<&ResultEvent>) -> bool {
        let Some((repository, digest)) =
            result.and_then(|result| Some((repository(result)?, result.digest?)))
        else {
            return false;
        };
        let Some(store) = self.store else { return true };
        let manifest = match store.manifest(&repository, digest).await {
            // One that is not mounted any more has no images either.
            Ok(None) => store.check().await.map(|()| false),
            found => found.map(|manifest| manifest.is_some()),
        };
        match manifest {
            Ok(is_there) => is_there,
            Err(error) => {
                tracing::warn!(build, %error, "the log of an image stays: whether the image is there cannot be read");
                true
            }
        }
    }
}

/// The repository of an image, out of its URL.
fn repository(result: &ResultEvent) -> Option<ImageRepository> {
    let (_, name) = result.image.as_deref()?.split_once('/')?;
    name.rsplit_once(':')?.0.parse().ok()
}

fn removal(old: OldLog, cutoff: OffsetDateTime, now: OffsetDateTime) -> Job<bool, WriteError> {
    Box::new(move |connection| {
        Box::pin(async move { Ok(history::remove(connection, &old, cutoff, now).await?) })
    })
}

fn give_back() -> Job<bool, WriteError> {
    Box::new(|connection| Box::pin(async move { Ok(history::give_back(connection).await?) }))
}

/// Goes round for as long as the service runs.
pub(super) async fn keep(database: Database, live: Live, store: Option<Store>, stop: CancellationToken) {
    let mut pause = FIRST;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = ROUND;
        let round = Round {
            database: &database,
            store: store.as_ref(),
            limits: live.now().history,
            now: OffsetDateTime::now_utc(),
            dry_run: false,
        };
        match stop.run_until_cancelled(round.prune()).await {
            Some(Ok(apps)) => {
                for Pruned { namespace, app, logs, bytes, .. } in apps.iter().filter(|app| app.logs > 0) {
                    let freed = ByteSize(*bytes).display().iec();
                    tracing::info!(%namespace, %app, logs, %freed, "removed logs that are older than history.keep_logs");
                }
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot remove old logs; they are looked at again in an hour")
            }
            None => return,
        }
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
