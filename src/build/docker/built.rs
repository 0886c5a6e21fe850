//! An image that is built, on the engine: it is read there, or exported, and removed at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::engine::DockerEngine;
use super::export;
use super::storage;
use super::tags::EngineBuildId;
use crate::build::engine::{BuildError, BuildFailure, BuiltImage, NoLayers};
use crate::store::digest::Digest;
use crate::telemetry::pulse::Pulse;
use crate::timeline::mask::Mask;
use crate::timeline::sink::LogSink;

/// How an image comes off the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Out of the engine's own storage where that can be read, and by `docker save` where not.
    #[default]
    Auto,
    /// Out of the engine's own storage; where that cannot be read, the build is tried again as for any other trouble
    /// with the engine.
    EngineStorage,
    /// By `docker save`.
    Export,
}

/// An image on the engine, under a private tag that keeps it there. Forgotten, it is removed in the background.
#[derive(Debug)]
pub struct OnEngine {
    engine: DockerEngine,
    tag: String,
    /// What the engine calls it, where it has said so.
    id: Option<String>,
    mask: Mask,
    /// It was read where it lies, and may be exported should that turn out wrong.
    has_another_way: bool,
    removed: bool,
}

/// How long a cancelled build waits for the removal of its image, which goes on without it.
const REMOVAL: Duration = Duration::from_secs(2);

impl OnEngine {
    /// What the build `id` leaves on the engine, from now on.
    pub(super) fn of(engine: DockerEngine, id: EngineBuildId, mask: Mask) -> Self {
        Self { engine, tag: id.private_tag(), id: None, mask, has_another_way: false, removed: false }
    }

    pub(super) fn is_called(&mut self, id: String) {
        self.id = Some(id);
    }

    /// Reads the image, whose layers are then read while this lives. `spool` is an existing private directory, to which it
    /// is exported where it must be; `pulse` beats with what is.
    ///
    /// # Errors
    /// [`BuildError::Infrastructure`] when it cannot be read, [`BuildError::Cancelled`].
    pub async fn read(
        &mut self,
        way: Way,
        spool: &Path,
        log: &LogSink,
        cancel: &CancellationToken,
        pulse: &Pulse,
    ) -> Result<BuiltImage, BuildError> {
        if way == Way::Export {
            return self.export(spool, log, cancel, pulse).await;
        }
        let stored =
            cancel.run_until_cancelled(Box::pin(self.stored())).await.ok_or(BuildError::Cancelled)?;
        match (stored, way) {
            (Ok(image), _) => {
                self.has_another_way = way == Way::Auto;
                Ok(image)
            }
            (Err(reason), _) if matches!(reason.downcast_ref(), Some(NoLayers::Empty)) => {
                Err(without_layers())
            }
            (Err(reason), Way::EngineStorage) => Err(BuildError::Infrastructure(format!(
                "publish.source is \"engine-storage\", but the engine's storage cannot be read: {}",
                storage::refused(&reason)
            ))),
            (Err(reason), _) => {
                let reason = storage::refused(&reason);
                log.status(format!(
                    "taking the image by docker save, which is slower, since the engine's storage cannot be read: {reason}"
                ))
                .await;
                self.export(spool, log, cancel, pulse).await
            }
        }
    }

    /// Whether [`export`](Self::export) may give what [`read`](Self::read) has promised and not given: the content of a
    /// layer is seen only when it is read.
    pub fn has_another_way(&self) -> bool {
        self.has_another_way
    }

    /// Has the engine write the image to `spool`, of which nothing is seen afterwards.
    ///
    /// # Errors
    /// [`BuildError::Infrastructure`] when it cannot, [`BuildError::Cancelled`].
    pub async fn export(
        &self,
        spool: &Path,
        log: &LogSink,
        cancel: &CancellationToken,
        pulse: &Pulse,
    ) -> Result<BuiltImage, BuildError> {
        let image = export::export(&self.engine, &self.tag, spool, log, cancel, pulse).await;
        if matches!(image, Err(BuildError::EngineFull(_))) {
            self.engine.found_full();
        }
        image
    }

    async fn stored(&self) -> anyhow::Result<BuiltImage> {
        let id: Digest = self.id.as_deref().context("it did not say what the image is called")?.parse()?;
        let storage = self.engine.storage().await?.map_err(anyhow::Error::msg)?;
        tokio::task::spawn_blocking(move || storage.image(id)).await?
    }

    /// Removes the image from the engine, if nothing else there names it. Whoever has cancelled the build does not wait
    /// long for an engine that is slow with it.
    pub async fn remove(mut self, cancel: &CancellationToken) {
        let Some(removal) = self.removal() else { return };
        let _ = tokio::select! {
            removed = removal => removed,
            () = async { cancel.cancelled().await; tokio::time::sleep(REMOVAL).await } => Ok(()),
        };
    }

    fn removal(&mut self) -> Option<tokio::task::JoinHandle<()>> {
        if std::mem::replace(&mut self.removed, true) {
            return None;
        }
        // Without a runtime the program is at its end; the next start removes it.
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (engine, tag, mask) = (self.engine.clone(), self.tag.clone(), self.mask.clone());
        Some(runtime.spawn(
            async move {
                if let Err(error) = engine.remove(&tag).await {
                    let error = mask.shown(&error.to_string());
                    tracing::warn!(%tag, %error, "a build's tag was left on the docker engine; a later sweep removes it");
                }
            }
            .in_current_span(),
        ))
    }
}

/// Whoever wrote the Dockerfile can mend it.
pub(super) fn without_layers() -> BuildError {
    BuildError::Failed(BuildFailure { reason: NoLayers::Empty.to_string(), ..BuildFailure::default() })
}

impl Drop for OnEngine {
    fn drop(&mut self) {
        self.removal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::docker::EngineConfig;
    use crate::telemetry::logging::logged;

    #[test]
    fn what_an_engine_says_of_a_build_is_masked_in_the_programs_log() {
        let config =
            EngineConfig { host: "unix:///nowhere/hunter2.sock".to_owned(), ..EngineConfig::default() };
        let engine = DockerEngine::connect(&config, Duration::from_secs(60)).unwrap();
        let mask = Mask::new([("s", &b"hunter2"[..])]).unwrap().0;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let image = OnEngine::of(engine, EngineBuildId::generate(), mask);
        let log = logged(|| runtime.block_on(image.remove(&CancellationToken::new())));
        assert!(log.contains("/nowhere/***.sock") && !log.contains("hunter2"), "{log}");
    }
}
