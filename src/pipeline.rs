//! The way of a build, in one function: [`Pipeline::run`] takes a [`DeployEvent`] and gives an
//! [`Outcome`]. Only this module knows all the stages; each of them takes a typed value and gives one.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use crate::build::credentials::{BuildCredentials, Missing};
use crate::build::docker::{self, BuildRequest, DockerEngine, Dockerfile, EngineBuildId, OnEngine};
use crate::build::engine::{BuildError, BuildFailure, BuiltImage};
use crate::build::fake;
use crate::event::deploy::{DeployEvent, Work};
use crate::event::fake::FakeBuild;
use crate::permit::{Rules, TimeLimits};
use crate::publish::manifest::BUILD;
use crate::publish::name::ImageName;
use crate::publish::publisher::{self, Existing, Publication, PublishError, Published, Publisher};
use crate::source::files::Large;
use crate::source::url::RepositoryUrl;
use crate::source::{Context, Errand, Fault, FetchedCommit, Permit, Scope, SourceError, Sources};
use crate::store::TagPut;
use crate::telemetry::pulse::Pulse;
use crate::timeline::sink::LogSink;

/// The platform of fake images.
const FAKE_PLATFORM: &str = "linux/amd64";

/// How a build ended. The variant decides what happens to the event and who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The image can be pulled.
    Published(Published),
    /// The build's own fault; never tried again.
    Failed(BuildFailure),
    /// The event asks for what cannot be done; never tried again.
    Rejected(String),
    /// Somebody ended it.
    Cancelled,
    /// Not the build's fault; tried again.
    Infrastructure(String),
}

/// Where a build stands, as the build directory notes it and the metrics count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Fetching,
    Building,
    Publishing,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetching => "fetching",
            Self::Building => "building",
            Self::Publishing => "publishing",
        }
    }
}

/// The stages, ready to run any number of builds at once.
#[derive(Clone)]
pub struct Pipeline {
    pub sources: Sources,
    /// `None` on a worker for fake builds only.
    pub engine: Option<DockerEngine>,
    pub publisher: Publisher,
    pub rules: Rules,
}

/// One run of the pipeline: where it leaves its traces, and who may end it.
pub struct Run<'a> {
    /// A private directory for what the run spools; removed by the caller.
    pub spool: &'a Path,
    /// What the engine is to know the build by, so that whoever noted it can end it there.
    pub engine_build: EngineBuildId,
    /// All that builds of the event's namespace may be handed.
    pub credentials: &'a BuildCredentials,
    pub log: &'a LogSink,
    pub cancel: &'a CancellationToken,
    /// Beats with what brings it forward, beside the stages that it enters: see [`Pipeline::longest`].
    pub pulse: &'a Pulse,
    /// Told at the start of each stage.
    pub entered: &'a (dyn Fn(Stage) -> BoxFuture<'static, ()> + Sync),
    /// Told what the commit says of itself, between the fetch and the build.
    pub fetched: &'a (dyn Fn(&FetchedCommit) + Sync),
}

impl Pipeline {
    /// Takes an event the whole way. Never panics on what an event can contain, and always ends:
    /// by itself, by the time limit, or soon after `run.cancel` is cancelled.
    pub async fn run(&self, event: &DeployEvent, run: Run<'_>) -> Outcome {
        match self.try_run(event, run).await {
            Ok(published) => Outcome::Published(published),
            Err(outcome) => outcome,
        }
    }

    async fn try_run(&self, event: &DeployEvent, run: Run<'_>) -> Result<Published, Outcome> {
        self.permit(event)?;
        let name = event.image();
        let platform = run.cancel.run_until_cancelled(Box::pin(self.platform(event))).await;
        let definition = event.definition(&platform.unwrap_or(Err(Outcome::Cancelled))?);
        let put = if event.options.rebuild {
            TagPut::Replace { expected: self.publisher.current(&name).await? }
        } else {
            match self.publisher.existing(&name, definition).await? {
                Existing::Nothing => TagPut::IfAbsent,
                Existing::Same(published) => {
                    run.log.status(format!("{name} is published already, by the same definition")).await;
                    return Ok(published);
                }
                Existing::Damaged(digest) => {
                    run.log
                        .status(format!("{name} is damaged in the store; building it again repairs it"))
                        .await;
                    TagPut::Replace { expected: Some(digest) }
                }
            }
        };
        let has_quota = self.permit_usage(event, &name, put).await?;

        let labels = labels(event, OffsetDateTime::now_utc());
        let (image, on_engine) = match &event.work {
            Work::Fake(spec) => (self.build_fake(event, spec, &labels, &run).await?, None),
            Work::Repository(url) => {
                let credentials = granted(event, run.credentials)?;
                (run.entered)(Stage::Fetching).await;
                let commit = timed(Stage::Fetching, self.fetch(event, url, &run)).await?;
                (run.fetched)(&commit);
                (run.entered)(Stage::Building).await;
                let build = self.build(event, &commit, credentials, &labels, &run);
                let (image, on_engine) = timed(Stage::Building, build).await?;
                (image, Some(on_engine))
            }
        };

        (run.entered)(Stage::Publishing).await;
        run.log.status(format!("publishing {name}")).await;
        let publication = Publication { name: &name, definition, annotations: labels, put, has_quota };
        let publish = self.publish(image, on_engine.as_ref(), publication, &run);
        let published = timed(Stage::Publishing, publish).await;
        if let Some(image) = on_engine {
            image.remove(run.cancel).await;
        }
        published
    }

    /// What no amount of building would make right.
    fn permit(&self, event: &DeployEvent) -> Result<(), Outcome> {
        self.rules.permit(event).map_err(Outcome::Rejected)
    }

    /// Whether the namespace may have more in the store; answers whether anybody limits it.
    async fn permit_usage(
        &self,
        event: &DeployEvent,
        name: &ImageName,
        put: TagPut,
    ) -> Result<bool, Outcome> {
        if self.rules.quota(&event.namespace).is_none() {
            return Ok(false);
        }
        let store = self.publisher.store();
        let usage = store.usage(&event.namespace).await.map_err(PublishError::from)?;
        if self.rules.permit_usage(&event.namespace, usage).is_ok() {
            return Ok(true);
        }
        // What repairs an image counts already.
        if let TagPut::Replace { expected: Some(digest) } = put
            && !matches!(store.is_whole(&name.repository, digest).await, Ok(true))
        {
            return Ok(true);
        }
        // That may be more than there is: it is counted before anything is rejected for it.
        let usage = store.recounted_usage(&event.namespace).await.map_err(PublishError::from)?;
        self.rules.permit_usage(&event.namespace, usage).map_err(Outcome::Rejected)?;
        Ok(true)
    }

    /// The platform that the event's image is for.
    async fn platform(&self, event: &DeployEvent) -> Result<String, Outcome> {
        match (&event.work, &event.options.platform) {
            (Work::Fake(_), _) => Ok(FAKE_PLATFORM.to_owned()),
            (Work::Repository(_), Some(platform)) => Ok(platform.clone()),
            (Work::Repository(_), None) => Ok(self.engine()?.platform().await?),
        }
    }

    fn engine(&self) -> Result<&DockerEngine, Outcome> {
        self.engine.as_ref().ok_or_else(|| {
            Outcome::Infrastructure("this worker has no Docker engine: engine.host is \"none\"".to_owned())
        })
    }

    /// The longest that a stage of this event may take without a beat of the run's pulse; a run that takes longer
    /// hangs.
    pub fn longest(&self, stage: Stage, event: &DeployEvent) -> Duration {
        match stage {
            Stage::Building => self.rules.limits(event).whole,
            // Fetches of one repository stand in line. That the line moves on is a beat.
            Stage::Fetching => self.sources.longest(),
            // How long it takes is a matter of size. Each piece that is read is a beat.
            Stage::Publishing => publisher::LONGEST_PIECE,
        }
    }

    /// How long the build may take, which its log hears where it is less than the event asks for.
    async fn limits(&self, event: &DeployEvent, log: &LogSink) -> TimeLimits {
        let limits = self.rules.limits(event);
        if let Some((key, asked)) = &limits.cut {
            let (whole, asked) = (limits.whole.as_secs(), asked.as_secs());
            log.status(format!("time limit {whole} s, as {key} says; the event asks for {asked} s")).await;
        }
        limits
    }

    async fn build_fake(
        &self,
        event: &DeployEvent,
        spec: &FakeBuild,
        labels: &BTreeMap<String, String>,
        run: &Run<'_>,
    ) -> Result<BuiltImage, Outcome> {
        (run.entered)(Stage::Building).await;
        let limits = self.limits(event, run.log).await;
        let build =
            within(
                limits,
                run,
                |cancel| async move { fake::build(spec, labels.clone(), run.log, &cancel).await },
            );
        Ok(timed(Stage::Building, build).await?)
    }

    async fn fetch(
        &self,
        event: &DeployEvent,
        url: &RepositoryUrl,
        run: &Run<'_>,
    ) -> Result<FetchedCommit, Outcome> {
        let (rules, namespace) = (self.rules.clone(), event.namespace.clone());
        let permit: Permit = Arc::new(move |url| rules.permit_url(&namespace, url));
        let errand = Errand {
            namespace: &event.namespace,
            permit: &permit,
            log: run.log,
            cancel: run.cancel,
            pulse: run.pulse,
        };
        let commit = self.sources.fetch(errand, url, &event.commit, event.git_ref.as_deref()).await?;
        let scope = Scope { root: &event.options.root, dockerfile: &event.options.dockerfile };
        let commit = self.sources.fetch_submodules(errand, url, commit, scope).await?;
        let words = format!("commit {} {:?} by {}", event.commit.short(), commit.subject, commit.author);
        run.log.status(words).await;
        Ok(commit)
    }

    async fn build(
        &self,
        event: &DeployEvent,
        commit: &FetchedCommit,
        credentials: BuildCredentials,
        labels: &BTreeMap<String, String>,
        run: &Run<'_>,
    ) -> Result<(BuiltImage, OnEngine), Outcome> {
        let engine = self.engine()?;
        let options = &event.options;
        let limits = self.limits(event, run.log).await;
        let context = commit.context(&options.root, &options.dockerfile);
        let context = run.cancel.run_until_cancelled(context).await.ok_or(Outcome::Cancelled)??;
        let (dockerfile, text) = (context.dockerfile.clone(), Dockerfile::new(&context.text));
        let takes_tar = run.cancel.run_until_cancelled(Box::pin(engine.takes_tar()));
        let takes_tar = takes_tar.await.ok_or(Outcome::Cancelled)??;
        let sent = run.cancel.run_until_cancelled(sent(context, text.uses_part_of_context(), takes_tar));
        let (context, ended) = sent.await.ok_or(Outcome::Cancelled)??;
        let request = BuildRequest {
            id: run.engine_build,
            namespace: event.namespace.clone(),
            dockerfile,
            text,
            target: options.target.clone(),
            args: options.args.clone(),
            labels: labels.clone(),
            platform: options.platform.clone(),
            no_cache: options.no_cache,
            network: self.rules.network(&event.namespace),
            credentials,
            context,
        };
        let built = within(limits, run, |cancel| async move {
            let mut built = Box::pin(engine.build(request, run.log, &cancel)).await?;
            let source = self.publisher.source();
            match Box::pin(built.read(source, run.spool, run.log, &cancel, run.pulse)).await {
                Ok(image) => Ok((image, built)),
                Err(error) => {
                    built.remove(&cancel).await;
                    Err(error)
                }
            }
        });
        match built.await {
            Ok(image) => Ok(image),
            Err(BuildError::Cancelled) => Err(Outcome::Cancelled),
            // An upload that broke off looks to the engine like a broken tar; the cause is with us. An
            // engine that did not want the rest of it has merely hung up.
            Err(error) => match ended.await {
                Some(cause) if cause.fault() != Fault::Cancelled => Err(cause.into()),
                _ => Err(from_top(error, &options.root).into()),
            },
        }
    }

    /// Publishes an image. Where a layer in the engine's storage is not what it should be, it is had from the engine by
    /// another way: only then is it read that way, and what was stored by then is not stored again.
    async fn publish(
        &self,
        image: BuiltImage,
        on_engine: Option<&OnEngine>,
        publication: Publication<'_>,
        run: &Run<'_>,
    ) -> Result<Published, Outcome> {
        let publish = |image| {
            Box::pin(self.publisher.publish(
                Arc::new(image),
                publication.clone(),
                run.log,
                run.cancel,
                run.pulse,
            ))
        };
        match (publish(image).await, on_engine) {
            (Err(PublishError::Image(reason)), Some(on_engine)) if on_engine.has_another_way() => {
                let words = format!(
                    "taking the image by docker save, since the engine's storage is not as expected: {reason:#}"
                );
                run.log.status(words).await;
                let image = on_engine.export(run.spool, run.log, run.cancel, run.pulse).await?;
                Ok(publish(image).await?)
            }
            (published, _) => Ok(published?),
        }
    }
}

/// From when on a context of which a part is used is not sent whole. What is smaller is there in a tenth of a second,
/// and gives layers that are the same in every build: files that the engine asks for lie in folders with the build's time.
const FILE_BY_FILE: Large = Large { files: 2_000, bytes: 32 << 20 };

/// The context as it is sent, and what stood in its way once it is not whole. Where a part of a large one is used, the
/// engine asks for that, if all names can be told that way; and one that takes no tar asks in any case.
async fn sent(
    context: Context,
    in_part: bool,
    takes_tar: bool,
) -> Result<(docker::Context, BoxFuture<'static, Option<SourceError>>), Outcome> {
    let from = match (takes_tar, in_part) {
        (true, false) => None,
        (true, true) => Some(FILE_BY_FILE),
        (false, _) => Some(Large { files: 0, bytes: 0 }),
    };
    let context = match from {
        None => context,
        Some(from) => match context.files(from).await? {
            Ok(files) => {
                let ended = files.clone();
                return Ok((docker::Context::Files(files), Box::pin(async move { ended.failure() })));
            }
            Err(context) => context,
        },
    };
    if !takes_tar {
        let reason = "a file of the build context has a name that is not UTF-8, and this Docker engine takes such a context \
                      from version 28 on, or without its containerd image store; rename the file, or list it in \
                      .dockerignore";
        return Err(Outcome::Failed(BuildFailure { reason: reason.to_owned(), ..BuildFailure::default() }));
    }
    let (stream, outcome) = context.tar();
    Ok((docker::Context::Tar(Box::pin(stream)), Box::pin(async move { outcome.await.err() })))
}

/// The same error with its location as somebody finds it who looks at the repository.
fn from_top(error: BuildError, root: &str) -> BuildError {
    match error {
        BuildError::Failed(failure) if !root.is_empty() => {
            let location = failure.location.map(|location| format!("{root}/{location}"));
            BuildError::Failed(BuildFailure { location, ..failure })
        }
        error => error,
    }
}

/// What of its namespace's credentials an event's build is handed: what it names, and all logins.
fn granted(event: &DeployEvent, all: &BuildCredentials) -> Result<BuildCredentials, Outcome> {
    let options = &event.options;
    let namespace = &event.namespace;
    let lacks = |field, kind, name| {
        format!(
            "{field} names {name}, which namespace {namespace} does not have; the worker's operator adds it as \
             {kind}.{namespace}.{name} to worker.credentials_dir"
        )
    };
    all.granted(&options.secrets, &options.ssh).map_err(|missing| {
        let reason = match missing {
            Missing::Secret(name) => lacks("build.secrets", "secret", name),
            Missing::Ssh(name) => lacks("build.ssh", "ssh", name),
            Missing::OfTheEngine(name) => format!(
                "build.secrets names {name}, with which the engine would fetch by itself, into a cache that all namespaces \
                 share; make the repository a submodule, or fetch it in a step with a secret of another name"
            ),
        };
        Outcome::Failed(BuildFailure { reason, ..BuildFailure::default() })
    })
}

/// Runs `work` with a token that is cancelled with `run.cancel`, or when a limit is over; after the
/// latter, what it gives is the build's own failure.
async fn within<T, F: Future<Output = Result<T, BuildError>>>(
    limits: TimeLimits,
    run: &Run<'_>,
    work: impl FnOnce(CancellationToken) -> F,
) -> Result<T, BuildError> {
    let token = run.cancel.child_token();
    let mut work = std::pin::pin!(work(token.clone()));
    let over = tokio::select! {
        result = &mut work => return result,
        over = limits.are_over(run.log) => over,
    };
    token.cancel();
    match work.await {
        Err(BuildError::Cancelled) if !run.cancel.is_cancelled() => {
            Err(BuildError::Failed(BuildFailure { reason: over, ..BuildFailure::default() }))
        }
        result => result,
    }
}

/// Counts the time of a stage, whatever comes of it.
async fn timed<T>(stage: Stage, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = work.await;
    metrics::histogram!("buildgrid_stage_seconds", "stage" => stage.name()).record(started.elapsed());
    result
}

/// What the image says of itself: labels of its configuration and annotations of its manifest.
///
/// A fake image's labels leave out the build and the time: the same seed gives the same bytes.
fn labels(event: &DeployEvent, now: OffsetDateTime) -> BTreeMap<String, String> {
    let repository = event.image().repository;
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.revision".to_owned(), event.commit.to_string()),
        (
            "org.opencontainers.image.title".to_owned(),
            format!("{}.{}", repository.app, repository.repository),
        ),
        ("net.buildgrid.namespace".to_owned(), event.namespace.to_string()),
        ("net.buildgrid.app".to_owned(), event.app.to_string()),
        ("net.buildgrid.services".to_owned(), event.services.join(",")),
    ]);
    let created = match &event.work {
        Work::Fake(_) => {
            labels.insert("net.buildgrid.fake".to_owned(), "true".to_owned());
            OffsetDateTime::UNIX_EPOCH
        }
        Work::Repository(url) => {
            labels.insert("org.opencontainers.image.source".to_owned(), url.to_string());
            labels.insert(BUILD.to_owned(), event.id.to_string());
            now
        }
    };
    let created = crate::timeline::entry::timestamp::to_string(created);
    labels.insert("org.opencontainers.image.created".to_owned(), created);
    labels
}

impl From<SourceError> for Outcome {
    fn from(error: SourceError) -> Self {
        match error.fault() {
            Fault::Cancelled => Self::Cancelled,
            Fault::Build => {
                Self::Failed(BuildFailure { reason: error.to_string(), ..BuildFailure::default() })
            }
            Fault::Infrastructure => Self::Infrastructure(error.to_string()),
        }
    }
}

impl From<BuildError> for Outcome {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Failed(failure) => Self::Failed(failure),
            BuildError::Infrastructure(reason) | BuildError::EngineFull(reason) => {
                Self::Infrastructure(reason)
            }
            BuildError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<PublishError> for Outcome {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Conflict { .. } => Self::Rejected(error.to_string()),
            PublishError::Cancelled => Self::Cancelled,
            PublishError::Store(_) | PublishError::Image(_) | PublishError::Internal(_) => {
                Self::Infrastructure(error.to_string())
            }
        }
    }
}
