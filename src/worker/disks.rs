//! Looks at the disks every few seconds. While one of them is too full, or cannot be written to, the intake's
//! gate is closed: running builds go on. The janitor is told which of them are too full.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::gate::{Gate, Keeper};
use crate::build::docker::DockerEngine;
use crate::config::Live;
use crate::disk::{DiskConfig, Fill, Mark, Short, aside};

/// How often the disks are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a look may take: the file system of a server that is gone answers never.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the engine is asked again where it keeps its data.
const ASK_AGAIN: Duration = Duration::from_secs(60);

const DATA_REMEDY: &str =
    "free space there, lower worker.keep_builds or source.keep_mirrors, or give it a larger disk";
const STORE_REMEDY: &str = "free space there, or move the store to a larger disk (store.path)";
const SPOOL_REMEDY: &str =
    "free space there, or let blobs be written elsewhere until they are in the object store (store.spool)";
const ENGINE_REMEDY: &str = "remove unused images, containers and build cache (docker system prune); an engine that builds for BuildGrid alone has its build cache pruned with engine.dedicated";

/// On which of the disks there is too little space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub data: bool,
    pub store: bool,
    pub engine: bool,
}

impl Pressure {
    pub fn is_any(self) -> bool {
        self.data || self.store || self.engine
    }
}

/// The disks of a worker, and who is told of them.
pub struct Disks {
    live: Live,
    data: Place,
    store: Place,
    engine: Option<Engine>,
    gate: Keeper,
    pressure: watch::Sender<Pressure>,
}

/// The engine, whose place is known once it has answered.
struct Engine {
    engine: DockerEngine,
    place: Option<Place>,
    asked: Option<Instant>,
    /// Why it cannot be watched, as it was told last.
    unwatched: Option<String>,
}

impl Disks {
    /// Looks for the first time.
    pub async fn of(live: Live, engine: Option<DockerEngine>) -> (Self, Gate, watch::Receiver<Pressure>) {
        let config = live.now();
        let (gate, way) = Gate::new("disk", None);
        let (pressure, pressed) = watch::channel(Pressure::default());
        let mut disks = Self {
            live,
            data: Place::new("worker.data_dir", "data", config.worker.data_dir.clone(), DATA_REMEDY),
            store: match config.store.space() {
                (key, path) if config.store.url.is_none() => Place::new(key, "store", path, STORE_REMEDY),
                (key, path) => Place::new(key, "store", path, SPOOL_REMEDY),
            },
            engine: engine.map(|engine| Engine { engine, place: None, asked: None, unwatched: None }),
            gate,
            pressure,
        };
        disks.look().await;
        (disks, way, pressed)
    }

    /// Looks again and again, and at once when the engine says that its disk is full.
    pub async fn watch(mut self) {
        let mut full = self.engine.as_ref().map(|engine| engine.engine.full());
        loop {
            if let Some(engine) = &mut self.engine {
                // One that hangs does not keep the other disks from being looked at.
                let _ = tokio::time::timeout(PATIENCE, engine.find()).await;
            }
            self.look().await;
            let _ = tokio::time::timeout(LOOK, told(&mut full)).await;
        }
    }

    async fn look(&mut self) {
        let marks = self.live.now().disk;
        let engine = async {
            match &mut self.engine {
                Some(engine) => engine.look(marks).await,
                None => None,
            }
        };
        let (data, store, engine) = tokio::join!(self.data.look(marks), self.store.look(marks), engine);
        self.gate.set(sentence(&[&data, &store, &engine]));
        let is_full = |fault: &Option<Fault>| fault.as_ref().is_some_and(|fault| fault.is_full);
        let now = Pressure { data: is_full(&data), store: is_full(&store), engine: is_full(&engine) };
        self.pressure.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}

/// Why no event is taken: one fault for each file system.
fn sentence(faults: &[&Option<Fault>]) -> Option<String> {
    let mut told: Vec<&Fault> = Vec::new();
    for fault in faults.iter().filter_map(|fault| fault.as_ref()) {
        let is_same = |other: &&Fault| other.device == fault.device && other.is_full && fault.is_full;
        if fault.device.is_none() || !told.iter().any(is_same) {
            told.push(fault);
        }
    }
    let words: Vec<_> = told.iter().map(|fault| fault.words.as_str()).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// Resolves once the engine has said that its disk is full.
pub async fn told(full: &mut Option<watch::Receiver<()>>) {
    match full {
        // The engine, which this task has, keeps the other end.
        Some(full) => drop(full.changed().await),
        None => std::future::pending().await,
    }
}

impl Engine {
    /// Asks where it keeps its data. One that is away is asked again, and its gate is closed meanwhile.
    async fn find(&mut self) {
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= ASK_AGAIN);
        if !is_due && (self.place.is_some() || self.unwatched.is_some()) {
            return;
        }
        self.asked = Some(Instant::now());
        match self.engine.root().await {
            Ok(Ok(root)) => {
                if self.place.as_ref().is_none_or(|place| place.path != root) {
                    self.place = Some(Place::new("the Docker engine's data", "engine", root, ENGINE_REMEDY));
                }
            }
            Ok(Err(reason)) => {
                self.place = None;
                self.leave(reason);
            }
            Err(error) => tracing::debug!(%error, "the engine does not say where it keeps its data"),
        }
    }

    async fn look(&mut self, marks: DiskConfig) -> Option<Fault> {
        let place = self.place.as_mut()?;
        match place.measure().await {
            // The engine writes there, and not the worker, which may be let to see it read-only.
            Ok(seen) => place.judge(Ok(Seen { fill: Fill { read_only: false, ..seen.fill }, ..seen }), marks),
            Err(reason) => {
                self.leave(reason);
                None
            }
        }
    }

    /// Says, once for each reason, that it is not watched.
    fn leave(&mut self, reason: String) {
        if self.unwatched.as_ref() != Some(&reason) {
            tracing::info!(reason, "the disk of the Docker engine is not watched");
            self.unwatched = Some(reason);
        }
    }
}

/// A folder whose file system is watched.
struct Place {
    /// What it is called in sentences.
    name: &'static str,
    /// What it is called in metrics.
    label: &'static str,
    path: PathBuf,
    remedy: &'static str,
    is_full: bool,
    /// Whether something is wrong with it, as it was logged last.
    has_fault: bool,
    /// Why the configured marks do not hold for it, as it was logged last.
    misfit: Option<String>,
    /// A look that has not ended yet.
    looking: Option<oneshot::Receiver<io::Result<Seen>>>,
}

/// What a look has found.
#[derive(Debug, Clone, Copy)]
struct Seen {
    fill: Fill,
    /// The number of the file system.
    device: u64,
}

/// Why nothing can be built on a place.
#[derive(Debug, PartialEq)]
struct Fault {
    words: String,
    is_full: bool,
    device: Option<u64>,
}

impl Place {
    fn new(name: &'static str, label: &'static str, path: PathBuf, remedy: &'static str) -> Self {
        Self { name, label, path, remedy, is_full: false, has_fault: false, misfit: None, looking: None }
    }

    async fn look(&mut self, marks: DiskConfig) -> Option<Fault> {
        let seen = self.measure().await;
        self.judge(seen, marks)
    }

    /// Looks, and waits for it only so long; the next call goes on waiting for what has not ended.
    async fn measure(&mut self) -> Result<Seen, String> {
        self.measure_by(PATIENCE, see).await
    }

    async fn measure_by(
        &mut self,
        patience: Duration,
        see: impl FnOnce(&Path) -> io::Result<Seen> + Send + 'static,
    ) -> Result<Seen, String> {
        let looking = match &mut self.looking {
            Some(looking) => looking,
            None => {
                let path = self.path.clone();
                let looking = aside("disk", move || see(&path));
                self.looking.insert(looking.map_err(|error| format!("it cannot be looked at: {error}"))?)
            }
        };
        let Ok(seen) = tokio::time::timeout(patience, looking).await else {
            return Err(format!("the file system of {} does not answer", self.path.display()));
        };
        self.looking = None;
        let seen = seen.unwrap_or_else(|_| Err(io::Error::other("the look has failed")));
        seen.map_err(|error| format!("{} cannot be looked at: {error}", self.path.display()))
    }

    /// What a look means: says so in the log when that has changed.
    fn judge(&mut self, seen: Result<Seen, String>, marks: DiskConfig) -> Option<Fault> {
        let marks = match &seen {
            Ok(seen) => self.fitting(marks, seen.fill.whole()),
            Err(_) => marks,
        };
        if let Ok(seen) = &seen {
            metrics::gauge!("buildgrid_disk_free_bytes", "path" => self.label).set(seen.fill.free as f64);
            self.is_full = marks.too_full(&seen.fill, self.is_full).is_some();
        }
        let fault = self.fault(seen, marks);
        match &fault {
            Some(fault) if !self.has_fault => {
                tracing::warn!(reason = fault.words, "a disk cannot be built on; taking no events");
            }
            None if self.has_fault => {
                tracing::info!(path = %self.path.display(), "{} can be built on again", self.name);
            }
            _ => {}
        }
        self.has_fault = fault.is_some();
        fault
    }

    /// The marks as they hold for a file system of so many bytes. That they are not the configured ones is said once.
    fn fitting(&mut self, marks: DiskConfig, whole: u64) -> DiskConfig {
        let misfit = marks.misfit(whole);
        if let Some(misfit) = misfit.as_ref().filter(|misfit| self.misfit.as_ref() != Some(misfit)) {
            tracing::warn!(path = %self.path.display(), "marks too large for the disk of {}: {misfit}", self.name);
        }
        self.misfit = misfit;
        marks.on(whole)
    }

    fn fault(&self, seen: Result<Seen, String>, marks: DiskConfig) -> Option<Fault> {
        let (name, path) = (self.name, self.path.display());
        let Seen { fill, device } = match seen {
            Ok(seen) => seen,
            Err(reason) => {
                let words = format!("{name}: {reason}; check the disk, its mount and the kernel's log");
                return Some(Fault { words, is_full: self.is_full, device: None });
            }
        };
        let device = Some(device);
        if fill.read_only {
            let words = format!(
                "{path} ({name}) is mounted read-only, as after an error of its disk; check the kernel's log, and mount it read-write"
            );
            return Some(Fault { words, is_full: self.is_full, device });
        }
        let short = marks.too_full(&fill, self.is_full).filter(|_| self.is_full)?;
        let how = match (short, marks.high) {
            (Short::Inodes, _) => {
                format!("has {:.0} % of its inodes in use", fill.inodes_percent().unwrap_or_default())
            }
            (Short::Bytes, Mark::InUse(_)) => format!("is {:.0} % full", fill.percent()),
            (Short::Bytes, Mark::Free(_)) => {
                format!("has {} free", bytesize::ByteSize(fill.free).display().iec())
            }
        };
        let words = format!(
            "{path} ({name}) {how} ({}); {}; the marks are disk.high and disk.low",
            marks.sentence(short),
            self.remedy
        );
        Some(Fault { words, is_full: true, device })
    }
}

fn see(path: &Path) -> io::Result<Seen> {
    Ok(Seen { fill: Fill::of(path)?, device: std::fs::metadata(path)?.dev() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place::new("store.path", "store", path.into(), STORE_REMEDY)
    }

    fn seen(used: u64, device: u64) -> Result<Seen, String> {
        let fill = Fill { used, free: 100 - used, inodes: None, read_only: false };
        Ok(Seen { fill, device })
    }

    #[tokio::test]
    async fn a_file_system_that_hangs_is_waited_for_no_longer_than_that() {
        let mut place = place("/mnt/away");
        let moment = Duration::from_millis(20);
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let hangs = move |_: &Path| {
            ended.recv().unwrap();
            seen(1, 7).map_err(io::Error::other)
        };
        let reason = place.measure_by(moment, hangs).await.unwrap_err();
        assert_eq!(reason, "the file system of /mnt/away does not answer");
        let fault = place.judge(Err(reason), DiskConfig::default()).unwrap();
        assert!(
            fault.words.starts_with("store.path: the file system of /mnt/away does not"),
            "{}",
            fault.words
        );
        // No second thread is put to it.
        assert!(place.measure_by(moment, |_| unreachable!("it is looked at already")).await.is_err());
        end.send(()).unwrap();
        while place.measure_by(moment, |_| unreachable!("the first answers")).await.is_err() {}
        assert_eq!(place.judge(seen(1, 7), DiskConfig::default()), None);
    }

    #[test]
    fn says_how_full_it_is_and_what_helps() {
        let mut place = place("/srv/store");
        assert_eq!(place.judge(seen(89, 7), DiskConfig::default()), None);
        let fault = place.judge(seen(93, 7), DiskConfig::default()).unwrap();
        assert_eq!(
            fault.words,
            "/srv/store (store.path) is 93 % full (high mark 90 %; intake resumes below 85 %); \
             free space there, or move the store to a larger disk (store.path); the marks are disk.high and disk.low"
        );
        assert!(place.judge(seen(86, 7), DiskConfig::default()).is_some());
        assert_eq!(place.judge(seen(84, 7), DiskConfig::default()), None);

        let sizes = DiskConfig { high: "20 B".parse().unwrap(), low: "30 B".parse().unwrap() };
        let fault = place.judge(seen(90, 7), sizes).unwrap();
        assert!(
            fault.words.contains("has 10 B free (high mark 20 B free; intake resumes above 30 B)"),
            "{}",
            fault.words
        );
    }

    #[test]
    fn marks_that_a_disk_cannot_reach_pause_nothing() {
        let mut place = place("/srv/store");
        let sizes = DiskConfig { high: "1 TiB".parse().unwrap(), low: "2 TiB".parse().unwrap() };
        assert_eq!(place.judge(seen(10, 7), sizes), None);
        assert!(place.misfit.as_ref().is_some_and(|misfit| misfit.contains("2.0 TiB")), "{:?}", place.misfit);
        let fault = place.judge(seen(93, 7), sizes).unwrap();
        assert!(fault.words.contains("is 93 % full (high mark 90 %;"), "{}", fault.words);
        assert_eq!(place.judge(seen(84, 7), DiskConfig::default()), None);
        assert_eq!(place.misfit, None);
    }

    #[test]
    fn what_cannot_be_written_to_takes_no_events() {
        let mut place = place("/srv/store");
        let mut broken = seen(1, 7).unwrap();
        broken.fill.read_only = true;
        let fault = place.judge(Ok(broken), DiskConfig::default()).unwrap();
        assert!(fault.words.contains("read-only") && !fault.is_full, "{}", fault.words);
        assert_eq!(place.judge(seen(1, 7), DiskConfig::default()), None);
    }

    #[test]
    fn one_file_system_has_one_sentence() {
        let mut places = ["/a", "/b", "/c"].map(place);
        let marks = DiskConfig::default();
        let faults = [(91, 7), (91, 7), (95, 8)];
        let mut faults: Vec<_> = places
            .iter_mut()
            .zip(faults)
            .map(|(place, (used, device))| place.judge(seen(used, device), marks))
            .collect();
        let words = sentence(&faults.iter().collect::<Vec<_>>()).unwrap();
        assert!(words.contains("/a ") && !words.contains("/b ") && words.contains("/c "), "{words}");
        faults.fill_with(|| None);
        assert_eq!(sentence(&faults.iter().collect::<Vec<_>>()), None);
    }
}
