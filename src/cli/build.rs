//! `buildgrid build`: one event, right here, without a queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::daemon::configured;
use super::event::{EventArgs, Prepared};
use super::exit::{Exit, Failure};
use super::permission;
use super::progress::{FailedBuild, Progress};
use super::shutdown::on_signals;
use crate::config::Config;
use crate::event::deploy::DeployEvent;
use crate::pipeline::Outcome;
use crate::worker::attempt::{Attempt, Mirror, Place};
use crate::worker::daemon::assemble;
use crate::worker::janitor;
use crate::worker::secrets::Secrets;

/// How often the last line of a terminal is brought up to date.
const TICK: Duration = Duration::from_secs(1);

/// Build one event right here, without a queue
#[derive(clap::Args)]
#[command(after_help = "\
The log goes to standard error, the image's URL alone to standard output. The build leaves its log in <worker.data_dir>/by-hand/builds/<id>/, apart from the worker's.
Ends with 10 if the build failed, 11 if the event was rejected, 12 after Ctrl-C, 13 if it was not the
build's fault.

Examples:
  buildgrid build event.json
  buildgrid build --namespace acme --app shop --commit 9fceb02d0ae598e95dc970b74767f19372d61af8 \\
      --repository https://git.example.com/acme/storefront.git")]
pub struct Args {
    #[command(flatten)]
    events: EventArgs,
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let events: [Prepared; 1] = args.events.read().await?.try_into().map_err(|events: Vec<_>| {
        Failure::new(Exit::Usage, anyhow::anyhow!("{} events are given; build makes one", events.len()))
    })?;
    let [Prepared { event, body }] = events;
    let secrets = Secrets::new(config);
    configured(&secrets)?;
    permission::refuse_other_owner(&config.store)?;
    let (pipeline, data) = assemble(config, &config.worker.data_dir.join("by-hand"))?;
    let left = data.recover()?;
    if let Some(engine) = &pipeline.engine {
        for id in left.on_engine {
            // The build that follows says what is wrong with the engine, and the next one tries again.
            let _ = engine.abandon(id).await;
        }
    }
    janitor::by_hand(config, &data, &pipeline.sources);
    let cancel = CancellationToken::new();
    let insist = CancellationToken::new();
    on_signals(cancel.clone(), insist.clone())?;
    tokio::spawn(async move {
        insist.cancelled().await;
        std::process::exit(Exit::Cancelled as i32);
    });
    let progress = Shared::default();
    let ticking = tokio::spawn(progress.clone().tick());
    let place = Place {
        worker: config.worker.resolved_name(),
        registry_host: config.registry.host.clone(),
        timeline: None,
        mirror: progress.mirror(),
        secrets,
        max_log: config.worker.max_log.as_u64(),
    };
    let attempt = Attempt {
        event: &event,
        body: &body,
        number: 1,
        directory: data.build(&event.id),
        place: &place,
        cancel: &cancel,
        telling: None,
        on_board: None,
    };
    let outcome = attempt.run(&pipeline).await;
    ticking.abort();
    tell(&event, &outcome, &config.registry.host, &mut progress.lock());
    Ok(match outcome {
        Outcome::Published(_) => Exit::Done,
        Outcome::Failed(_) => Exit::BuildFailed,
        Outcome::Rejected(_) => Exit::Rejected,
        Outcome::Cancelled => Exit::Cancelled,
        Outcome::Infrastructure(_) => Exit::Infrastructure,
    })
}

/// The progress, which the log's writer shows and time changes.
#[derive(Clone)]
struct Shared(Arc<Mutex<Progress>>);

impl Default for Shared {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Progress::on_stderr())))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mirror(&self) -> Mirror {
        let shared = self.clone();
        Arc::new(move |entry| shared.lock().entry(entry))
    }

    async fn tick(self) {
        loop {
            tokio::time::sleep(TICK).await;
            self.lock().tick();
        }
    }
}

/// The end in one look: a failure with the step's last lines again, or the image's URL alone on
/// standard output.
fn tell(event: &DeployEvent, outcome: &Outcome, registry_host: &str, progress: &mut Progress) {
    progress.finish();
    match outcome {
        Outcome::Published(_) => println!("{}", event.image().url(registry_host)),
        Outcome::Failed(failure) => {
            progress.failure(&FailedBuild {
                step: failure.step.as_deref(),
                location: failure.location.as_deref(),
                excerpt: &failure.excerpt,
                reason: &failure.reason,
                advice: failure.advice.as_deref(),
            });
        }
        Outcome::Rejected(reason) | Outcome::Infrastructure(reason) => {
            progress.failure(&FailedBuild::of(reason))
        }
        Outcome::Cancelled => progress.failure(&FailedBuild::of("the build was cancelled")),
    }
}
