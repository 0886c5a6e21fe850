//! `buildgrid build`: one event, right here, without a queue.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::event::{EventArgs, Prepared};
use super::exit::{Exit, Failure};
use super::shutdown::on_signals;
use super::terminal;
use crate::config::Config;
use crate::event::deploy::DeployEvent;
use crate::pipeline::Outcome;
use crate::worker::attempt::{Attempt, Place};
use crate::worker::daemon::assemble;

/// Build one event right here, without a queue: the log goes to standard error, the image's URL to standard output
#[derive(clap::Args)]
#[command(after_help = "\
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
    let (pipeline, data) = assemble(config)?;
    let cancel = CancellationToken::new();
    on_signals(cancel.clone(), CancellationToken::new())?;
    let place = Place {
        worker: config.worker.resolved_name(),
        registry_host: config.registry.host.clone(),
        mirror: terminal::mirror(),
    };
    let attempt = Attempt {
        event: &event,
        body: &body,
        number: 1,
        directory: data.build(&event.id),
        place: &place,
        cancel: &cancel,
    };
    let outcome = attempt.run(&pipeline).await;
    tell(&event, &outcome, &config.registry.host);
    // A run by hand leaves its log, and nothing that would answer a later event of the same id.
    drop(Arc::into_inner(data));
    Ok(match outcome {
        Outcome::Published(_) => Exit::Done,
        Outcome::Failed(_) => Exit::BuildFailed,
        Outcome::Rejected(_) => Exit::Rejected,
        Outcome::Cancelled => Exit::Cancelled,
        Outcome::Infrastructure(_) => Exit::Infrastructure,
    })
}

/// The end in one look: a failure with the step's last lines again, or the image's URL alone on
/// standard output.
fn tell(event: &DeployEvent, outcome: &Outcome, registry_host: &str) {
    match outcome {
        Outcome::Published(_) => println!("{}", event.image().url(registry_host)),
        Outcome::Failed(failure) => {
            eprintln!();
            if let Some(step) = &failure.step {
                eprintln!("{step}");
            }
            failure.excerpt.iter().for_each(|line| eprintln!("    {line}"));
            eprintln!("error: {}", failure.reason);
        }
        Outcome::Rejected(reason) | Outcome::Infrastructure(reason) => eprintln!("error: {reason}"),
        Outcome::Cancelled => eprintln!("cancelled"),
    }
}
