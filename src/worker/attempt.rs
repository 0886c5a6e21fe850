//! One attempt at a build: its directory, its log, and the pipeline between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::board::OnBoard;
use super::build_directory::{BuildDirectory, BuildState};
use super::build_log::BuildLog;
pub use super::build_log::Mirror;
use super::log_writer::{Kept, LogLimits};
use super::pull_login::PullLogin;
use super::reporting::Telling;
use super::secrets::{Known, Secrets};
use crate::build::credentials::BuildCredentials;
use crate::build::docker::EngineBuildId;
use crate::build::engine::BuildFailure;
use crate::event::deploy::DeployEvent;
use crate::event::result::ResultEvent;
use crate::pipeline::{Outcome, Pipeline, Run, Stage};
use crate::source::FetchedCommit;
use crate::timeline::mask::Mask;
use crate::timeline::protocol::CommitInfo;
use crate::timeline::sink::LogSink;

/// How long the end of a build waits until its login for pulls is removed.
const END_OF_PULLS: Duration = Duration::from_secs(2);

/// Where attempts are made: what stands in logs and results.
#[derive(Clone)]
pub struct Place {
    /// The worker's name.
    pub worker: String,
    /// The host of the registry, which image URLs begin with.
    pub registry_host: String,
    /// Where the timeline service is, if there is one; links to logs begin with it.
    pub timeline: Option<String>,
    /// Who looks on while a log is written.
    pub mirror: Mirror,
    /// What must not stand in a log.
    pub secrets: Secrets,
    /// How much of a log is kept, in bytes.
    pub max_log: u64,
}

pub struct Attempt<'a> {
    pub event: &'a DeployEvent,
    /// The event's bytes.
    pub body: &'a [u8],
    pub number: u32,
    pub directory: BuildDirectory,
    pub place: &'a Place,
    pub cancel: &'a CancellationToken,
    /// Where it is told to the timeline service, if there is one.
    pub telling: Option<&'a Telling>,
    /// Where it is watched over, if it is.
    pub on_board: Option<&'a OnBoard>,
}

/// What an attempt has while it runs.
struct Opened {
    spool: PathBuf,
    mask: Mask,
    credentials: BuildCredentials,
    build_log: BuildLog,
    log: LogSink,
}

impl Attempt<'_> {
    /// Runs the pipeline with a log of its own. What could not be kept of the log is no failure: the log says so
    /// itself.
    pub async fn run(&self, pipeline: &Pipeline) -> Outcome {
        match self.try_run(pipeline).await {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Infrastructure(format!("{error:#}")),
        }
    }

    async fn try_run(&self, pipeline: &Pipeline) -> anyhow::Result<Outcome> {
        let mut opened = self.open().await?;
        let pull = PullLogin::new(
            pipeline.publisher.store().clone(),
            self.event.namespace.clone(),
            pipeline.longest(Stage::Building, self.event),
        );
        opened.credentials.registries.lend(&self.place.registry_host, pull.lend());
        let Opened { spool, mask, credentials, log, .. } = &opened;
        let engine_build = EngineBuildId::generate();
        let entered = |stage: Stage| -> BoxFuture<'static, ()> {
            tracing::info!(stage = stage.name(), "stage entered");
            if let Some(on_board) = self.on_board {
                on_board.enters(stage, pipeline.longest(stage, self.event));
            }
            let directory = self.directory.clone();
            let state = BuildState {
                engine_build: (stage != Stage::Fetching).then_some(engine_build),
                ..BuildState::new(self.number, stage.name())
            };
            let told = self.telling.map(|telling| telling.entered(stage));
            Box::pin(async move {
                // A hint for recovery: a panic in it has been logged, and the build goes on.
                let _ = tokio::task::spawn_blocking(move || directory.note(&state)).await;
                if let Some(told) = told {
                    told.await;
                }
            })
        };
        let fetched = |commit: &FetchedCommit| {
            if let Some(telling) = self.telling {
                telling.fetched(CommitInfo {
                    subject: mask.shown(&commit.subject).plain(),
                    author: mask.shown(&commit.author).plain(),
                    at: commit.time,
                });
            }
        };
        let run = Run {
            spool,
            engine_build,
            credentials,
            log,
            cancel: self.cancel,
            pulse: &self.on_board.map(OnBoard::pulse).unwrap_or_default(),
            entered: &entered,
            fetched: &fetched,
        };
        let outcome = shown(pipeline.run(self.event, run).await, mask);
        // A store that hangs does not hold up the build's end: the janitor removes logins that have expired.
        let _ = tokio::time::timeout(END_OF_PULLS, pull.end()).await;
        self.last_words(log, &outcome).await;
        opened.close(&self.directory).await?;
        Ok(outcome)
    }

    /// Ends unbuilt: the event has ended elsewhere, as its log says.
    pub async fn leave(&self, result: &ResultEvent) {
        let left = async {
            let opened = self.open().await?;
            let ResultEvent { state, worker, attempt, .. } = result;
            opened.log.status(format!("{state} already, by {worker} (attempt {attempt})")).await;
            opened.close(&self.directory).await
        };
        if let Err(error) = left.await {
            let error = format!("{error:#}");
            tracing::warn!(error, "the attempt has no log");
        }
    }

    /// Makes its directory ready and begins its log.
    async fn open(&self) -> anyhow::Result<Opened> {
        if let Some(telling) = self.telling {
            telling.make_room().await;
        }
        let unusable = "the build directory cannot be used";
        let (directory, body, number) = (self.directory.clone(), self.body.to_vec(), self.number);
        let begun = tokio::task::spawn_blocking(move || directory.begin(&body, number));
        let spool = begun.await?.context(unusable)?;
        let (secrets, namespace) = (self.place.secrets.clone(), self.event.namespace.clone());
        // In the build's span, since what cannot be masked is told there.
        let span = tracing::Span::current();
        let known = tokio::task::spawn_blocking(move || span.in_scope(|| secrets.known(&namespace))).await?;
        let Known { mask, credentials, words } = match known {
            Ok(known) => known,
            Err(error) => {
                clear_spool(&self.directory).await?;
                return Err(error.context("the secrets cannot be read, without which nothing is built"));
            }
        };
        let limits = LogLimits { max_log: self.place.max_log, spool: self.telling.map(Telling::spool) };
        let started = BuildLog::start(
            &self.directory.log_path(),
            &self.place.worker,
            self.place.mirror.clone(),
            mask.clone(),
            limits,
        );
        let (build_log, log) = started.context(unusable)?;
        if let Some(telling) = self.telling {
            telling.begin(build_log.length()).await;
        }
        log.status(format!("attempt {} on {}", self.number, self.place.worker)).await;
        for words in words {
            log.status(words).await;
        }
        Ok(Opened { spool, mask, credentials, build_log, log })
    }

    /// The end of the log says how the build ended, so that it can be read alone.
    async fn last_words(&self, log: &LogSink, outcome: &Outcome) {
        let words = match outcome {
            Outcome::Published(image) => {
                let url = self.event.image().url(&self.place.registry_host);
                let how = if image.reused { "already published" } else { "published" };
                format!("{how} {url} ({}, {})", image.digest, bytesize::ByteSize(image.size).display().si())
            }
            Outcome::Failed(failure) => {
                let location =
                    failure.location.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
                if let Some(advice) = &failure.advice {
                    log.status(format!("advice: {advice}")).await;
                }
                format!("failed: {}{location}", failure.reason)
            }
            Outcome::Rejected(reason) => format!("rejected: {reason}"),
            Outcome::Cancelled => "cancelled".to_owned(),
            Outcome::Infrastructure(reason) => format!("not the build's fault: {reason}"),
        };
        log.status(words).await;
    }
}

impl Opened {
    /// Ends the log and removes the spool.
    async fn close(self, directory: &BuildDirectory) -> anyhow::Result<()> {
        drop(self.log);
        let kept = self.build_log.finish().await;
        clear_spool(directory).await?;
        match kept {
            Ok(Kept { missing: 0, .. }) => {}
            Ok(Kept { lines, missing }) => {
                tracing::warn!(lines, missing, "the build's log had no room for all its lines");
            }
            Err(error) => tracing::error!(%error, "the build's log is not whole"),
        }
        Ok(())
    }
}

async fn clear_spool(directory: &BuildDirectory) -> anyhow::Result<()> {
    let directory = directory.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || directory.clear_spool()).await? {
        tracing::warn!(%error, "cannot remove the build's spool; the next start of the worker removes it");
    }
    Ok(())
}

/// An outcome as it may be told: what engine, git server and steps have said is masked as in the log.
fn shown(outcome: Outcome, mask: &Mask) -> Outcome {
    // Line ends become blanks only when it is masked: one in the middle of a secret must not take it apart.
    let line_ends = ["\\u{d}\\u{a}", "\\u{a}", "\\u{d}"];
    let shown = |text: String| {
        line_ends.iter().fold(mask.shown(&text).plain(), |text, line_end| text.replace(line_end, " "))
    };
    match outcome {
        Outcome::Failed(failure) => Outcome::Failed(BuildFailure {
            reason: shown(failure.reason),
            step: failure.step.map(shown),
            location: failure.location.map(shown),
            advice: failure.advice.map(shown),
            excerpt: failure.excerpt.into_iter().map(shown).collect(),
        }),
        Outcome::Rejected(reason) => Outcome::Rejected(shown(reason)),
        Outcome::Infrastructure(reason) => Outcome::Infrastructure(shown(reason)),
        Outcome::Published(_) | Outcome::Cancelled => outcome,
    }
}

/// The mirror of a daemon: each line of a build to the program's log, under the build's span.
pub fn to_program_log() -> Mirror {
    Arc::new(|entry| {
        let stream = match entry.stream {
            crate::timeline::entry::Stream::Stdout => "stdout",
            crate::timeline::entry::Stream::Stderr => "stderr",
            crate::timeline::entry::Stream::Status => "status",
        };
        tracing::info!(target: "buildgrid::build_output", step = entry.step, stream, "{}", entry.text);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_in_one_line_without_secrets() {
        let mask = Mask::new([("s", &b"hunter2"[..])]).unwrap().0;
        let told = |reason: &str| match shown(Outcome::Rejected(reason.to_owned()), &mask) {
            Outcome::Rejected(reason) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(told("no\nsuch\r\nthing: \x1b[31mred"), "no such thing: red");
        assert_eq!(told("denied: hun\rter2, h\0u\nnter2"), "denied: ***, ***");
    }
}
