//! The sections `worker` and `fake`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use humantime_serde::re::humantime::format_duration;
use serde::{Deserialize, Serialize};

use crate::config::Faults;
use crate::publish::name::Namespace;

/// The most slots of one worker: each has a channel, a build and its spool.
const MAX_SLOTS: usize = 256;

/// The longest that any build may be allowed to take.
const LONGEST_BUILD: Duration = Duration::from_secs(30 * 24 * 3600);
/// The least that is kept of logs.
const LEAST_LOG: ByteSize = ByteSize::mib(1);
/// The shortest time for which outcomes are kept.
const SHORTEST_KEEP: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// The worker's name in logs and results; empty means the machine's host name.
    pub name: String,
    /// Where build directories, mirrors and spools are kept. Used by one process at a time.
    pub data_dir: PathBuf,
    /// How many builds run at once.
    pub slots: usize,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub status_listen: SocketAddr,
    /// The time limit of a build whose event names none. The fetch before it has source.fetch_timeout.
    #[serde(with = "humantime_serde")]
    pub build_timeout: Duration,
    /// The longest time limit an event may have; a longer one is cut to it.
    #[serde(with = "humantime_serde")]
    pub max_build_timeout: Duration,
    /// How long a build may go on without a sign of life: a line of output, or progress that the engine reports.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How long running builds may go on after SIGTERM before they are given back to the queue.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// How long the build directory (event, log, outcome) of an ended build is kept. Within this
    /// time the same event id is answered with the same outcome. Longer where the timeline service does
    /// not have everything yet.
    #[serde(with = "humantime_serde")]
    pub keep_builds: Duration,
    /// The directory with what builds are handed: `secret.<namespace>.<name>`, `git.<namespace>.<name>` for
    /// private repositories, `registry.<namespace>` with logins for registries, and `ssh.<namespace>.<name>` with
    /// keys of an SSH agent; of at most 64 KiB each. Only the worker's user may have access to it. While it cannot be
    /// read, no event is taken. By default systemd's (`$CREDENTIALS_DIRECTORY`), if there is one.
    pub credentials_dir: Option<PathBuf>,
    /// How much of one attempt's log is kept, as it lies on disk. Lines of output beyond it are counted.
    pub max_log: ByteSize,
    /// How much log may lie in the build directories that the timeline service does not have yet. Lines of
    /// output for which there is no room are counted.
    pub max_spool: ByteSize,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            data_dir: PathBuf::from("/var/lib/buildgrid/worker"),
            slots: 2,
            status_listen: SocketAddr::from(([127, 0, 0, 1], 9441)),
            build_timeout: Duration::from_secs(3600),
            max_build_timeout: Duration::from_secs(6 * 3600),
            idle_timeout: Duration::from_secs(3600),
            drain_timeout: Duration::from_secs(3600),
            keep_builds: Duration::from_secs(7 * 24 * 3600),
            credentials_dir: None,
            max_log: ByteSize::gib(1),
            max_spool: ByteSize::gib(10),
        }
    }
}

impl WorkerConfig {
    pub fn check(&self, faults: &mut Faults) {
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            faults.add(
                "worker.slots",
                format_args!("{} is out of range; 1 to {MAX_SLOTS} are possible", self.slots),
            );
        }
        if self.data_dir.as_os_str().is_empty() {
            faults.add("worker.data_dir", "is empty; name a directory");
        }
        if self.credentials_dir.as_ref().is_some_and(|directory| directory.as_os_str().is_empty()) {
            faults.add("worker.credentials_dir", "is empty; name a directory, or leave the key out");
        }
        for (key, size) in [("worker.max_log", self.max_log), ("worker.max_spool", self.max_spool)] {
            if size < LEAST_LOG {
                let least = LEAST_LOG.display().iec();
                faults.add(key, format_args!("{} is less than {least}", size.display().iec()));
            }
        }
        if self.build_timeout.is_zero() {
            faults.add("worker.build_timeout", "is zero; no build could end in time");
        }
        if self.idle_timeout.is_zero() {
            faults.add("worker.idle_timeout", "is zero; no build could end in time");
        }
        if self.max_build_timeout > LONGEST_BUILD {
            faults.add("worker.max_build_timeout", "is longer than 30 days");
        }
        if self.keep_builds < SHORTEST_KEEP {
            faults.add("worker.keep_builds", "is shorter than an hour; an event may come again within that");
        }
        if self.max_build_timeout < self.build_timeout {
            let [most, usual] = [self.max_build_timeout, self.build_timeout].map(format_duration);
            faults.add_pair(
                "worker.max_build_timeout",
                "worker.build_timeout",
                format_args!(
                    "worker.max_build_timeout, {most}, is shorter than worker.build_timeout, {usual}"
                ),
            );
        }
    }

    /// The worker's name: the configured one, else the machine's.
    pub fn resolved_name(&self) -> String {
        match self.name.is_empty() {
            false => self.name.clone(),
            true => hostname::get()
                .map_or_else(|_| "worker".to_owned(), |name| name.to_string_lossy().into_owned()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FakeConfig {
    /// The namespaces in which fake builds are accepted, so that none can take a real image's place.
    pub namespaces: Vec<Namespace>,
}

impl Default for FakeConfig {
    fn default() -> Self {
        let smoke = "smoke".parse().expect("the default namespace follows the grammar");
        Self { namespaces: vec![smoke] }
    }
}

impl FakeConfig {
    /// Nothing to check: each name has been read as a namespace, and none at all allows no fakes.
    pub fn check(&self, _: &mut Faults) {}
}
