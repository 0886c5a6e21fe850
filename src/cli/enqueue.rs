//! `buildgrid enqueue`: hands over a deploy event, of a file or of flags, and waits for its outcome or
//! follows its log if asked.
//!
//! Where there is a timeline service the event goes there, else onto the broker.

pub mod over_service;
mod wait;

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};

use self::wait::Waiting;
use crate::cli::event::{EventArgs, Prepared};
use crate::cli::exit::{Exit, Failure};
use crate::cli::progress::Progress;
use crate::cli::service;
use crate::config::Config;
use crate::queue::{BrokerError, Queue, QueueConfig, QueueError};

/// Events published at a time.
const IN_FLIGHT: usize = 32;
/// How long the broker may take to confirm an event; it does not answer during an alarm.
const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
With --follow the log goes to standard error, the image's URL alone to standard output.

Examples:
  image=$(buildgrid enqueue event.json --follow)
  buildgrid enqueue event.json --wait
  buildgrid enqueue --namespace acme --app shop \\
      --repository https://git.example.com/acme/storefront.git \\
      --commit 9fceb02d0ae598e95dc970b74767f19372d61af8 --ref refs/heads/main
  buildgrid enqueue --fake --count 100 --wait";

/// Hand over a deploy event to be built
///
/// It goes to the timeline service that the configuration names, else to a `buildgrid up` that runs here,
/// else onto the broker. The event is checked before it is sent, exactly as a worker checks it; a wrong one
/// ends with exit code 11 and the reason. With --wait or --follow the exit code is the build's: 0 published,
/// 10 failed, 11 rejected, 12 cancelled, 13 infrastructure.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    events: EventArgs,
    /// Wait until the build has ended, printing what becomes of it
    #[arg(long, group = "end")]
    wait: bool,
    /// Show the log live, to the build's end; needs the timeline service
    #[arg(short, long, group = "end")]
    follow: bool,
    /// How long to wait or follow at most, such as 90s or 2h
    #[arg(long, default_value = "2h", requires = "end", value_parser = humantime_serde::re::humantime::parse_duration)]
    wait_timeout: Duration,
    /// Where the event goes; by default to the service, if one is known
    #[arg(long, value_enum)]
    via: Option<Via>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Who takes the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Via {
    /// The timeline service
    Service,
    /// RabbitMQ, as Maestro does it
    Broker,
}

pub async fn run(args: Args, config: &Config) -> Result<Exit, Failure> {
    let client = match args.via {
        Some(Via::Broker) => None,
        Some(Via::Service) => Some(service::needed(config).await?),
        None if args.follow => Some(service::needed(config).await?),
        None => service::find(config).await?,
    };
    let out = &mut super::output::stdout();
    match client {
        Some(client) => {
            if let Some(paused) = service::paused(config).await {
                eprintln!("note: {paused}");
            }
            over_service::execute(args, &client, out, &mut Progress::on_stderr()).await
        }
        None => over_broker(args, &config.queue, out).await,
    }
}

/// Onto the broker, writing to `out`.
pub async fn over_broker(
    args: Args,
    config: &QueueConfig,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    if args.follow {
        let error =
            anyhow!("the broker has no logs: --follow goes with the timeline service, --wait with both");
        return Err(Failure::new(Exit::Usage, error));
    }
    let events = args.events.read().await?;
    let queue = Queue::amqp(config, "enqueue");
    queue.ready().await.map_err(explain)?;
    // Before publishing: a fake build may be over before its publisher has turned round.
    let waiting = match args.wait {
        true => Some(Waiting::start(&queue, &events).await.map_err(explain)?),
        false => None,
    };
    publish(&queue, &events).await?;
    tell(&events, args.json, out)?;
    let exit = match waiting {
        None => Exit::Done,
        Some(waiting) => {
            let outcome = waiting.outcome(&queue, args.json, out);
            within(args.wait_timeout, outcome).await?
        }
    };
    queue.close().await;
    Ok(exit)
}

/// What was handed over: each id with the image that it will have.
fn tell(events: &[Prepared], json: bool, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    for Prepared { event, .. } in events {
        if json {
            let line = serde_json::json!({"id": event.id, "image": event.image().to_string()});
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}  {}", event.id, event.image())?;
        }
    }
    Ok(())
}

/// The outcome, if it comes in time.
async fn within(
    limit: Duration,
    outcome: impl Future<Output = Result<Exit, Failure>>,
) -> Result<Exit, Failure> {
    tokio::time::timeout(limit, outcome).await.unwrap_or_else(|_| {
        let limit = humantime_serde::re::humantime::format_duration(limit);
        Err(Failure::unavailable(anyhow!("no outcome within {limit}; the build goes on without us")))
    })
}

async fn publish(queue: &Queue, events: &[Prepared]) -> Result<(), Failure> {
    let publish = async |Prepared { event, body }: &Prepared| {
        let publish = queue.publish_deploy(&event.namespace, &event.app, body.clone());
        tokio::time::timeout(PATIENCE, publish).await.map_or_else(
            |_| {
                let reason = queue.status().blocked.unwrap_or_else(|| "it does not answer".to_owned());
                Err(Failure::unavailable(anyhow!(
                    "the broker does not take the event {}: {reason}",
                    event.id
                )))
            },
            |published| published.map_err(explain),
        )
    };
    futures::stream::iter(events).map(publish).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// The words and exit code for what the queue answers to a publisher.
fn explain(error: QueueError) -> Failure {
    match error {
        QueueError::Broker(BrokerError::Missing(detail)) => Failure::unavailable(anyhow!(
            "no worker has declared its exchanges and queues yet, start one first: {detail}"
        )),
        QueueError::Broker(BrokerError::Unroutable { .. }) => {
            let help = "no worker has declared its queue yet, start one first";
            Failure::unavailable(anyhow::Error::new(error).context(help))
        }
        QueueError::Broker(BrokerError::Settings(_)) => Failure::new(Exit::Configuration, error),
        error => Failure::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        _args: super::Args,
    }

    #[test]
    fn flags_that_need_others_are_refused_alone() {
        let parses =
            |line: &str| Program::try_parse_from(format!("enqueue {line}").split_whitespace()).is_ok();
        assert!(parses("event.json --wait --wait-timeout 3s"));
        assert!(parses("--fake --count 3"));
        assert!(parses("event.json --follow --wait-timeout 3s --via service"));
        assert!(!parses("event.json --wait-timeout 3s"));
        assert!(!parses("event.json --wait --follow"));
        assert!(!parses("event.json --via pigeon"));
    }
}
