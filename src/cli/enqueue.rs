//! `buildgrid enqueue`: publishes a deploy event, of a file or of flags, and waits for its outcome if asked.

mod wait;

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt};

use self::wait::Waiting;
use crate::cli::event::{EventArgs, Prepared};
use crate::cli::exit::{Exit, Failure};
use crate::queue::{BrokerError, Queue, QueueConfig, QueueError};

/// Events published at a time.
const IN_FLIGHT: usize = 32;
/// How long the broker may take to confirm an event; it does not answer during an alarm.
const PATIENCE: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  buildgrid enqueue event.json --wait
  buildgrid enqueue --namespace acme --app shop \\
      --repository https://git.example.com/acme/storefront.git \\
      --commit 9fceb02d0ae598e95dc970b74767f19372d61af8 --ref refs/heads/main
  buildgrid enqueue --fake --count 100 --wait";

/// Publish a deploy event
///
/// The event is checked before it is sent, exactly as a worker checks it; a wrong one ends with exit
/// code 11 and the reason. With --wait the exit code is the build's: 0 published, 10 failed,
/// 11 rejected, 12 cancelled, 13 infrastructure.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    events: EventArgs,
    /// Wait until the build has ended, printing what becomes of it
    #[arg(long)]
    wait: bool,
    /// How long to wait at most, such as 90s or 2h
    #[arg(long, default_value = "2h", requires = "wait", value_parser = humantime_serde::re::humantime::parse_duration)]
    wait_timeout: Duration,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, config: &QueueConfig) -> Result<Exit, Failure> {
    execute(args, config, &mut std::io::stdout()).await
}

/// As [`run`], writing to `out`.
pub async fn execute(
    args: Args,
    config: &QueueConfig,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let events = args.events.read().await?;
    let queue = Queue::amqp(config, "enqueue");
    queue.ready().await.map_err(explain)?;
    // Before publishing: a fake build may be over before its publisher has turned round.
    let waiting = match args.wait {
        true => Some(Waiting::start(&queue, &events).await.map_err(explain)?),
        false => None,
    };
    publish(&queue, &events).await?;
    for Prepared { event, .. } in &events {
        if args.json {
            let line = serde_json::json!({"id": event.id, "image": event.image().to_string()});
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}  {}", event.id, event.image())?;
        }
    }
    let exit = match waiting {
        None => Exit::Done,
        Some(waiting) => {
            let outcome = waiting.outcome(&queue, args.json, out);
            tokio::time::timeout(args.wait_timeout, outcome).await.unwrap_or_else(|_| {
                let limit = humantime_serde::re::humantime::format_duration(args.wait_timeout);
                Err(Failure::unavailable(anyhow!("no outcome within {limit}; the build goes on without us")))
            })?
        }
    };
    queue.close().await;
    Ok(exit)
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
        assert!(!parses("event.json --wait-timeout 3s"));
    }
}
