//! `buildgrid check`: reads the configuration, reports every fault in it, then probes every part.

use std::fmt::Display;
use std::path::Path;

use super::exit::{Exit, Failure};
use crate::build::docker::DockerEngine;
use crate::config::{Config, InvalidConfig};
use crate::queue::amqp::Broker;
use crate::store::Store;

/// Report every fault of the configuration, then probe broker, engine, store and directories
#[derive(clap::Args)]
#[command(after_help = "\
Changes nothing. Ends with 78 if the configuration is wrong, 69 if a part does not answer.

Example:
  buildgrid --config /etc/buildgrid/worker-config.toml check")]
pub struct Args {}

pub async fn run(
    _: Args,
    file: Option<&Path>,
    loaded: Result<Config, InvalidConfig>,
) -> Result<Exit, Failure> {
    let config = loaded.map_err(|error| Failure::new(Exit::Configuration, error))?;
    let mut report = Report { exit: Exit::Done };
    match file {
        Some(file) => report.good("configuration", file.display()),
        None => {
            report.good("configuration", "no file; every key has its default or comes from the environment")
        }
    }
    data_directory(&mut report, &config);
    store(&mut report, &config);
    engine(&mut report, &config).await;
    broker(&mut report, &config).await;
    Ok(report.exit)
}

/// What cannot be a queue's argument, since it differs between versions of the broker.
const CONSUMER_TIMEOUT: &str = "\
a build longer than the broker's acknowledgement timeout (30 minutes by default) is delivered again, and
      the second delivery waits for the first build; to avoid that on RabbitMQ 3.12 and later:
      rabbitmqctl set_policy buildgrid '^buildgrid\\.builds$' '{\"consumer-timeout\":21600000}' --apply-to queues";

struct Report {
    exit: Exit,
}

impl Report {
    fn good(&self, part: &str, words: impl Display) {
        println!("ok    {part}: {words}");
    }

    /// Something the operator should know, which stops nothing.
    fn note(&self, part: &str, words: impl Display) {
        println!("note  {part}: {words}");
    }

    fn bad(&mut self, part: &str, words: impl Display) {
        println!("FAIL  {part}: {words}");
        self.exit = Exit::Unavailable;
    }
}

fn data_directory(report: &mut Report, config: &Config) {
    let path = &config.worker.data_dir;
    match writable(path) {
        Ok(()) => report.good("worker.data_dir", path.display()),
        Err(error) => report.bad("worker.data_dir", format_args!("{}: {error}", path.display())),
    }
}

/// Whether files can be made in `path` or, before the first start, in the nearest folder above it.
fn writable(path: &Path) -> std::io::Result<()> {
    let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    tempfile::tempfile_in(there).map(drop)
}

fn store(report: &mut Report, config: &Config) {
    let path = &config.store.path;
    match (path.exists(), writable(path)) {
        (_, Err(error)) => report.bad("store", format_args!("{}: {error}", path.display())),
        (false, Ok(())) => {
            report.good("store", format_args!("{}: will be made at the first start", path.display()))
        }
        (true, Ok(())) => match Store::open_read_only(&config.store) {
            Ok(_) => report.good("store", path.display()),
            Err(error) => report.bad("store", error),
        },
    }
}

async fn engine(report: &mut Report, config: &Config) {
    if config.engine.is_none() {
        return report.note("engine", "none: only fake builds can be done");
    }
    let probed = match DockerEngine::connect(&config.engine, config.worker.max_build_timeout) {
        Ok(engine) => engine.probe().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match probed {
        Ok(info) => {
            report.good(
                "engine",
                format_args!(
                    "Docker {} (API {}), {}, {}",
                    info.version, info.api_version, info.platform, info.storage
                ),
            );
            for limit in &info.limits {
                report.note("engine", limit);
            }
        }
        Err(error) => report.bad("engine", format_args!("{error:#}")),
    }
}

async fn broker(report: &mut Report, config: &Config) {
    let broker = Broker::connect(&config.queue, "check");
    match broker.ready().await {
        Ok(()) => {
            report.good("broker", &config.queue.url);
            report.note("broker", CONSUMER_TIMEOUT);
        }
        Err(error) => report.bad("broker", error),
    }
    broker.close().await;
}
