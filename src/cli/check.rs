//! `buildgrid check`: reads the configuration, reports every fault in it, then probes every part.

mod certificate;
mod keeping;

use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use anyhow::anyhow;

use self::certificate::certificate;
use self::keeping::keeping;
use super::exit::{Exit, Failure};
use super::service;
use crate::build::docker::{DockerEngine, Way};
use crate::config::{Config, InvalidConfig};
use crate::disk::{DiskConfig, Fill, Short};
use crate::publish::name::Namespace;
use crate::queue::Queue;
use crate::queue::embedded::EmbeddedQueue;
use crate::source::credentials::faults as git_credentials;
use crate::store::{Store, StoreError};
use crate::timeline::client::CallError;
use crate::up;
use crate::worker::pause::Paused;
use crate::worker::secrets::Secrets;

/// Report every fault of the configuration, then probe queue, engine, store, timeline and directories
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
    let up = up::adopted(&config);
    if let Some(up) = &up {
        report.note(
            "up",
            format_args!("these are the directories of `buildgrid up` in {}", up.up.data_dir.display()),
        );
    }
    let config = up.clone().unwrap_or(config);
    data_directory(&mut report, &config);
    credentials(&mut report, &config);
    store(&mut report, &config).await;
    public(&mut report, &config);
    engine(&mut report, &config).await;
    disks(&mut report, &config).await;
    match &up {
        None => broker(&mut report, &config).await?,
        Some(config) => up_queue(&mut report, config).await,
    }
    timeline(&mut report, &config, up.is_some()).await;
    keeping(&mut report, &config, up.is_some());
    certificate(&mut report, "registry.tls", config.registry.tls.as_ref(), &config.registry.host);
    certificate(&mut report, "timeline.tls", config.timeline.tls.as_ref(), &config.timeline.host());
    Ok(report.exit)
}

struct Report {
    exit: Exit,
}

impl Report {
    fn line(&self, verdict: &str, part: &str, words: impl Display) {
        // Whoever reads it may have had enough: `buildgrid check | head -1`.
        let _ = writeln!(std::io::stdout(), "{verdict}  {part}: {words}");
    }

    fn good(&self, part: &str, words: impl Display) {
        self.line("ok  ", part, words);
    }

    /// Something the operator should know, which stops nothing.
    fn note(&self, part: &str, words: impl Display) {
        self.line("note", part, words);
    }

    fn bad(&mut self, part: &str, words: impl Display) {
        self.line("FAIL", part, words);
        if self.exit == Exit::Done {
            self.exit = Exit::Unavailable;
        }
    }

    /// With which no daemon would start.
    fn wrong(&mut self, part: &str, words: impl Display) {
        self.line("FAIL", part, words);
        self.exit = Exit::Configuration;
    }
}

fn data_directory(report: &mut Report, config: &Config) {
    let path = &config.worker.data_dir;
    match writable(path) {
        Ok(()) => report.good("worker.data_dir", path.display()),
        Err(error) => report.bad("worker.data_dir", format_args!("{}: {error}", path.display())),
    }
    match Paused::read(path) {
        Ok(None) => {}
        Ok(Some(paused)) => report.note(
            "worker",
            format_args!("{}: it takes no events until `buildgrid worker resume`", paused.words()),
        ),
        // That nobody may look into the directory is said above.
        Err(error) => report.note("worker", format_args!("whether it is paused cannot be seen: {error:#}")),
    }
}

fn credentials(report: &mut Report, config: &Config) {
    let secrets = Secrets::new(config);
    match (secrets.directory(), secrets.check()) {
        (None, _) => report.note(
            "secrets",
            "none: worker.credentials_dir names no directory; builds have no secrets, logins and SSH agents",
        ),
        (Some(directory), Ok(())) => match git_credentials(directory) {
            Ok(faults) if faults.is_empty() => report.good("secrets", directory.display()),
            Ok(faults) => report.bad("secrets", faults.join("; ")),
            Err(error) => report.bad("secrets", error),
        },
        (Some(_), Err(unusable)) => report.wrong("secrets", unusable),
    }
}

/// Whether files can be made in `path` or, before the first start, in the nearest folder above it.
fn writable(path: &Path) -> std::io::Result<()> {
    tempfile::tempfile_in(nearest(path)).map(drop)
}

fn nearest(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"))
}

/// An object store is asked for more than whether it answers: some do not keep the conditions of puts.
async fn objects(report: &mut Report, config: &Config) {
    let (place, config) = (config.store.to_string(), config.store.clone());
    let probed = tokio::task::spawn_blocking(move || {
        let exists = match Store::open_read_only(&config) {
            Ok(_) => true,
            Err(StoreError::NoStore(_)) => false,
            Err(error) => return Err(error),
        };
        Store::probe(&config)?;
        Ok(exists)
    });
    match probed.await {
        Ok(Ok(true)) => report.good("store", place),
        Ok(Ok(false)) => report.good("store", format_args!("{place}: will be made at the first start")),
        Ok(Err(error)) => report.bad("store", error),
        Err(error) => report.bad("store", error),
    }
}

async fn store(report: &mut Report, config: &Config) {
    let Some(path) = config.store.directory() else { return objects(report, config).await };
    match (path.exists(), writable(path)) {
        (_, Err(error)) => report.bad("store", format_args!("{}: {error}", path.display())),
        (false, Ok(())) => {
            report.good("store", format_args!("{}: will be made at the first start", path.display()))
        }
        (true, Ok(())) => match Store::open_read_only(&config.store) {
            Ok(_) => report.good("store", path.display()),
            Err(StoreError::NoStore(_)) => {
                report.good("store", format_args!("{}: will be made at the first start", path.display()));
            }
            Err(error) => report.bad("store", error),
        },
    }
}

/// What the registry gives to everybody.
fn public(report: &mut Report, config: &Config) {
    let namespaces: Vec<_> = config.registry.public_namespaces.iter().map(Namespace::as_str).collect();
    if !namespaces.is_empty() {
        let words = "anybody may pull their images, without a login (registry.public_namespaces)";
        report.note("PUBLIC", format_args!("{}: {words}", namespaces.join(", ")));
    }
}

async fn engine(report: &mut Report, config: &Config) {
    if config.engine.is_none() {
        return report.note("engine", "none: only fake builds can be done");
    }
    let probed = async {
        let engine = DockerEngine::connect(&config.engine, config.worker.max_build_timeout)?;
        let info = engine.probe().await?;
        let refused = match config.publish.source {
            Way::Export => None,
            Way::Auto | Way::EngineStorage => engine.storage_refused().await?,
        };
        anyhow::Ok((info, refused))
    };
    match probed.await {
        Ok((info, refused)) => {
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
            match (refused, config.publish.source) {
                (None, _) => {}
                (Some(reason), Way::EngineStorage) => {
                    report.bad("engine", format_args!("publish.source is \"engine-storage\", but {reason}"));
                }
                (Some(reason), _) => report.note(
                    "engine",
                    format_args!("each image is taken by docker save, which is slower: {reason}"),
                ),
            }
        }
        Err(error) => report.bad("engine", format_args!("{error:#}")),
    }
}

/// How full the disks are that a worker watches, and which it cannot watch.
async fn disks(report: &mut Report, config: &Config) {
    disk(report, config, "worker.data_dir", &config.worker.data_dir).await;
    let (key, path) = config.store.space();
    disk(report, config, key, &path).await;
    if config.engine.is_none() {
        return;
    }
    let root = match DockerEngine::connect(&config.engine, config.worker.max_build_timeout) {
        Ok(engine) => engine.root().await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    match root {
        Ok(Ok(root)) => disk(report, config, ENGINE_DATA, &root).await,
        Ok(Err(reason)) => unwatched(report, &reason),
        // Said already, of the engine.
        Err(_) => unwatched(report, "the engine does not answer"),
    }
}

const ENGINE_DATA: &str = "the Docker engine's data";

fn unwatched(report: &Report, reason: &str) {
    report.note("disk", format_args!("{ENGINE_DATA} cannot be watched: {reason}"));
}

async fn disk(report: &mut Report, config: &Config, name: &str, path: &Path) {
    let marks = config.disk;
    // Before the first start, the nearest folder above it has the disk.
    let there = if name == ENGINE_DATA { path } else { nearest(path) }.to_owned();
    let fill = tokio::task::spawn_blocking(move || Fill::of(&there)).await;
    let path = path.display();
    match fill.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
        Err(error) if name == ENGINE_DATA => unwatched(report, &format!("{path}: {error}")),
        Err(error) => report.bad("disk", format_args!("{name}: {path}: {error}")),
        Ok(fill) if fill.read_only && name != ENGINE_DATA => {
            report.bad("disk", format_args!("{name}: {path} is mounted read-only"));
        }
        Ok(fill) => {
            if let Some(misfit) = marks.misfit(fill.whole()) {
                report.note("disk", format_args!("{name}: {path}: {misfit}"));
            }
            filled(report, marks.on(fill.whole()), &fill, &format!("{name}: {path}"));
        }
    }
}

fn filled(report: &mut Report, marks: DiskConfig, fill: &Fill, place: &str) {
    match marks.too_full(fill, false) {
        None => report.good("disk", format_args!("{place}: {fill} ({})", marks.sentence(Short::Bytes))),
        Some(short) => {
            report.bad("disk", format_args!("{place}: {fill} ({}): no event is taken", marks.sentence(short)))
        }
    }
}

async fn broker(report: &mut Report, config: &Config) -> Result<(), Failure> {
    let url =
        config.queue.resolved_url().map_err(|fault| Failure::new(Exit::Configuration, anyhow!(fault)))?;
    let broker = Queue::amqp(&config.queue, "check");
    match broker.ready().await {
        Ok(()) => {
            report.good("broker", &url);
            report.note("broker", ARGUMENTS);
            report.note("broker", consumer_timeout(config, url.vhost()));
        }
        Err(error) => report.bad("broker", error),
    }
    broker.close().await;
    Ok(())
}

async fn up_queue(report: &mut Report, config: &Config) {
    let directory = up::queue_directory(&config.up.data_dir);
    match EmbeddedQueue::attach(&directory, "check").await {
        Ok(queue) => {
            report.good("queue", directory.display());
            queue.close().await;
        }
        Err(error) => report.bad("queue", error),
    }
}

/// Whether the timeline service answers, and knows the token. What the token may do is not asked: a
/// worker's may not read.
async fn timeline(report: &mut Report, config: &Config, is_up: bool) {
    let client = match service::find(config).await {
        Ok(Some(client)) => client,
        Ok(None) if is_up => {
            let words = "it is part of `buildgrid up`, which does not run now";
            return report.note("timeline", words);
        }
        Ok(None) => {
            if config.policy.is_set() {
                let words = "[policy] is set, and nobody keeps it: timeline.url is empty";
                report.note("policy", words);
            }
            return report
                .note("timeline", "none: timeline.url is empty; workers arbitrate and keep logs alone");
        }
        Err(failure) => return report.bad("timeline", format_args!("{:#}", failure.error)),
    };
    match client.get_json::<serde_json::Value>("builds", &[("limit", "1")]).await {
        Ok(_) => report.good("timeline", client.address()),
        Err(CallError::Refused(problem)) if problem.status == 403 => {
            report.good("timeline", client.address())
        }
        Err(error) => report.bad("timeline", error),
    }
}

/// What would change something to find out.
const ARGUMENTS: &str = "whether existing queues have the arguments they must have is seen when a worker starts, which refuses others";

/// What cannot be a queue's argument, since it differs between versions of the broker.
fn consumer_timeout(config: &Config, vhost: &str) -> String {
    let vhost = percent_encoding::percent_decode_str(vhost).decode_utf8_lossy();
    let pattern = format!("^{}$", config.queue.builds.replace('.', "\\."));
    let milliseconds = config.worker.max_build_timeout.as_millis();
    format!(
        "a build longer than the broker's acknowledgement timeout (30 minutes by default) is delivered again, and \
         the second delivery waits for the first build; to avoid that on RabbitMQ 3.12 and later:\n      \
         rabbitmqctl set_policy --vhost '{vhost}' buildgrid '{pattern}' '{{\"consumer-timeout\":{milliseconds}}}' --apply-to queues"
    )
}
