//! A Docker engine that builds images.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::SystemInfo;
use tokio::sync::{Mutex, OnceCell, watch};
use tokio_util::sync::CancellationToken;

use super::built::OnEngine;
use super::cache::{self, Prune};
use super::config::EngineConfig;
use super::failure;
use super::request::BuildRequest;
use super::solve;
use super::tags::{self, EngineBuildId};
use super::transport::{Address, Transport};
use super::watch::{Pulse, SILENCE};
use crate::build::engine::BuildError;
use crate::telemetry::pulse as telemetry;
use crate::timeline::sink::LogSink;

/// A Docker engine that builds images with BuildKit. Any number of builds can run at a time.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    config: EngineConfig,
    address: Address,
    longest_build: Duration,
    /// Told when a build has found the engine's disk full. Clones share it.
    full: watch::Sender<()>,
    root: Arc<OnceCell<Option<PathBuf>>>,
    /// What it has said of itself, and when.
    said: Arc<Mutex<Option<(Instant, SystemInfo)>>>,
}

impl DockerEngine {
    /// An engine at the configured address, for builds that take `longest_build` at most. Nothing is
    /// sent yet: an engine that is away now may be there for the first build.
    ///
    /// # Errors
    /// The address cannot be read.
    pub fn connect(config: &EngineConfig, longest_build: Duration) -> anyhow::Result<Self> {
        let address = config.host.parse().map_err(anyhow::Error::msg).context("engine.host")?;
        Ok(Self {
            config: config.clone(),
            address,
            longest_build,
            full: watch::Sender::new(()),
            root: Arc::default(),
            said: Arc::default(),
        })
    }

    /// The same engine, for builds that take `longest_build` at most.
    pub fn lasting(&self, longest_build: Duration) -> Self {
        Self { longest_build, ..self.clone() }
    }

    /// Builds an image. However it ends, what is left of it on the engine is removed, at the end of the answer's life
    /// where there is an image.
    ///
    /// # Errors
    /// [`BuildError::Failed`] when the Dockerfile, its steps or the context are at fault,
    /// [`BuildError::Infrastructure`] when the engine or a registry is, [`BuildError::EngineFull`] when the
    /// engine's disk is full, [`BuildError::Cancelled`] when `cancel` was, within seconds and with the
    /// steps' processes ended.
    pub async fn build(
        &self,
        request: BuildRequest,
        log: &LogSink,
        cancel: &CancellationToken,
    ) -> Result<OnEngine, BuildError> {
        request.check(&self.config)?;
        if cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        cancel.run_until_cancelled(Box::pin(self.answers())).await.unwrap_or(Err(BuildError::Cancelled))?;
        let mut image = OnEngine::of(self.clone(), request.id, log.mask().clone());
        // Severed at the end of this function, also when its future is dropped.
        let transport = self.transport();
        let _sever = transport.severed.clone().drop_guard();
        match solve::solve(self, &transport, request, log, cancel).await {
            Ok(id) => {
                image.is_called(id);
                Ok(image)
            }
            Err(error) => {
                if matches!(error, BuildError::EngineFull(_)) {
                    self.found_full();
                }
                image.remove(cancel).await;
                Err(error)
            }
        }
    }

    /// Ends what a crashed worker has left of a build: the build itself, should it still run, and its image.
    ///
    /// # Errors
    /// The engine is away, or does not remove the image.
    pub async fn abandon(&self, id: EngineBuildId) -> Result<(), BuildError> {
        self.answers().await?;
        self.cancel_build(id).await;
        self.remove(&id.private_tag()).await
    }

    /// Tells, from now on, when a build has found the engine's disk full.
    pub fn full(&self) -> watch::Receiver<()> {
        self.full.subscribe()
    }

    pub(super) fn found_full(&self) {
        self.full.send_replace(());
    }

    /// Removes the private tags that crashed workers have left: those that are older than any build, with the
    /// `publish` of its image, can be, since other workers may share the engine. Answers how many. One that cannot be
    /// removed is told and left.
    pub async fn sweep(&self, publish: Duration) -> Result<usize, BuildError> {
        let docker = self.short();
        let mut removed = 0;
        for (tag, bytes) in
            self.within(tags::older_than(&docker, self.longest_build.saturating_add(publish))).await?
        {
            match self.remove(&tag).await {
                Ok(()) => {
                    tracing::info!(
                        %tag, bytes,
                        "removed a build's image that was left on the docker engine: it is older than any build can be"
                    );
                    removed += 1;
                }
                Err(error) => {
                    tracing::warn!(%tag, %error, "cannot remove a build's image that was left on the docker engine");
                }
            }
        }
        Ok(removed)
    }

    /// Prunes the build cache of an engine that is BuildGrid's alone: what no build uses at the moment, the
    /// longest unused first. Answers the bytes that were freed; `None` where it is not BuildGrid's to prune.
    pub async fn prune(&self, which: Prune) -> Result<Option<u64>, BuildError> {
        if !self.config.dedicated {
            return Ok(None);
        }
        let docker = self.docker(self.transport(), PRUNE_LIMIT);
        match tokio::time::timeout(PRUNE_LIMIT, cache::prune(docker, which)).await {
            Ok(freed) => freed.map(Some).map_err(|error| self.refused(error)),
            Err(_) => Err(self.lost(&format!("did not prune its build cache within {PRUNE_LIMIT:?}"))),
        }
    }

    pub(super) async fn remove(&self, tag: &str) -> Result<(), BuildError> {
        // One that hangs is not waited for as long.
        self.answers().await?;
        // Deleting the layers of a large image takes the engine longer than an answer does.
        let docker = self.docker(self.transport(), REMOVE_LIMIT);
        match tokio::time::timeout(REMOVE_LIMIT, tags::remove(&docker, tag)).await {
            Ok(result) => result.map_err(|error| self.refused(error)),
            Err(_) => Err(self.lost(&format!("did not remove {tag} within {REMOVE_LIMIT:?}"))),
        }
    }

    /// Asks the engine to stop a build. It is asked once: the connections are cut in any case.
    pub(super) async fn cancel_build(&self, id: EngineBuildId) {
        let request = http::Request::post(format!("/build/cancel?id={id}"))
            .body(bollard::body_full(bytes::Bytes::new()));
        let Ok(request) = request else { return };
        let answer = tokio::time::timeout(CANCEL_LIMIT, self.transport().send(request)).await;
        if !matches!(&answer, Ok(Ok(response)) if response.status().is_success()) {
            tracing::debug!(engine_build = %id, "the docker engine did not take a cancellation");
        }
    }

    /// Waits for a short call's answer.
    pub(super) async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, BuildError> {
        match tokio::time::timeout(self.config.timeout, call).await {
            Ok(answer) => answer.map_err(|error| self.refused(error)),
            Err(_) => Err(self.lost(&format!("did not answer within {:?}", self.config.timeout))),
        }
    }

    /// Where it keeps what it builds, if that is on this machine; asked for once.
    pub(super) async fn known_root(&self) -> Option<PathBuf> {
        let ask = || async { self.root().await.map(Result::ok) };
        self.root.get_or_try_init(ask).await.ok().cloned().flatten()
    }

    /// What it says of itself, not older than a minute: it is asked for twice in each build, and changes when the engine
    /// starts.
    pub(super) async fn lately(&self) -> Result<SystemInfo, BuildError> {
        let mut said = self.said.lock().await;
        match &*said {
            Some((at, info)) if at.elapsed() < LATELY => Ok(info.clone()),
            _ => {
                let docker = self.short();
                let info = self.within(docker.info()).await?;
                *said = Some((Instant::now(), info.clone()));
                Ok(info)
            }
        }
    }

    pub(super) fn longest_build(&self) -> Duration {
        self.longest_build
    }

    pub(super) fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Connections that end by themselves.
    pub(super) fn transport(&self) -> Transport {
        Transport { address: self.address.clone(), severed: CancellationToken::new() }
    }

    /// A client for short calls.
    pub(super) fn short(&self) -> Docker {
        // `within` keeps the time, over the answer's body too; the client's own limit must not come first.
        self.docker(self.transport(), self.config.timeout.saturating_mul(2))
    }

    /// A client over `transport`, which waits `timeout` for an answer to begin.
    pub(super) fn docker(&self, transport: Transport, timeout: Duration) -> Docker {
        Docker::connect_with_custom_transport(
            move |request| transport.clone().send(request),
            Some("http://docker"),
            timeout.as_secs().max(1),
            bollard::API_DEFAULT_VERSION,
        )
        .expect("a client over a given transport parses nothing that could be wrong")
    }

    pub(super) fn pulse(&self) -> Pulse {
        Pulse {
            docker: self.short(),
            timeout: self.config.timeout,
            silence: SILENCE.min(self.config.timeout),
            of_run: telemetry::Pulse::default(),
        }
    }

    /// What an error of the client means for the build.
    pub(super) fn refused(&self, error: Error) -> BuildError {
        failure::of_client(&self.config.host, error)
    }

    /// The engine is at fault.
    pub(super) fn lost(&self, what: &str) -> BuildError {
        BuildError::Infrastructure(format!("the docker engine at {} {what}", self.config.host))
    }
}

const LATELY: Duration = Duration::from_secs(60);
/// How long the engine may take to prune its build cache: it deletes every layer's files.
const PRUNE_LIMIT: Duration = Duration::from_secs(15 * 60);
/// How long the engine may take to remove an image.
const REMOVE_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to hear of a cancellation.
const CANCEL_LIMIT: Duration = Duration::from_secs(3);
