//! What builds have left on the engine.

use std::time::Duration;

use super::removal::Tally;
use super::{Janitor, Round};
use crate::build::docker::{DockerEngine, Prune};
use crate::disk::aside;
use crate::publish::publisher;

/// The steps in which the build cache of an engine whose disk is too full goes, until there is room again.
const STEPS: [(Prune, &str); 3] = [
    (Prune::UnusedFor(Duration::from_secs(24 * 3600)), "space is short, and it was unused for a day"),
    (Prune::UnusedFor(Duration::from_secs(3600)), "space is short, and it was unused for an hour"),
    (Prune::All, "space is short, and no build uses it"),
];

impl Janitor {
    pub(super) async fn engine(&self, round: Round) -> Tally {
        let mut tally = Tally::default();
        let Some(engine) = &self.handler.pipeline.engine else { return tally };
        if round.is_hourly || round.pressure.engine {
            match engine.sweep(publisher::LONGEST).await {
                Ok(removed) => tally.things += removed as u64,
                Err(error) => {
                    tracing::warn!(%error, "cannot look for what earlier builds left on the Docker engine");
                }
            }
        }
        if round.engine_full {
            let why = "a build has found the engine's disk full";
            prune(engine, Prune::All, why, &mut tally).await;
        } else if round.pressure.engine {
            for (which, why) in STEPS {
                prune(engine, which, why, &mut tally).await;
                if !self.is_short(engine).await {
                    break;
                }
            }
        } else if round.is_hourly {
            let why = "there was more of it than engine.keep_cache";
            prune(engine, Prune::DownTo(self.limits().keep_cache), why, &mut tally).await;
        }
        tally
    }

    /// Whether the engine's disk has not come below the low mark yet.
    async fn is_short(&self, engine: &DockerEngine) -> bool {
        let Ok(Ok(root)) = engine.root().await else { return false };
        let marks = self.limits().marks;
        match aside("janitor", move || super::is_short(marks, &root)) {
            Ok(short) => short.await.unwrap_or(false),
            Err(_) => false,
        }
    }
}

async fn prune(engine: &DockerEngine, which: Prune, why: &'static str, tally: &mut Tally) {
    match engine.prune(which).await {
        Ok(None | Some(0)) => {}
        Ok(Some(bytes)) => {
            tracing::info!(why, bytes, "pruned the engine's build cache");
            tally.bytes += bytes;
        }
        Err(error) => tracing::warn!(why, %error, "cannot prune the engine's build cache"),
    }
}
