//! What systemd is told while a daemon runs: that it moves (its watchdog, `WatchdogSec=`), how it is (the line in
//! `systemctl status`), and that its end takes longer (`EXTEND_TIMEOUT_USEC`).
//!
//! A thread looks at [`Pulse`]s, each of which beats while its part moves. It is no task of the runtime, so that
//! it can say in the log what has stopped, the runtime among it, before systemd ends the process.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

use super::printable::printable;
use super::pulse::Pulse;

/// How often the thread looks, at most.
const LOOK: Duration = Duration::from_secs(1);
/// How long what a look needs may be silent where no watchdog says how soon it must be noticed.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long each word asks systemd to wait for the next, while the daemon comes to its end.
const EXTENSION: Duration = Duration::from_secs(60);

/// Answers what has stopped although it must not, if anything has.
pub type Check = Box<dyn FnMut(Instant) -> Option<String> + Send>;

/// How a daemon is, as the thread asks it.
pub struct Vitals {
    /// Beside the runtime and its blocking threads.
    pub checks: Vec<Check>,
    /// One line on how it is.
    pub status: Box<dyn Fn() -> String + Send>,
    /// Cancelled when it is told to end: from then on it may take longer than systemd would wait.
    pub ending: CancellationToken,
}

/// Ends with its last handle.
pub struct Watching {
    _stop: mpsc::Sender<()>,
    tasks: CancellationToken,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// Begins to tell systemd how the daemon is; does nothing where systemd does not listen. Needs a tokio runtime.
pub fn watch(vitals: Vitals) -> anyhow::Result<Option<Watching>> {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Ok(None);
    }
    let interval = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero());
    // A word each third of the interval, and half of it for the rest of the program: so that what stops is told
    // before systemd acts.
    let patience = interval.map_or(PATIENCE, |interval| interval / 2);
    let look = interval.map_or(LOOK, |interval| LOOK.min(interval / 4));
    let tasks = CancellationToken::new();
    let (runtime, blocking) = pulses(look, &tasks);
    let mut checks = vitals.checks;
    checks.push(silence("the async runtime runs no task", runtime, patience));
    checks.push(silence("no blocking thread is free", blocking, patience));
    let thread = Thread {
        feed: interval.map(|interval| interval / 3),
        look,
        checks,
        status: vitals.status,
        ending: vitals.ending,
        fed: None,
        said: String::new(),
        stopped: false,
    };
    let (stop, stopped) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || thread.run(&stopped));
    spawned.context("start the watchdog's thread")?;
    Ok(Some(Watching { _stop: stop, tasks }))
}

/// A check that finds `what` once the pulse has been silent for longer than `patience`.
pub fn silence(what: &'static str, pulse: Pulse, patience: Duration) -> Check {
    Box::new(move |now| {
        let silent = pulse.silent(now);
        (silent > patience).then(|| format!("{what}, for {} s", silent.as_secs()))
    })
}

/// The pulse of the runtime, and that of its blocking threads.
fn pulses(every: Duration, stop: &CancellationToken) -> (Pulse, Pulse) {
    let (runtime, blocking) = (Pulse::default(), Pulse::default());
    let (beats, stopped) = (runtime.clone(), stop.clone());
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        loop {
            beats.beat();
            tokio::time::sleep(every).await;
        }
    }));
    let (beats, stopped) = (blocking.clone(), stop.clone());
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        loop {
            let beats = beats.clone();
            // It fails only when the runtime is ending.
            let _ = tokio::task::spawn_blocking(move || beats.beat()).await;
            tokio::time::sleep(every).await;
        }
    }));
    (runtime, blocking)
}

struct Thread {
    /// How often the watchdog is fed, if there is one.
    feed: Option<Duration>,
    look: Duration,
    checks: Vec<Check>,
    status: Box<dyn Fn() -> String + Send>,
    ending: CancellationToken,
    fed: Option<Instant>,
    said: String,
    stopped: bool,
}

impl Thread {
    fn run(mut self, stop: &mpsc::Receiver<()>) {
        let (mut last, mut excused) = (Instant::now(), false);
        while stop.recv_timeout(self.look) == Err(RecvTimeoutError::Timeout) {
            let now = Instant::now();
            // The whole process stood still (SIGSTOP, a machine out of breath): nobody could beat. Once.
            excused = !excused && now - std::mem::replace(&mut last, now) > self.look * 2;
            self.look(now, excused);
        }
    }

    fn look(&mut self, now: Instant, excused: bool) {
        let status = printable(&(self.status)());
        if status != self.said {
            tell(&[NotifyState::Status(&status)]);
            self.said = status;
        }
        if !self.moves(now, excused) || !self.is_due(now) {
            return;
        }
        let mut words = Vec::new();
        if self.feed.is_some() {
            words.push(NotifyState::Watchdog);
        }
        if self.ending.is_cancelled() {
            let extension = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
            words.push(NotifyState::ExtendTimeoutUsec(extension));
        }
        if !words.is_empty() {
            tell(&words);
        }
    }

    /// Whether everything moves; says in the log, once, what has stopped.
    fn moves(&mut self, now: Instant, excused: bool) -> bool {
        let stopped = match excused && !self.stopped {
            true => None,
            false => self.checks.iter_mut().find_map(|check| check(now)),
        };
        match (&stopped, self.stopped) {
            (Some(what), false) => {
                tracing::error!(
                    "the program does not move: {what}; systemd hears nothing more of it, and is to start it again"
                );
            }
            (None, true) => tracing::warn!("the program moves again"),
            _ => {}
        }
        self.stopped = stopped.is_some();
        !self.stopped
    }

    /// Whether it is time for another word, which is then said.
    fn is_due(&mut self, now: Instant) -> bool {
        let every = self.feed.unwrap_or(LOOK);
        let is_due = self.fed.is_none_or(|fed| now.duration_since(fed) >= every);
        if is_due {
            self.fed = Some(now);
        }
        is_due
    }
}

/// Tells systemd, where it listens: a daemon that was not started by it has nobody to notify.
pub fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pulse_that_is_silent_for_too_long_is_found() {
        let pulse = Pulse::default();
        let mut check = silence("nothing moves", pulse.clone(), PATIENCE);
        assert_eq!(check(Instant::now()), None);
        let later = Instant::now() + PATIENCE + Duration::from_secs(2);
        assert!(check(later).unwrap().starts_with("nothing moves, for 6"));
        pulse.beat();
        assert_eq!(check(Instant::now()), None);
    }

    #[test]
    fn a_word_is_due_from_time_to_time_and_only_while_all_moves() {
        let pulse = Pulse::default();
        let every = Duration::from_secs(10);
        let mut thread = Thread {
            feed: Some(every),
            look: LOOK,
            checks: vec![silence("nothing moves", pulse.clone(), PATIENCE)],
            status: Box::new(String::new),
            ending: CancellationToken::new(),
            fed: None,
            said: String::new(),
            stopped: false,
        };
        let start = Instant::now();
        assert!(thread.is_due(start) && !thread.is_due(start + every / 2) && thread.is_due(start + every));
        assert!(thread.moves(start + PATIENCE / 2, false));
        let late = start + PATIENCE * 2;
        assert!(thread.moves(late, true), "the whole process stood still");
        assert!(!thread.moves(late, false) && !thread.moves(late, false));
        pulse.beat();
        assert!(thread.moves(Instant::now(), false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_wedged_pool_of_blocking_threads_is_told_from_a_runtime_that_runs() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let every = Duration::from_millis(10);
        let stop = CancellationToken::new();
        let (running, blocking) = {
            let _entered = runtime.enter();
            pulses(every, &stop)
        };
        let (free, wedge) = mpsc::channel::<()>();
        runtime.spawn_blocking(move || wedge.recv());
        tokio::time::sleep(every * 50).await;
        let now = Instant::now();
        assert!(blocking.silent(now) > every * 20, "{:?}", blocking.silent(now));
        assert!(running.silent(now) < blocking.silent(now));
        drop(free);
        let freed = async {
            while blocking.silent(Instant::now()) > every * 20 {
                tokio::time::sleep(every).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), freed).await.unwrap();
        stop.cancel();
        runtime.shutdown_background();
    }
}
