//! Following builds through the timeline service: one with its log, or several by their states.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior};

use super::exit::{Exit, Failure};
use super::progress::{FailedBuild, Progress, at};
use super::service::{explain, explain_build};
use crate::event::deploy::BuildId;
use crate::telemetry::printable::printable;
use crate::timeline::client::{CallError, LogFilter, PATIENCE, TimelineClient, Told};
use crate::timeline::entry::LogEntry;
use crate::timeline::protocol::{Build, BuildState};

/// How often the last line of a terminal is brought up to date.
const TICK: Duration = Duration::from_secs(1);
/// How often the states of builds are asked for.
const ASK: Duration = Duration::from_secs(1);
/// Builds asked for at a time.
const AT_ONCE: usize = 8;

/// Follows one build's log to its end; answers how the build stood last. `show` gets each line.
pub async fn log(
    client: &TimelineClient,
    id: &BuildId,
    filter: &LogFilter,
    progress: &mut Progress,
    mut show: impl FnMut(&mut Progress, &LogEntry) -> std::io::Result<()>,
) -> Result<Build, Failure> {
    let mut told = std::pin::pin!(client.follow(id, filter));
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last: Option<Build> = None;
    while !progress.is_gone() {
        let next = tokio::select! {
            next = told.next() => next,
            _ = ticks.tick() => {
                progress.tick();
                continue;
            }
        };
        match next {
            Some(Ok(Told::State(build))) => {
                progress.state(&build);
                last = Some(*build);
            }
            Some(Ok(Told::Entry(entry))) => show(progress, &entry)?,
            Some(Ok(Told::Lost { reason })) => {
                progress.trouble(&format!("{reason}; trying again, the build goes on"));
            }
            Some(Ok(Told::Back)) => progress.note("the timeline service is there again"),
            Some(Err(error)) => {
                progress.finish();
                return Err(match filter.attempt {
                    None => explain_build(error),
                    Some(_) => explain(error),
                });
            }
            None => break,
        }
    }
    progress.finish();
    last.ok_or_else(|| Failure::unavailable(anyhow!("the timeline service said nothing of build {id}")))
}

/// Follows a build's log as [`log`], then tells its outcome: the image's URL alone on `out`, or the failing
/// step's last lines and the reason.
pub async fn to_the_end(
    client: &TimelineClient,
    id: &BuildId,
    progress: &mut Progress,
    out: &mut (dyn Write + Send),
    json: bool,
) -> Result<Exit, Failure> {
    let show = |progress: &mut Progress, entry: &LogEntry| {
        progress.entry(entry);
        Ok(())
    };
    let build = log(client, id, &LogFilter::default(), progress, show).await?;
    match json {
        true => writeln!(out, "{}", serde_json::to_string(&build)?)?,
        false => outcome(&build, progress, out)?,
    }
    Ok(Exit::of_build(build.state, build.kind))
}

/// The end in one look.
fn outcome(build: &Build, progress: &mut Progress, out: &mut (dyn Write + Send)) -> std::io::Result<()> {
    let reason = build.reason.as_deref();
    match build.state {
        BuildState::Published => {
            if let Some(image) = &build.image {
                writeln!(out, "{}", printable(image))?;
            }
        }
        BuildState::Cancelled => {
            progress.failure(&FailedBuild::of(reason.unwrap_or("the build was cancelled")))
        }
        state => {
            let reason = reason.map_or_else(|| format!("the build is {state}"), str::to_owned);
            progress.note(&format!("the whole log: {}", build.url));
            progress.failure(&FailedBuild {
                step: build.step.as_deref(),
                location: build.location.as_deref(),
                excerpt: &build.excerpt,
                reason: &reason,
                advice: build.advice.as_deref(),
            });
        }
    }
    Ok(())
}

/// How a build stands, as far as a change is told: its state, its attempt, and what it waits for.
type Stands = (BuildState, Option<u32>, Option<String>);

/// Waits until all builds have ended; `changed` gets each at first, and whenever its state has changed.
pub async fn states(
    client: &TimelineClient,
    ids: impl IntoIterator<Item = BuildId>,
    mut changed: impl FnMut(&Build) -> std::io::Result<()>,
) -> Result<Exit, Failure> {
    let mut open: BTreeMap<BuildId, Option<Stands>> = ids.into_iter().map(|id| (id, None)).collect();
    let mut worst = Exit::Done;
    let mut heard = Instant::now();
    loop {
        let asked: Vec<BuildId> = open.keys().cloned().collect();
        let mut answers = futures::stream::iter(asked)
            .map(|id| async move { client.build(&id).await })
            .buffer_unordered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            let build = match answer {
                Ok(detail) => detail.build,
                Err(error) if is_passing(&error) && heard.elapsed() < PATIENCE => {
                    tracing::debug!(%error, "a build's state could not be asked for");
                    continue;
                }
                Err(error) => return Err(explain(error)),
            };
            heard = Instant::now();
            let Some(last) = open.get_mut(&build.id) else { continue };
            let stands = Some((build.state, build.number, build.waiting.clone()));
            if std::mem::replace(last, stands.clone()) != stands {
                changed(&build)?;
            }
            if build.state.is_final() {
                open.remove(&build.id);
                let exit = Exit::of_build(build.state, build.kind);
                if exit as u8 > worst as u8 {
                    worst = exit;
                }
            }
        }
        if open.is_empty() {
            return Ok(worst);
        }
        tokio::time::sleep(ASK).await;
    }
}

fn is_passing(error: &CallError) -> bool {
    matches!(error, CallError::Unreachable { .. } | CallError::Busy { .. })
}

/// A state for people: one line, and below it what went wrong.
pub fn words(build: &Build) -> String {
    use std::fmt::Write;
    let mut text = format!("{}  {}", build.id, build.state);
    // Writing to a String cannot fail.
    match (build.state, &build.worker) {
        (BuildState::Published, _) => {
            let image = build.image.as_deref().unwrap_or("an image without a name");
            let reused = if build.reused { ", which was there already" } else { "" };
            let _ = write!(text, "  {}{reused}", printable(image));
        }
        (state, Some(worker)) if !state.is_final() && state != BuildState::Queued => {
            let _ = write!(text, " on {}, attempt {}", printable(worker), build.number.unwrap_or(1));
        }
        _ => {}
    }
    if let Some(reason) = &build.waiting {
        let _ = write!(text, ", waiting: {}", printable(reason));
    } else if let Some(reason) = build.reason.as_deref().filter(|_| build.state != BuildState::Published) {
        let _ = write!(text, ": {}", printable(reason));
    }
    text.push('\n');
    if build.state == BuildState::Failed {
        if let Some(step) = &build.step {
            let _ = writeln!(text, "  in step {}{}", printable(step), at(build.location.as_deref()));
        }
        for line in &build.excerpt {
            let _ = writeln!(text, "  | {}", printable(line));
        }
        if let Some(advice) = &build.advice {
            let _ = writeln!(text, "  advice: {}", printable(advice));
        }
        let _ = writeln!(text, "  the whole log: {}", printable(&build.url));
    }
    text
}
